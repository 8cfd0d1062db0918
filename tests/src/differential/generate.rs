//! Command lines of `qemu-img` and `qemu-io`, most of them sensible, some not.

mod io;

use crate::random::Random;

const FILES: [&str; 13] = [
    "a.raw", "h.raw", "s.raw", "q.qcow2", "b.qcow2", "v.qcow2", "c.qcow2", "e.qcow2", "t.qcow2", "x.qcow2",
    "d.qcow2", "l.luks", "nope.raw",
];
const TARGETS: [&str; 5] = ["n.raw", "n.qcow2", "m.qcow2", "a.raw", "no/dir.raw"];
const SIZES: [&str; 16] = [
    "0", "1", "512", "1000", "4k", "64k", "100000", "1M", "1.5M", "3M", "0x1000", "abc", "1kk", "-1", "9E",
    "1.3k",
];
const OFFSETS: [&str; 12] =
    ["0", "1", "511", "512", "4k", "65000", "64k", "128k", "300k", "700k", "1M", "2M"];
const LENGTHS: [&str; 10] = ["0", "1", "512", "513", "4k", "64k", "100k", "300k", "1M", "3G"];
const SECRET: &str = "--object secret,id=s,data=abc";

/// The format that a file of that name has after `line`.
pub(super) fn format_of(name: &str, line: &str) -> &'static str {
    let asked = |format: &str| {
        line.contains(&format!("-O {format}")) || line.contains(&format!("create -f {format}"))
    };
    match name.rsplit_once('.').map(|(_, ext)| ext) {
        Some("qcow2") => "qcow2",
        Some("luks") => "luks",
        _ if line.contains(name) && asked("qcow2") => "qcow2",
        _ => "raw",
    }
}

/// A random command line.
pub(super) fn line(r: &mut Random) -> String {
    // Options that were not chosen leave no blanks: `format_of` looks for whole phrases.
    loose_line(r).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn loose_line(r: &mut Random) -> String {
    match r.below(16) {
        0 => create(r),
        1 => info(r),
        2 => map(r),
        3 => convert(r),
        4 => compare(r),
        5 => resize(r),
        6 => measure(r),
        7 => check(r),
        8 => dd(r),
        9 => rebase_or_commit(r),
        10 => snapshot_or_bitmap(r),
        11 => amend_or_bench(r),
        _ => io::line(r),
    }
}

/// `text`, one time in `n`.
fn maybe<'a>(r: &mut Random, n: u64, text: &'a str) -> &'a str {
    if r.below(n) == 0 { text } else { "" }
}

/// The options that name a file: mostly with its format, sometimes with none or a wrong one.
fn named(r: &mut Random, file: &str) -> String {
    let format = format_of(file, "");
    match (format, r.below(10)) {
        ("luks", 0..=7) => format!("{SECRET} --image-opts driver=luks,key-secret=s,file.filename={file}"),
        ("luks", _) => format!("-f luks {file}"),
        (_, 0) => file.to_owned(),
        (_, 1) => format!("-f {} {file}", r.pick(&["raw", "qcow2", "bogus", "luks"])),
        (_, 2) => format!("--image-opts driver={format},file.filename={file}"),
        (_, 3) => format!(
            "-f {format} 'json:{{\"driver\":\"{format}\",\"file\":{{\"driver\":\"file\",\"filename\":\"{file}\"}}}}'"
        ),
        _ => format!("-f {format} {file}"),
    }
}

fn any_file(r: &mut Random) -> String {
    let file = *r.pick(&FILES);
    named(r, file)
}

/// A file other than `target`; for copies, as those of a file into itself are refused here (docs/differences.md).
fn any_other_file(r: &mut Random, target: &str) -> String {
    let others: Vec<&str> = FILES.into_iter().filter(|file| *file != target).collect();
    let file = *r.pick(&others);
    named(r, file)
}

fn create_options(r: &mut Random) -> String {
    let option = *r.pick(&[
        "cluster_size=4k",
        "cluster_size=1000",
        "compat=0.10",
        "compat=1.1",
        "compat=2",
        "preallocation=metadata",
        "preallocation=full",
        "preallocation=falloc",
        "preallocation=bogus",
        "lazy_refcounts=on",
        "refcount_bits=1",
        "refcount_bits=3",
        "extended_l2=on",
        "bogus=1",
        "size=1M",
        "compression_type=zstd",
        "cluster_size=2M",
        "cluster_size=512,refcount_bits=64",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,preallocation=metadata",
        "data_file=e.raw",
        "data_file=e.raw,data_file_raw=on",
        "compat=v2,cluster_size=8k",
        "compat=0.10,lazy_refcounts=on",
        "compat=0.10,refcount_bits=8",
        "backing_fmt=raw",
        "backing_file=a.raw,backing_fmt=raw",
        "encrypt.format=bogus",
        "encrypt.format=luks,encrypt.key-secret=none",
        "nocow=on",
    ]);
    if r.below(3) == 0 { format!("-o {option}") } else { String::new() }
}

fn create(r: &mut Random) -> String {
    let (target, size) = (*r.pick(&TARGETS), *r.pick(&SIZES));
    let format = *r.pick(&["raw", "qcow2", "qcow2", "qcow2", "bogus"]);
    let options = create_options(r);
    let backing = match r.below(5) {
        0 => "-b a.raw -F raw",
        1 => "-b q.qcow2 -F qcow2",
        2 => *r.pick(&["-b nope -F raw", "-u -b nope -F raw", "-b a.raw", "-F raw"]),
        _ => "",
    };
    let quiet = maybe(r, 4, "-q");
    format!("qemu-img create {quiet} -f {format} {options} {backing} {target} {size}")
}

fn info(r: &mut Random) -> String {
    let extra =
        *r.pick(&["", "", "--output=json", "--output=human", "--backing-chain", "-U", "--output=bogus"]);
    format!("qemu-img info {extra} {}", any_file(r))
}

fn map(r: &mut Random) -> String {
    let start = match r.below(4) {
        0 => format!("-s {}", r.pick(&OFFSETS)),
        1 => format!("-l {}", r.pick(&SIZES)),
        _ => String::new(),
    };
    // Not of an image with a data file, where holes are looked for in different places (docs/differences.md).
    format!("qemu-img map {} {start} {}", maybe(r, 2, "--output=json"), any_other_file(r, "d.qcow2"))
}

fn convert(r: &mut Random) -> String {
    let target = *r.pick(&TARGETS);
    let format =
        if target.ends_with("qcow2") { "qcow2" } else { *r.pick(&["raw", "raw", "raw", "qcow2", "bogus"]) };
    let extra = *r.pick(&[
        "",
        "",
        "",
        "-c",
        "-n",
        "-S 0",
        "-S 4k",
        "-S 100",
        "-m 3",
        "-m 0",
        "-W",
        "-p",
        "-q",
        "-t none",
        "-T writeback",
        "-B a.raw -F raw",
        "--salvage",
        "-C",
        "-r 100M",
        "-U",
        "--target-is-zero",
        "-l bogus",
        "-l one",
        "-l snapshot.name=one",
        "-n --target-is-zero",
        "-c -W",
        "-c -m 1",
        "-S 64k -m 1",
        "--bitmaps",
        "--bitmaps --skip-broken-bitmaps",
        "-B q.qcow2 -F qcow2",
        "-B h.raw -F raw -S 0",
        "-t none -T none",
        "-r bogus",
        "s.raw",
    ]);
    let options = if format == "qcow2" { create_options(r) } else { String::new() };
    let file = any_other_file(r, target);
    format!("qemu-img convert {extra} {options} -O {format} {file} {target}")
}

fn compare(r: &mut Random) -> String {
    if r.below(5) == 0 {
        let [a, b] = ["a.raw", *r.pick(&["h.raw", "q.qcow2", "d.qcow2"])]
            .map(|name| format!("driver={},file.filename={name}", format_of(name, "")));
        return format!("qemu-img compare --image-opts {} {a} {b}", maybe(r, 2, "-s"));
    }
    let (a, b) = (*r.pick(&FILES), *r.pick(&FILES));
    let (f, g) = (format_of(a, ""), format_of(b, ""));
    let extra = *r.pick(&["", "", "-s", "-q", "-p", "-U", "-T none"]);
    format!("qemu-img compare {extra} -f {f} -F {g} {a} {b}")
}

fn resize(r: &mut Random) -> String {
    let file = any_file(r);
    let sign = *r.pick(&["", "", "+", "-"]);
    let extra = *r.pick(&[
        "",
        "",
        "--shrink",
        "--preallocation=metadata",
        "--preallocation=full",
        "--preallocation=falloc",
        "--preallocation=off",
        "--shrink --preallocation=falloc",
        "--shrink -q",
        "-q",
        "--preallocation=x",
    ]);
    format!("qemu-img resize {extra} {file} {sign}{}", r.pick(&SIZES))
}

fn measure(r: &mut Random) -> String {
    let format = *r.pick(&["raw", "qcow2", "luks", "bogus"]);
    let what =
        if r.below(2) == 0 { format!("--size {}", r.pick(&SIZES)) } else { any_other_file(r, "d.qcow2") };
    let options = if format == "qcow2" { create_options(r) } else { String::new() };
    let extra = *r.pick(&["", "", "", "-U", "-l one", "-l bogus"]);
    format!("qemu-img measure {} {extra} {options} -O {format} {what}", maybe(r, 2, "--output=json"))
}

fn check(r: &mut Random) -> String {
    let extra = *r.pick(&[
        "",
        "",
        "--output=json",
        "-r leaks",
        "-r all",
        "-r bogus",
        "-q",
        "-U",
        "-r all -q",
        "-r leaks --output=json",
        "-T none",
    ]);
    format!("qemu-img check {extra} {}", any_file(r))
}

fn dd(r: &mut Random) -> String {
    let file = *r.pick(&FILES);
    // From a file into itself is refused here (docs/differences.md).
    let others: Vec<&str> = TARGETS.into_iter().filter(|target| *target != file).collect();
    let target = *r.pick(&others);
    let format = if target.ends_with("qcow2") { "qcow2" } else { "raw" };
    let extra = *r.pick(&[
        "",
        "bs=4096",
        "bs=1000",
        "count=3",
        "skip=1",
        "bs=65536 count=2 skip=1",
        "bs=0",
        "count=x",
        "bogus=1",
        "skip=9999999",
        "bs=1M",
        "bs=3000 count=7 skip=2",
        "bs=512 count=0",
        "bs=100 skip=5 count=11",
        "-U",
    ]);
    format!("qemu-img dd -f {} -O {format} if={file} of={target} {extra}", format_of(file, ""))
}

fn rebase_or_commit(r: &mut Random) -> String {
    let top = *r.pick(&["b.qcow2", "t.qcow2", "t.qcow2", "q.qcow2", "a.raw"]);
    let format = format_of(top, "");
    if r.below(2) == 0 {
        let extra = *r.pick(&[
            "",
            "",
            "-d",
            "-b a.raw",
            "-b b.qcow2",
            "-b nope",
            "-q",
            "-p",
            "-r 100M",
            "-r x",
            "-t none",
            "-t bogus",
            "-d -b a.raw",
        ]);
        return format!("qemu-img commit {extra} -f {format} {top}");
    }
    let base = *r.pick(&[
        "-b a.raw -F raw",
        "-b b.qcow2 -F qcow2",
        "-b h.raw -F raw",
        "-b nope -F raw",
        "-b ''",
        "-b a.raw",
        "",
    ]);
    let extra = *r.pick(&["", "", "", "-c", "-q", "-t none", "-T none", "-T bogus", "-U"]);
    format!("qemu-img rebase {extra} {} {} {base} -f {format} {top}", maybe(r, 3, "-u"), maybe(r, 4, "-p"))
}

fn snapshot_or_bitmap(r: &mut Random) -> String {
    let file = *r.pick(&["q.qcow2", "q.qcow2", "v.qcow2", "b.qcow2", "a.raw", "nope.raw"]);
    if r.below(2) == 0 {
        let actions = [
            "-c one",
            "-c one",
            "-c two",
            "-a one",
            "-a one",
            "-d one",
            "-d two",
            "-l -c x",
            "-a bogus",
            "-l",
            "-l -U",
            "-q -c one",
        ];
        let action = *r.pick(&actions);
        return format!("qemu-img snapshot {action} {file}");
    }
    let action = *r.pick(&[
        "--add",
        "--add -g 64k",
        "--add -g 1000",
        "--remove",
        "--clear",
        "--enable",
        "--disable",
        "--merge m1",
        "--merge m1 -b q.qcow2 -F qcow2",
        "--merge m2 -b nope -F raw",
        "--add -g 512",
        "--add -g 1G",
        "--add --remove",
        "--add --enable --clear",
        "-b q.qcow2 --add",
        "",
        "--add --disable",
        "--disable --enable --clear",
    ]);
    format!("qemu-img bitmap {action} -f {} {file} {}", format_of(file, ""), r.pick(&["m1", "m2"]))
}

fn amend_or_bench(r: &mut Random) -> String {
    let file = *r.pick(&["q.qcow2", "v.qcow2", "b.qcow2", "a.raw", "x.qcow2"]);
    let format = format_of(file, "");
    if r.below(3) == 0 {
        let extra = *r.pick(&[
            "",
            "-w",
            "-s 1000",
            "-S 8192",
            "-o 512",
            "-d 1",
            "-d 0",
            "-c 0",
            "-w --pattern 300",
            "-w --flush-interval 5",
            "-w --flush-interval 64 --no-drain",
            "-t none -w",
            "-t none",
            "-i threads",
            "-U",
            "-q",
            "-s 100k -o 200k",
            "-d 64 -S 512",
        ]);
        return format!("qemu-img bench -c 20 {extra} -f {format} {file}");
    }
    let option = *r.pick(&[
        "compat=0.10",
        "compat=1.1",
        "lazy_refcounts=on",
        "refcount_bits=8",
        "size=3M",
        "backing_file=a.raw",
        "cluster_size=4k",
        "bogus=1",
        "encryption=on",
        "refcount_bits=5",
        "refcount_bits=1",
        "refcount_bits=64",
        "compat=v3,refcount_bits=32",
        "size=100k",
        "backing_file=a.raw,backing_fmt=raw",
        "backing_file=",
        "data_file=e.raw",
        "compression_type=zstd",
        "extended_l2=on",
        "preallocation=full",
        "lazy_refcounts=off",
        "compat=v2 -o lazy_refcounts=on",
    ]);
    format!("qemu-img amend {} -o {option} -f {format} {file}", maybe(r, 4, "-q"))
}
