//! Command lines of `qemu-img` that copy: `convert` and `dd`.

use super::images::{FILES, any_other, filtered, format_of};
use super::{CACHES, SECRETS, TARGETS, WRITTEN, maybe, often, options, some};
use crate::random::Random;

/// What `convert` may be asked for.
const EXTRAS: [&str; 57] = [
    "-c",
    "-c",
    "-n",
    "-S 0",
    "-S 4k",
    "-S 512",
    "-S 100",
    "-S 16M",
    "-S 17M",
    "-S bogus",
    "-S 64k -m 1",
    "-m 1",
    "-m 3",
    "-m 16",
    "-m 0",
    "-m 17",
    "-m bogus",
    "-W",
    "-W -m 4",
    "-p",
    "-q",
    "-p -q",
    "-U",
    "-C",
    "-C -S 4k",
    "-C -c",
    "-r 100M",
    "-r bogus",
    "-r 0",
    "-B a.raw -F raw",
    "-B a.raw",
    "-B q.qcow2 -F qcow2",
    "-B b.qcow2 -F qcow2",
    "-B h.raw -F raw -S 0",
    "-B nope -F raw",
    "-B a.raw -F bogus",
    "-F raw",
    "--salvage",
    "--salvage -C",
    "--target-is-zero",
    "-n --target-is-zero",
    "-n -c",
    "-n -S 0",
    "-l bogus",
    "-l one",
    "-l 1",
    "-l snapshot.name=one",
    "-l snapshot.id=2",
    "-l snapshot.bogus=2",
    "-l snapshot.id=1,snapshot.name=two",
    "-c -W",
    "-c -m 1",
    "-c -S 0",
    "--bitmaps",
    "--bitmaps --skip-broken-bitmaps",
    "--skip-broken-bitmaps",
    "s.raw",
];

pub(super) fn convert(r: &mut Random) -> String {
    let target = *r.pick(&TARGETS);
    let format = match format_of(target) {
        "raw" => *r.pick(&["raw", "raw", "raw", "qcow2", "qcow", "bogus"]),
        format => format,
    };
    let cache = *r.pick(&CACHES);
    let extra = match r.below(6) {
        0 => format!("-t {cache}"),
        1 => format!("-T {cache}"),
        _ => some(r, &EXTRAS),
    };
    // Into a target that is there without the backing file less is copied by the real tool (docs/differences.md).
    let existing = often(r, 1, 10);
    let extra =
        if (existing || extra.contains("-n")) && extra.contains("-B") { "-n".to_owned() } else { extra };
    let source = if often(r, 1, 8) { filtered(r) } else { any_other(r, target) };
    let target = not_its_base(target, &source);
    if existing {
        let target = existing_target(r);
        return format!("qemu-img convert {SECRETS} {extra} -n --target-image-opts {source} {target}");
    }
    // Compressed, the real tool makes a good image and fails (docs/differences.md).
    let extra = if format == "qcow" { extra.replace("-c", "") } else { extra };
    let options = options::creation(r, format);
    format!("qemu-img convert {} {extra} {options} -O {format} {source} {target}", secrets(&options))
}

/// The target, or another where `source` has it as a backing file: which of its bytes are read before they are written is
/// chance.
fn not_its_base(target: &'static str, source: &str) -> &'static str {
    let above = ["b.qcow2", "f.qcow2", "t.qcow2", "wb.qcow"].iter().any(|name| source.contains(name));
    if target == "a.raw" && above { "n.raw" } else { target }
}

/// A target that is there, by its options. None of the zoo's that is large: copies into it must fit.
fn existing_target(r: &mut Random) -> String {
    let file = *r.pick(&WRITTEN);
    let more = *r.pick(&["", "", ",discard=unmap", ",detect-zeroes=on", ",read-only=on", ",bogus=1"]);
    format!("{}{more}", super::node(file))
}

fn secrets(options: &str) -> &'static str {
    if options.contains("secret") { SECRETS } else { "" }
}

/// What `dd` may be asked for; suffixes are left out.
const OPERANDS: [&str; 24] = [
    "bs=4096",
    "bs=1000",
    "bs=0",
    "bs=-1",
    "bs=bogus",
    "bs=1048576",
    "bs=3000 count=7 skip=2",
    "bs=512 count=0",
    "bs=100 skip=5 count=11",
    "bs=65536 count=2 skip=1",
    "bs=65536 count=100",
    "count=3",
    "count=0",
    "count=x",
    "count=-1",
    "skip=1",
    "skip=2048",
    "skip=9999999",
    "skip=x",
    "bogus=1",
    "bogus",
    "seek=1",
    "-U",
    "if=a.raw",
];

pub(super) fn dd(r: &mut Random) -> String {
    let file = *r.pick(&FILES);
    // From a file into itself is refused here (docs/differences.md).
    let others: Vec<&str> = TARGETS.into_iter().filter(|target| *target != file).collect();
    let target = *r.pick(&others);
    let target = not_its_base(target, file);
    let format = match format_of(target) {
        "luks" => "raw",
        format => format,
    };
    let format = if often(r, 1, 12) { *r.pick(&["bogus", "luks", "qcow2"]) } else { format };
    let extra = some(r, &OPERANDS);
    // A file named twice would be the target.
    let extra = if target == "a.raw" { extra.replace("if=a.raw", "") } else { extra };
    if often(r, 1, 5) {
        let node = super::node(file);
        return format!("qemu-img dd {SECRETS} --image-opts -O {format} if={node} of={target} {extra}");
    }
    let source = format!("{} if={file}", maybe(r, 1, &format!("-f {}", format_of(file))));
    format!("qemu-img dd {source} -O {format} of={target} {extra}")
}
