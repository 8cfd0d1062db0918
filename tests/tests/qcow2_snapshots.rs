//! Internal snapshots by our programs and the real ones: each reads, lists, applies and deletes those of the other.

use std::path::Path;
use tests::{Pair, Whose};

/// Options of images that snapshots are taken of.
const KINDS: [&str; 5] = [
    "cluster_size=64k",
    "cluster_size=2M",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=64k,lazy_refcounts=on",
    "cluster_size=64k,compat=0.10",
];

fn io(whose: Whose, dir: &Path, commands: &[&str]) {
    let commands: Vec<_> = commands.iter().map(|c| format!("-c '{c}'")).collect();
    whose.run(dir, &format!("qemu-io -t writeback -f qcow2 {} a.qcow2", commands.join(" "))).ok();
}

fn img(whose: Whose, dir: &Path, line: &str) -> String {
    whose.run(dir, &format!("qemu-img {line}")).ok()
}

/// Takes two snapshots around writes, the second by another program than the first.
fn prepare(dir: &Path, options: &str, first: Whose, second: Whose) {
    img(first, dir, &format!("create -q -f qcow2 -o {options} a.qcow2 4M"));
    io(first, dir, &["write -q -P 1 0 1M", "write -q -c -P 9 2M 2M"]);
    img(first, dir, "snapshot -c one a.qcow2");
    io(second, dir, &["write -q -P 2 512k 1M", "discard -q 2M 1M", "write -q -z 256k 64k"]);
    img(second, dir, "snapshot -c two a.qcow2");
    io(first, dir, &["write -q -P 3 0 3M"]);
}

const ONE: [&str; 2] = ["read -q -P 1 0 1M", "read -q -P 9 2M 2M"];
const TWO: [&str; 3] = ["read -q -P 2 512k 1M", "read -q -P 0 256k 64k", "read -q -P 1 320k 192k"];

#[test]
fn snapshots_hold_what_was_there_when_they_were_taken() {
    for options in KINDS {
        let pair = Pair::new();
        let dir = pair.dir(Whose::Ours);
        prepare(dir, options, Whose::Ours, Whose::Ours);
        for applies in [Whose::Ours, Whose::Real] {
            img(applies, dir, "snapshot -a one a.qcow2");
            img(Whose::Real, dir, "check -q a.qcow2");
            io(Whose::Real, dir, &ONE);
            img(applies, dir, "snapshot -a two a.qcow2");
            img(Whose::Real, dir, "check -q a.qcow2");
            io(Whose::Ours, dir, &TWO);
        }
        img(Whose::Ours, dir, "snapshot -d one a.qcow2");
        img(Whose::Real, dir, "check -q a.qcow2");
        io(Whose::Real, dir, &TWO);
        img(Whose::Ours, dir, "snapshot -d two a.qcow2");
        img(Whose::Real, dir, "check -q a.qcow2");
        io(Whose::Ours, dir, &TWO);
        assert_eq!(img(Whose::Ours, dir, "snapshot -l a.qcow2"), "");
    }
}

#[test]
fn commands_say_what_the_real_ones_say() {
    let pair = Pair::new();
    prepare(pair.dir(Whose::Real), "cluster_size=64k", Whose::Real, Whose::Real);
    pair.share("a.qcow2");
    pair.prepare("qemu-img create -q -f raw r.raw 1M");
    pair.check(&[
        "snapshot -l a.qcow2",
        "snapshot a.qcow2",
        "snapshot -d nope a.qcow2",
        "snapshot -d 1 a.qcow2",
        "snapshot -a nope a.qcow2",
        "snapshot -l -c x a.qcow2",
        "convert -l nope a.qcow2 b.raw",
        "convert -l snapshot.name=one a.qcow2 b.raw",
        "convert -l snapshot.id=1,snapshot.name=two a.qcow2 b.raw",
        "convert -l snapshot.foo=one a.qcow2 b.raw",
        "measure -O raw -l two a.qcow2",
        "measure -O qcow2 -l two a.qcow2",
        "snapshot -c x r.raw",
        "snapshot -l r.raw",
    ]);
    let read = |whose| std::fs::read(pair.dir(whose).join("b.raw")).unwrap();
    assert!(read(Whose::Ours) == read(Whose::Real), "the snapshots' contents differ");
}

#[test]
fn a_snapshot_of_another_size_brings_its_size_back() {
    let pair = Pair::new();
    let dir = pair.dir(Whose::Ours);
    img(Whose::Ours, dir, "create -q -f qcow2 a.qcow2 1M");
    io(Whose::Ours, dir, &["write -q -P 7 0 1M"]);
    img(Whose::Ours, dir, "snapshot -c small a.qcow2");
    img(Whose::Ours, dir, "resize -q a.qcow2 1G");
    img(Whose::Ours, dir, "snapshot -a small a.qcow2");
    assert!(img(Whose::Real, dir, "info a.qcow2").contains("(1048576 bytes)"));
    img(Whose::Real, dir, "check -q a.qcow2");
    io(Whose::Real, dir, &["read -q -P 7 0 1M"]);
}

#[test]
fn a_snapshot_of_a_disk_that_shrank_since_is_copied_whole() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    img(Whose::Real, dir, "create -q -f qcow2 a.qcow2 3M");
    io(Whose::Real, dir, &["write -P 1 0 64k", "write -P 2 2900k 64k"]);
    img(Whose::Real, dir, "convert -O raw a.qcow2 before.raw");
    img(Whose::Real, dir, "snapshot -c one a.qcow2");
    img(Whose::Real, dir, "resize -q --shrink a.qcow2 1M");
    img(Whose::Ours, dir, "convert -l one -O raw a.qcow2 after.raw");
    img(Whose::Real, dir, "compare -s -f raw -F raw before.raw after.raw");
}

#[test]
fn the_state_of_a_machine_is_kept_behind_the_disk() {
    let pair = Pair::new();
    let dir = pair.dir(Whose::Ours);
    img(Whose::Real, dir, "create -q -f qcow2 a.qcow2 1M");
    io(Whose::Ours, dir, &["write -q -b -P 5 0 300k", "write -q -P 6 0 64k"]);
    img(Whose::Real, dir, "check -q a.qcow2");
    io(Whose::Real, dir, &["read -q -b -P 5 0 300k", "read -q -P 6 0 64k"]);
    io(Whose::Real, dir, &["write -q -b -P 8 100k 64k"]);
    io(Whose::Ours, dir, &["read -q -b -P 8 100k 64k", "read -q -b -P 5 0 100k"]);
}

#[test]
fn refcounts_that_cannot_grow_refuse_a_snapshot_and_leave_the_image_as_it_was() {
    let pair = Pair::new();
    let dir = pair.dir(Whose::Ours);
    img(Whose::Ours, dir, "create -q -f qcow2 -o refcount_bits=1 a.qcow2 1M");
    io(Whose::Ours, dir, &["write -q -P 1 0 256k"]);
    let refused = Whose::Ours.run(dir, "qemu-img snapshot -c x a.qcow2");
    assert_eq!(refused.stderr, "qemu-img: Could not create snapshot 'x': Invalid argument\n");
    img(Whose::Real, dir, "check -q a.qcow2");
    io(Whose::Real, dir, &["read -q -P 1 0 256k", "write -q -P 2 0 64k"]);
}

#[test]
fn hundreds_of_snapshots_come_and_go() {
    let pair = Pair::new();
    let dir = pair.dir(Whose::Ours);
    img(Whose::Real, dir, "create -q -f qcow2 -o cluster_size=4k a.qcow2 1M");
    for i in 0..300 {
        if i % 50 == 0 {
            io(Whose::Ours, dir, &[&format!("write -q -P {} {}k 8k", i / 50 + 1, i)]);
        }
        img(Whose::Ours, dir, &format!("snapshot -c s{i} a.qcow2"));
    }
    img(Whose::Real, dir, "check -q a.qcow2");
    for i in (0..300).step_by(3) {
        img(Whose::Ours, dir, &format!("snapshot -d s{i} a.qcow2"));
    }
    img(Whose::Real, dir, "check -q a.qcow2");
    assert_eq!(img(Whose::Ours, dir, "snapshot -l a.qcow2").lines().count(), 202);
}
