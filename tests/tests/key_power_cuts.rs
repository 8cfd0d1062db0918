//! The power goes while keys of a qcow2 image with LUKS inside are changed: what is left opens with a passphrase of before
//! or of after, and the contents are the same.
//!
//! The changes are those of `img key`, made through the driver graph on a disk that keeps a journal ([`tests::disk`]);
//! whole LUKS files are cut like this by the unit tests of the format. Key slots cost next to nothing.

#![forbid(unsafe_code)]

use block::Result;
use block::graph::OpenFlags;
use block::keys::{KeyChange, KeyCost, Keys};
use block::protocol::memory::{Op, power_cuts};
use secret::Registry;
use tests::Whose::{Ours, Real};
use tests::disk::{Change, Disk, Files, Step};
use tests::luks::Bench;

/// The secrets `old`, `new` and `other`: each is its own passphrase.
fn secrets() -> Registry {
    let mut objects = Registry::new([secret::OBJECT_TYPES]);
    for name in ["old", "new", "other"] {
        let _ = objects.add(format!("secret,id={name},data={name}")).unwrap();
    }
    objects
}

fn cheap() -> KeyCost {
    KeyCost { iterations: Some(1000), ..KeyCost::default() }
}

fn flags(writable: bool) -> OpenFlags {
    OpenFlags { writable, no_io: true, no_backing: true, ..OpenFlags::default() }
}

/// Does something with the keys of `image`; gives what was done to the file, and the file.
fn with_keys<T>(
    image: &[u8],
    writable: bool,
    f: impl FnOnce(&dyn Keys, &block::Quiesced<'_>) -> Result<T>,
) -> (Result<T>, Vec<Op>, Vec<u8>) {
    let name = format!("{:?}", std::thread::current().id());
    let disk = Disk::insert(&name, Files::from([("image".to_owned(), image.to_vec())]));
    let opened = tests::disk::open(
        &format!("driver=qcow2,file.driver=journal,file.disk={name},file.file=image"),
        flags(writable),
    );
    let done = opened.and_then(|image| {
        let done = image.node().with_keys(f).expect("the image has key slots");
        done.and_then(|value| image.close().map(|()| value))
    });
    (done, disk.journal().into_iter().map(op).collect(), disk.files().remove("image").unwrap())
}

fn op(step: Step) -> Op {
    match step.change {
        Change::Write(at, bytes) => Op::Write { at, bytes },
        Change::Flush => Op::Flush,
        other => panic!("keys are not changed by {other:?}"),
    }
}

/// The slot that a passphrase opens.
fn opens(image: &[u8], secret: &str) -> Option<usize> {
    let objects = secrets();
    with_keys(image, false, |keys, _| keys.test(objects.secret(secret)?, None)).0.ok()
}

fn changed(image: &[u8], change: &KeyChange<'_>, force: bool) -> (Vec<Op>, Vec<u8>) {
    let (done, ops, after) = with_keys(image, true, |keys, q| keys.change(q, change, force));
    done.unwrap();
    (ops, after)
}

/// At any point of `ops` one of the passphrases opens what is left of `image`.
fn survives(what: &str, image: &[u8], ops: &[Op], passphrases: &[&str]) {
    let mut states = 0;
    power_cuts(image.to_vec(), ops, |left| {
        states += 1;
        let any = passphrases.iter().any(|secret| opens(left, secret).is_some());
        assert!(any, "{what}: state {states} opens with none of {passphrases:?}");
    });
    assert!(states > 10, "{what}: {states}");
}

/// An image that the passphrase `old` opens, with contents.
fn image(bench: &Bench) -> Vec<u8> {
    bench.write("old", b"old");
    let options = "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=1,encrypt.cipher-alg=aes-128";
    let secret = "--object secret,id=k,file=old";
    bench.ok(Ours, &format!("qemu-img convert {secret} -f raw -O qcow2 -o {options} src.raw a"));
    bench.bytes("a")
}

/// Whether the real tool reads the contents with a passphrase.
fn is_whole(bench: &Bench, image: &[u8], passphrase: &str) -> bool {
    bench.write("b", image);
    bench.write("key", passphrase.as_bytes());
    let line = "qemu-img convert --object secret,id=k,file=key --image-opts -O raw \
                driver=qcow2,file.filename=b,encrypt.key-secret=k back";
    bench.ok(Real, line);
    bench.bytes("back") == bench.bytes("src.raw")
}

#[test]
fn a_power_cut_in_any_change_of_keys_inside_qcow2_leaves_a_passphrase() {
    let bench = Bench::new();
    let objects = secrets();
    let secret = |name: &str| objects.secret(name).unwrap();
    let (old, new, other) = (secret("old"), secret("new"), secret("other"));
    let cost = cheap();
    let start = image(&bench);

    let add = KeyChange::Add { opens: old, new: other, slot: Some(6), cost: &cost };
    let (ops, two) = changed(&start, &add, false);
    survives("add", &start, &ops, &["old"]);
    assert_eq!((opens(&two, "old"), opens(&two, "other")), (Some(0), Some(6)));

    let (ops, after) = changed(&start, &KeyChange::Change { old, new, cost: &cost }, false);
    survives("change", &start, &ops, &["old", "new"]);
    assert_eq!((opens(&after, "old"), opens(&after, "new")), (None, Some(0)));
    assert!(is_whole(&bench, &after, "new"));

    let (ops, removed) = changed(&two, &KeyChange::RemoveSlot(0), false);
    survives("remove", &two, &ops, &["other"]);
    assert!(opens(&removed, "old").is_none() && is_whole(&bench, &removed, "other"));

    let saved = with_keys(&start, false, |keys, _| keys.backup()).0.unwrap();
    let (done, ops, restored) = with_keys(&after, true, |keys, q| keys.restore(q, &saved, false));
    done.unwrap();
    survives("restore", &after, &ops, &["old", "new"]);
    assert!(restored == start);
}

#[test]
fn a_forced_change_inside_a_full_qcow2_header_harms_no_other_slot() {
    let bench = Bench::new();
    let objects = secrets();
    let secret = |name: &str| objects.secret(name).unwrap();
    let cost = cheap();
    let mut full = image(&bench);
    for _ in 1..8 {
        let add = KeyChange::Add { opens: secret("old"), new: secret("other"), slot: None, cost: &cost };
        full = changed(&full, &add, false).1;
    }
    let change = KeyChange::Change { old: secret("old"), new: secret("new"), cost: &cost };
    let refused = with_keys(&full, true, |keys, q| keys.change(q, &change, false)).0.unwrap_err();
    assert!(refused.to_string().starts_with("No key slot is free"), "{refused}");
    let (ops, after) = changed(&full, &change, true);
    survives("forced change", &full, &ops, &["other"]);
    assert_eq!((opens(&after, "old"), opens(&after, "new")), (None, Some(0)));
    assert!(is_whole(&bench, &after, "new"));
}

#[test]
fn once_keys_inside_qcow2_are_erased_none_opens_the_image() {
    let bench = Bench::new();
    let start = image(&bench);
    let (ops, after) = changed(&start, &KeyChange::Erase, true);
    assert_eq!(opens(&after, "old"), None);
    let flushed = ops.iter().rposition(|op| *op == Op::Flush).unwrap();
    let written = ops.iter().rposition(|op| *op != Op::Flush).unwrap();
    assert!(flushed > written, "what is done is durable");
    // Nor with the header as it was: the material is gone too.
    let mut revived = after.clone();
    let header = start.windows(6).position(|bytes| bytes == b"LUKS\xba\xbe").unwrap();
    revived[header..header + 592].copy_from_slice(&start[header..header + 592]);
    assert!(opens(&start, "old").is_some() && opens(&revived, "old").is_none());
}
