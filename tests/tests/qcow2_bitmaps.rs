//! Persistent dirty bitmaps: kept up to date by our programs, read by the real ones, and the other way round.

use std::path::Path;
use tests::{Pair, Whose};

fn img(whose: Whose, dir: &Path, line: &str) -> String {
    whose.run(dir, &format!("qemu-img {line}")).ok()
}

fn io(whose: Whose, dir: &Path, commands: &[&str]) {
    let commands: Vec<_> = commands.iter().map(|c| format!("-c '{c}'")).collect();
    whose.run(dir, &format!("qemu-io -t writeback -f qcow2 {} a.qcow2", commands.join(" "))).ok();
}

/// Merges bitmap `name` into a fresh one of granularity 512, and gives the clusters of its bits as they are in the file:
/// how many bits are set.
fn dirty_bits(dir: &Path, name: &str) -> u32 {
    let copy = dir.join("copy.qcow2");
    std::fs::copy(dir.join("a.qcow2"), &copy).unwrap();
    img(Whose::Real, dir, &format!("bitmap --add -g 512 --disable --merge {name} copy.qcow2 probe"));
    let json = img(Whose::Real, dir, "info --output=json copy.qcow2");
    assert!(json.contains("probe"), "{json}");
    bits_in_file(&std::fs::read(copy).unwrap(), "probe")
}

fn be(bytes: &[u8], at: u64, len: u64) -> u64 {
    let (at, end) = (usize::try_from(at).unwrap(), usize::try_from(at + len).unwrap());
    bytes[at..end].iter().fold(0, |value, b| value << 8 | u64::from(*b))
}

/// How many bits of the bitmap called `name` are set in an image with clusters of 64 KiB (specification, "Bitmaps").
fn bits_in_file(image: &[u8], name: &str) -> u32 {
    let mut at = be(image, 100, 4);
    while be(image, at, 4) != 0x2385_2875 {
        at += 8 + be(image, at + 4, 4).next_multiple_of(8);
    }
    let (count, mut entry) = (be(image, at + 8, 4), be(image, at + 24, 8));
    for _ in 0..count {
        let (name_len, extra) = (be(image, entry + 18, 2), be(image, entry + 20, 4));
        let text = usize::try_from(entry + 24 + extra).unwrap();
        if &image[text..text + usize::try_from(name_len).unwrap()] == name.as_bytes() {
            let (table, entries) = (be(image, entry, 8), be(image, entry + 8, 4));
            let clusters = (0..entries).map(|i| be(image, table + i * 8, 8)).filter(|at| *at > 1);
            let ones = |at: u64| {
                let at = usize::try_from(at).unwrap();
                image[at..at + 65536].iter().map(|b| b.count_ones()).sum::<u32>()
            };
            return clusters.map(ones).sum();
        }
        entry += (24 + extra + name_len).next_multiple_of(8);
    }
    panic!("there is no bitmap {name}");
}

#[test]
fn every_kind_of_write_is_recorded_and_saved() {
    let pair = Pair::new();
    let dir = pair.dir(Whose::Ours);
    img(Whose::Ours, dir, "create -q -f qcow2 a.qcow2 10M");
    img(Whose::Ours, dir, "bitmap --add -g 64k a.qcow2 on");
    img(Whose::Ours, dir, "bitmap --add --disable -g 64k a.qcow2 off");
    io(Whose::Ours, dir, &["write -q 0 1", "write -q -z 1M 64k", "discard -q 2M 128k", "write -q -c 3M 64k"]);
    img(Whose::Real, dir, "check -q a.qcow2");
    assert_eq!((dirty_bits(dir, "on"), dirty_bits(dir, "off")), (5 * 128, 0));
    io(Whose::Real, dir, &["write -q 5M 64k"]);
    img(Whose::Ours, dir, "bitmap --enable a.qcow2 off");
    io(Whose::Ours, dir, &["write -q 6M 64k"]);
    img(Whose::Ours, dir, "bitmap --merge on a.qcow2 off");
    assert_eq!((dirty_bits(dir, "on"), dirty_bits(dir, "off")), (7 * 128, 7 * 128));
    img(Whose::Ours, dir, "bitmap --clear a.qcow2 on");
    assert_eq!(dirty_bits(dir, "on"), 0);
    img(Whose::Ours, dir, "bitmap --remove a.qcow2 on");
    img(Whose::Ours, dir, "bitmap --remove a.qcow2 off");
    assert!(!img(Whose::Real, dir, "info a.qcow2").contains("bitmaps"));
    img(Whose::Real, dir, "check -q a.qcow2");
}

#[test]
fn bitmaps_follow_the_size_of_the_disk() {
    let pair = Pair::new();
    let dir = pair.dir(Whose::Ours);
    img(Whose::Real, dir, "create -q -f qcow2 a.qcow2 10M");
    img(Whose::Real, dir, "bitmap --add a.qcow2 b");
    io(Whose::Ours, dir, &["write -q 9M 1M"]);
    img(Whose::Ours, dir, "resize -q a.qcow2 2G");
    img(Whose::Real, dir, "check -q a.qcow2");
    assert_eq!(dirty_bits(dir, "b"), 2048);
    img(Whose::Ours, dir, "resize -q --shrink a.qcow2 9728k");
    img(Whose::Real, dir, "check -q a.qcow2");
    assert_eq!(dirty_bits(dir, "b"), 1024);
}

#[test]
fn a_writer_that_dies_leaves_inconsistent_bitmaps_which_can_only_be_removed() {
    let pair = Pair::new();
    pair.prepare("qemu-img create -q -f qcow2 a.qcow2 1M");
    pair.prepare("qemu-img bitmap --add a.qcow2 b");
    let killed =
        Whose::Ours.run(pair.dir(Whose::Ours), "qemu-io -f qcow2 -c 'write -q 0 64k' -c abort a.qcow2");
    assert_eq!(killed.code, None);
    Whose::Real.run(pair.dir(Whose::Real), "qemu-io -f qcow2 -c 'write -q 0 64k' -c abort a.qcow2");
    pair.check(&[
        "bitmap --clear a.qcow2 b",
        "bitmap --enable a.qcow2 b",
        "convert --bitmaps -O qcow2 a.qcow2 c.qcow2",
        "convert --bitmaps --skip-broken-bitmaps -O qcow2 a.qcow2 c.qcow2",
        "bitmap --remove a.qcow2 b",
        "check -q a.qcow2",
    ]);
}

#[test]
fn commands_say_what_the_real_ones_say() {
    let pair = Pair::new();
    pair.prepare("qemu-img create -q -f qcow2 a.qcow2 1M");
    pair.prepare("qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M");
    pair.check(&[
        "bitmap a.qcow2 b",
        "bitmap --add a.qcow2",
        "bitmap --add -g 100 a.qcow2 b",
        "bitmap --add -g 8G a.qcow2 b",
        "bitmap --add a.qcow2 b",
        "bitmap --add a.qcow2 b",
        "bitmap --remove a.qcow2 c",
        "bitmap --merge c a.qcow2 b",
        "bitmap -g 1k --remove a.qcow2 b",
        "bitmap -b x --add a.qcow2 c",
        "bitmap -F qcow2 --add a.qcow2 c",
        "bitmap --merge b -b nofile -F qcow2 a.qcow2 b",
        "bitmap --add --disable -g 1k a.qcow2 c",
        "bitmap --add --remove --add a.qcow2 d",
        "measure -O qcow2 a.qcow2",
        "measure -O qcow2 -o compat=0.10 a.qcow2",
        "measure -O raw a.qcow2",
        "convert --bitmaps -O raw a.qcow2 b.raw",
        "convert --bitmaps -O qcow2 a.qcow2 c.qcow2",
        "measure -O qcow2 c.qcow2",
        "check -q c.qcow2",
    ]);
}

#[test]
fn bitmaps_a_program_without_them_left_behind_are_forgotten() {
    let pair = Pair::new();
    let dir = pair.dir(Whose::Ours);
    img(Whose::Ours, dir, "create -q -f qcow2 a.qcow2 1M");
    img(Whose::Ours, dir, "bitmap --add a.qcow2 b");
    let path = dir.join("a.qcow2");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[88..96].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let info = Whose::Ours.run(dir, "qemu-img info a.qcow2");
    assert!(info.stderr.contains("a program lacking bitmap support modified this file"), "{info}");
    assert!(!info.stdout.contains("bitmaps"), "{info}");
    let checked = Whose::Ours.run(dir, "qemu-img check -r all a.qcow2");
    assert_eq!(checked.code, Some(0), "{checked}");
    img(Whose::Real, dir, "check -q a.qcow2");
}

/// What a program complained of, without the numbers of nodes.
fn complaints(stderr: &str) -> String {
    let pieces = stderr.split("#block").enumerate();
    pieces
        .map(|(i, piece)| if i == 0 { piece } else { piece.trim_start_matches(|c: char| c.is_ascii_digit()) })
        .collect()
}

#[test]
fn bitmaps_that_find_no_room_are_lost_aloud_and_leak_nothing() {
    let image = r#"json:{"driver":"qcow2","file":{"driver":"raw","size":"1M","file":{"driver":"file","filename":"a.qcow2"}}}"#;
    let lost = "Lost persistent bitmaps during inactivation of node '': Failed to write bitmap 'a' to file: No space left";
    for (bytes, line) in
        [("64k", format!("qemu-io -c 'w 0 576k' '{image}'")), ("576k", "qemu-img commit -d top".into())]
    {
        let pair = Pair::new();
        pair.prepare("qemu-img create -q -f qcow2 a.qcow2 64M");
        pair.prepare("qemu-img bitmap --add a.qcow2 a");
        pair.prepare("qemu-io -f raw -c 'truncate 1M' a.qcow2");
        pair.prepare(&format!("qemu-img create -q -f qcow2 -b '{image}' -F qcow2 top"));
        pair.prepare(&format!("qemu-io -f qcow2 -c 'w 0 {bytes}' top"));
        let [ours, real] = pair.run(&line);
        assert_eq!(complaints(&ours.stderr), complaints(&real.stderr), "{line}");
        assert!(complaints(&ours.stderr).contains(lost) && !ours.stdout.contains("committed"), "{ours}");
        Whose::Real.run(pair.dir(Whose::Ours), "qemu-img check -q a.qcow2").ok();
        let past = format!("qemu-io -c 'w 1M 1M' '{image}'");
        let [ours, real] = pair.run(&past);
        assert_eq!((ours.code, complaints(&ours.stdout)), (Some(1), complaints(&real.stdout)));
        assert!(ours.stdout.starts_with("write failed: No space left"), "{ours}");
    }
}
