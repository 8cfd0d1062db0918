//! Command lines of `qemu-img` but for those that copy.

use super::images::{
    BASES, any_but, any_file, any_mapped, any_writable, filtered, format_of, named, writable,
};
use super::{CACHES, OFFSETS, SECRETS, SIZES, TARGETS, copies, maybe, often, options, some};
use crate::random::Random;

pub(super) fn line(r: &mut Random) -> String {
    match r.below(18) {
        0 | 1 => create(r),
        2 => info(r),
        3 => map(r),
        4..=6 => copies::convert(r),
        7 => compare(r),
        8 => resize(r),
        9 => measure(r),
        10 => check(r),
        11 => copies::dd(r),
        12 => rebase(r),
        13 => commit(r),
        14 => snapshot(r),
        15 => bitmap(r),
        16 => amend(r),
        _ => bench(r),
    }
}

fn create(r: &mut Random) -> String {
    let (target, size) = (*r.pick(&TARGETS), *r.pick(&SIZES));
    // The real tool takes a second to find out what a key derivation costs: not too often.
    let format = match r.below(16) {
        0 => "luks",
        1 => "bogus",
        2 | 3 => "qcow",
        4 | 5 => "raw",
        _ => "qcow2",
    };
    let options = options::creation(r, format);
    let backing = if often(r, 2, 5) { *r.pick(&BASES) } else { "" };
    let size = if backing.starts_with("-b") && often(r, 1, 2) { "" } else { size };
    let extra = some(r, &["-q", "-u", "-b ''", "-q -q"]);
    let secrets = if options.contains("secret") { SECRETS } else { "" };
    let line = format!("qemu-img create {secrets} {extra} -f {format} {options} {backing} {target} {size}");
    // A format that we do not know may be known to others (docs/differences.md).
    if extra.contains("-u") {
        line.replace("-F bogus", "-F raw").replace("fmt=bogus", "fmt=raw")
    } else {
        line
    }
}

fn info(r: &mut Random) -> String {
    let extra = some(
        r,
        &[
            "--output=json",
            "--output=human",
            "--backing-chain",
            "-b",
            "-U",
            "--output=bogus",
            "--output json",
        ],
    );
    let file = if often(r, 1, 8) { filtered(r) } else { any_file(r) };
    format!("qemu-img info {extra} {file}")
}

fn map(r: &mut Random) -> String {
    let start = match r.below(5) {
        0 => format!("-s {}", r.pick(&OFFSETS)),
        1 => format!("-l {}", r.pick(&SIZES)),
        2 => format!("-s {} -l {}", r.pick(&SIZES), r.pick(&SIZES)),
        _ => String::new(),
    };
    let extra = some(r, &["-U", "--output=bogus", "--output=human"]);
    format!("qemu-img map {} {start} {extra} {}", maybe(r, 2, "--output=json"), any_mapped(r))
}

fn compare(r: &mut Random) -> String {
    let extra = some(r, &["-s", "-q", "-p", "-U", "-T none", "-T bogus", "-T unsafe", "-s -p"]);
    // How holes are told is another matter than what is in them (docs/differences.md).
    let left_out: &[&str] = if extra.contains("-s") { &["d.qcow2", "o.qcow2", "wb.qcow"] } else { &[] };
    let (a, b) = (any_but(r, left_out), any_but(r, left_out));
    if often(r, 1, 4) {
        let [a, b] = [a, b].map(super::node);
        return format!("qemu-img compare {SECRETS} --image-opts {extra} {a} {b}");
    }
    let format = |r: &mut Random, option: &str, file| match r.below(8) {
        0 => String::new(),
        1 => format!("{option} {}", r.pick(&["raw", "bogus", "qcow2"])),
        _ => format!("{option} {}", format_of(file)),
    };
    format!("qemu-img compare {extra} {} {} {a} {b}", format(r, "-f", a), format(r, "-F", b))
}

fn resize(r: &mut Random) -> String {
    let file = any_writable(r);
    let sign = *r.pick(&["", "", "+", "-"]);
    let extra = some(
        r,
        &[
            "--shrink",
            "--shrink",
            "--preallocation=metadata",
            "--preallocation=full",
            "--preallocation=falloc",
            "--preallocation=off",
            "--preallocation falloc",
            "-q",
            "--preallocation=x",
        ],
    );
    // Bitmaps of nothing are lost by the real tool.
    let size = if file.contains("bm.qcow2") { "512k" } else { *r.pick(&SIZES) };
    // The real tool takes 9 EiB away from little and has much, and makes a whole sector of the first byte (docs/differences.md).
    let size = match (sign, size) {
        ("-", "9E") | (_, "1") => "4k",
        _ => size,
    };
    format!("qemu-img resize {extra} {file} {sign}{size}")
}

fn measure(r: &mut Random) -> String {
    let format = *r.pick(&["raw", "raw", "qcow2", "qcow2", "qcow2", "qcow2", "luks", "qcow", "bogus"]);
    // The other name of a version is not known to the real tool here, nor what does not go together (docs/differences.md).
    let options = options::creation(r, format);
    let options = options.replace("compat=v", "compat=").replace("compat=0.10,extended_l2=on", "compat=0.10");
    let what = if often(r, 1, 2) {
        let secrets = if options.contains("secret") { SECRETS } else { "" };
        format!("{secrets} --size {}", r.pick(&SIZES))
    } else {
        any_mapped(r)
    };
    let extra = some(r, &["-U", "-l one", "-l bogus", "-l snapshot.id=1", "--size 1M", "--output=bogus"]);
    format!("qemu-img measure {} {extra} {options} -O {format} {what}", maybe(r, 2, "--output=json"))
}

fn check(r: &mut Random) -> String {
    let extra = some(
        r,
        &[
            "--output=json",
            "-r leaks",
            "-r all",
            "-r all",
            "-r bogus",
            "-q",
            "-U",
            "-T none",
            "-T bogus",
            "--output=bogus",
        ],
    );
    let damaged = *r.pick(&["leak.qcow2", "lost.qcow2", "dirty.qcow2", "g.qcow2", "r1.qcow2"]);
    let file = if often(r, 1, 3) { named(r, damaged) } else { any_writable(r) };
    format!("qemu-img check {extra} {file}")
}

/// Images with backing files, and some that have none.
const TOPS: [&str; 9] =
    ["b.qcow2", "b.qcow2", "t.qcow2", "t.qcow2", "f.qcow2", "wb.qcow", "q.qcow2", "a.raw", "i.qcow2"];

fn commit(r: &mut Random) -> String {
    let top = *r.pick(&TOPS);
    let cache = *r.pick(&CACHES);
    let extra = some(
        r,
        &[
            "-d",
            "-b a.raw",
            "-b b.qcow2",
            "-b nope",
            "-b ''",
            "-q",
            "-p",
            "-r 100M",
            "-r x",
            "-r 0",
            &format!("-t {cache}"),
            "-d -b a.raw",
        ],
    );
    format!("qemu-img commit {extra} {}", named(r, top))
}

fn rebase(r: &mut Random) -> String {
    let top = *r.pick(&TOPS);
    let cache = *r.pick(&CACHES);
    let base = match r.below(8) {
        0 => "-b ''",
        1 => "-b b.qcow2 -F qcow2",
        2 => "",
        3 => "-b a.raw -F raw",
        _ => r.pick(&BASES),
    };
    let extra =
        some(r, &["-c", "-q", "-U", "-p", &format!("-t {cache}"), &format!("-T {cache}"), "-F bogus"]);
    // Without its backing file, an image has no file name for the real tool, and so no directory for relative names.
    let top = named(r, top).replace(r#","backing":null"#, "");
    format!("qemu-img rebase {extra} {} {base} {top}", maybe(r, 3, "-u"))
}

/// Not on files that get bitmaps: of an image that has both, the real tool's repairs lose the snapshots. Nor where reference
/// counts cannot grow (docs/differences.md for both).
fn snapshot(r: &mut Random) -> String {
    let file = *r.pick(&[
        "q.qcow2", "g.qcow2", "g.qcow2", "g.qcow2", "v.qcow2", "e.qcow2", "f.qcow2", "o.qcow2", "z.qcow2",
        "a.raw", "w.qcow", "nope.raw",
    ]);
    let action = *r.pick(&[
        "-c one",
        "-c one",
        "-c two",
        "-c 'a b'",
        "-c ''",
        "-a one",
        "-a one",
        "-a two",
        "-a 1",
        "-a bogus",
        "-d one",
        "-d two",
        "-d 2",
        "-d bogus",
        "-l -c x",
        "-l",
        "-l -U",
        "-q -c one",
        "-U -c one",
        "",
    ]);
    let format = format_of(file);
    let name = match r.below(6) {
        0 => format!("--image-opts {}", super::node(file)),
        1 => format!("-f {format} {file}"),
        2 => format!("-f {} {file}", r.pick(&["raw", "bogus", "qcow2"])),
        _ => file.to_owned(),
    };
    format!("qemu-img snapshot {action} {name}")
}

fn bitmap(r: &mut Random) -> String {
    let file = *r.pick(&[
        "bm.qcow2", "bm.qcow2", "bm.qcow2", "b.qcow2", "t.qcow2", "d.qcow2", "k.qcow2", "a.raw", "w.qcow",
        "nope.raw",
    ]);
    let action = *r.pick(&[
        "--add",
        "--add -g 64k",
        "--add -g 1000",
        "--add -g 512",
        "--add -g 1G",
        "--add -g 4G",
        "--add -g 0",
        "--add -g bogus",
        "-g 64k --clear",
        "--remove",
        "--clear",
        "--enable",
        "--disable",
        "--merge m1",
        "--merge m2",
        "--merge bogus",
        "--add --merge m1",
        "--merge m1 -b q.qcow2 -F qcow2",
        "--merge m1 -b bm.qcow2 -F qcow2",
        "--merge m1 -b bm.qcow2",
        "--merge m1 -b bm.qcow2 -F raw",
        "--merge m2 -b nope -F raw",
        "--merge m1 -F qcow2",
        "--add --remove",
        "--add --enable --clear",
        "--add --disable",
        "--add --add",
        "--disable --enable --clear",
        "-b q.qcow2 --add",
        "",
    ]);
    let file = if often(r, 1, 6) { named(r, file) } else { format!("-f {} {file}", format_of(file)) };
    format!("qemu-img bitmap {action} {file} {}", r.pick(&["m1", "m2", "m3", "''"]))
}

fn amend(r: &mut Random) -> String {
    let extra = some(r, &["-q", "-p", "-t none", "-t bogus", "-t writethrough"]);
    match r.below(10) {
        0 => {
            let options = options::amendment(r, "luks");
            let file = super::node("l.luks");
            format!(
                "qemu-img amend {SECRETS} {extra} {} -o {options} --image-opts {file}",
                maybe(r, 2, "--force")
            )
        }
        1 => {
            let options = options::encrypted_amendment(r);
            let file = super::node("k.qcow2");
            format!(
                "qemu-img amend {SECRETS} {extra} {} -o {options} --image-opts {file}",
                maybe(r, 2, "--force")
            )
        }
        _ => {
            let file = writable(r);
            let options = options::amendment(r, format_of(file));
            format!("qemu-img amend {extra} {} -o {options} {}", maybe(r, 8, "--force"), named(r, file))
        }
    }
}

fn bench(r: &mut Random) -> String {
    let file = *r.pick(&[
        "q.qcow2", "v.qcow2", "b.qcow2", "e.qcow2", "f.qcow2", "c.qcow2", "a.raw", "h.raw", "s.raw",
        "x.qcow2", "w.qcow", "d.qcow2", "nope.raw",
    ]);
    let extra = some(
        r,
        &[
            "-w",
            "-w",
            "-s 1000",
            "-s 64k",
            "-s 0",
            "-s bogus",
            "-s 100k -o 200k",
            "-s 3G",
            "-S 8192",
            "-S 0",
            "-S bogus",
            "-o 512",
            "-o 2M",
            "-o bogus",
            "-d 1",
            "-d 0",
            "-d bogus",
            "-d 64 -S 512",
            "-c 0",
            "-c 1",
            "-c bogus",
            "-w --pattern 7",
            "-w --pattern 300",
            "--pattern 7",
            "-w --flush-interval 5",
            "-w -d 4 --flush-interval 5",
            "-w --flush-interval 64 --no-drain",
            "--flush-interval 64",
            "-w -d 8 --flush-interval 8 --no-drain",
            "--no-drain",
            "-t none -w",
            "-t none",
            "-t directsync",
            "-t bogus",
            "-i threads",
            "-i bogus",
            "-i native -t none",
            "-n -t none",
            "-U",
            "-q",
        ],
    );
    let format = format_of(file);
    // As it would be guessed, too.
    let format = if often(r, 1, 8) { String::new() } else { format!("-f {format}") };
    format!("qemu-img bench -c 20 {extra} {format} {file}")
}
