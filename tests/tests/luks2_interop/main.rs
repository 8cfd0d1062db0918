//! LUKS2 images, ours and those of the real cryptsetup, each read and changed by the other on plain files.
//!
//! Without device-mapper, contents are proven by cryptsetup's offline re-encryption: it decrypts in place what we encrypted,
//! and encrypts in place what we read. The matrix of parameters is in [`shape`] (all of it when `BLOCKIMG_LONG` is set),
//! headers that are wrong in [`damage`] and [`members`].

#![forbid(unsafe_code)]

mod alone;
mod conversion;
mod damage;
mod keys;
mod layout;
mod members;
mod shape;

use shape::{Kdf, Shape, shapes};
use tests::Whose::Ours;
use tests::luks::Bench;

/// Bytes of the payload: whole sectors of any size, and not whole mebibytes.
const BYTES: usize = 137 * 4096;

/// Bytes in front of the payload.
const HEADER: usize = 16 << 20;

fn bench() -> Bench {
    Bench::with_payload(BYTES)
}

/// Runs cryptsetup, which must end well.
fn cryptsetup(bench: &Bench, line: &str) {
    let ran = bench.cryptsetup(line);
    assert_eq!(ran.code, Some(0), "cryptsetup {line}: {ran}");
}

/// Whether cryptsetup opens the image with the passphrase in the file `key`.
fn opens(bench: &Bench, shape: &Shape, key: &str) -> bool {
    let line = format!("open --test-passphrase --key-file {key} {}", shape.device("a"));
    bench.cryptsetup(&line).code == Some(0)
}

/// Whether we read the payload with the passphrase in the file `key`.
fn reads(bench: &Bench, shape: &Shape, key: &str) -> bool {
    let image = shape.image("a", "k");
    let line =
        format!("qemu-img convert --object secret,id=k,file={key} --image-opts -O raw {image} back.raw");
    let ran = bench.run(Ours, &line);
    ran.code == Some(0) && bench.bytes("back.raw")[..BYTES] == bench.bytes("src.raw")
}

/// Creates an image with our program and writes the payload to it.
fn create_ours(bench: &Bench, shape: &Shape) {
    for name in ["a", "a.header"] {
        let _ = std::fs::remove_file(bench.path(name));
    }
    match shape.detached {
        true => {
            bench.truncate("a", BYTES as u64);
            let options = format!("{},detached-header=on", shape.options());
            bench.ok(Ours, &format!("qemu-img create -q SECRET -f luks -o key-secret=s,{options} a.header"));
        }
        false => {
            let options = shape.options();
            bench.ok(Ours, &format!("qemu-img create -q SECRET -f luks -o key-secret=s,{options} a {BYTES}"));
        }
    }
    bench.fill(Ours, &shape.image("a", "s"));
}

/// Formats with cryptsetup; we write the payload.
fn create_theirs(bench: &Bench, shape: &Shape) {
    for name in ["a", "a.header"] {
        let _ = std::fs::remove_file(bench.path(name));
    }
    bench.truncate("a", (BYTES + if shape.detached { 0 } else { HEADER }) as u64);
    cryptsetup(bench, &format!("luksFormat -q --key-file pw {} {}", shape.format(), shape.device("a")));
    bench.fill(Ours, &shape.image("a", "s"));
}

/// Puts the image through cryptsetup's changes of keys; after each we read the contents.
fn changed_by_cryptsetup(bench: &Bench, shape: &Shape) {
    bench.write("two", b"second");
    bench.write("three", b"third");
    let (device, cost) = (shape.device("a"), shape.kdf.cheap());
    cryptsetup(bench, &format!("luksDump {device}"));
    assert!(opens(bench, shape, "pw"), "cryptsetup does not open it");
    cryptsetup(bench, &format!("luksAddKey -q {cost} --key-file pw {device} two"));
    assert!(reads(bench, shape, "pw") && reads(bench, shape, "two"), "after luksAddKey");
    cryptsetup(bench, &format!("luksChangeKey -q {cost} --key-file two {device} three"));
    assert!(reads(bench, shape, "three") && !reads(bench, shape, "two"), "after luksChangeKey");
    cryptsetup(bench, &format!("luksKillSlot -q --key-file three {device} 0"));
    assert!(reads(bench, shape, "three") && !reads(bench, shape, "pw"), "after luksKillSlot");
    let _ = std::fs::remove_file(bench.path("theirs"));
    let _ = std::fs::remove_file(bench.path("ours"));
    cryptsetup(bench, &format!("luksHeaderBackup --header-backup-file theirs {device}"));
    let header = if shape.detached { "a.header" } else { "a" };
    bench.ok(Ours, &format!("qemu-img key backup -q -f luks {header} ours"));
    assert!(bench.bytes("theirs") == bench.bytes("ours"), "the backups differ");
    cryptsetup(bench, &format!("repair -q {device}"));
    assert!(reads(bench, shape, "three"), "after repair");
    if shape.kdf == Kdf::Pbkdf2 && shape.sector == 512 {
        // What LUKS1 can hold becomes LUKS1, and LUKS2 again.
        for kind in ["luks1", "luks2"] {
            cryptsetup(bench, &format!("convert -q --type {kind} {header}"));
            assert!(reads(bench, shape, "three"), "{shape:?} as {kind}");
            bench.ok(Ours, &format!("qemu-img info --assert encrypted={kind} {header}"));
        }
    }
}

#[test]
fn what_we_create_cryptsetup_opens_and_changes_and_we_read_it_after_each_change() {
    let bench = bench();
    for shape in shapes() {
        create_ours(&bench, &shape);
        assert!(reads(&bench, &shape, "pw"), "{shape:?}");
        changed_by_cryptsetup(&bench, &shape);
    }
}

#[test]
fn what_cryptsetup_creates_we_write_and_it_changes_the_keys() {
    let bench = bench();
    for shape in shapes() {
        create_theirs(&bench, &shape);
        assert!(reads(&bench, &shape, "pw"), "{shape:?}");
        changed_by_cryptsetup(&bench, &shape);
    }
}

#[test]
fn cryptsetup_decrypts_what_we_encrypted() {
    let bench = bench();
    for shape in shapes().into_iter().filter(|shape| !shape.detached) {
        create_ours(&bench, &shape);
        let _ = std::fs::remove_file(bench.path("exported"));
        let line = "reencrypt -q --decrypt --force-offline-reencrypt --header exported --key-file pw a";
        cryptsetup(&bench, line);
        assert!(bench.bytes("a")[..BYTES] == bench.bytes("src.raw"), "{shape:?}");
    }
}

#[test]
fn we_decrypt_what_cryptsetup_encrypted() {
    let bench = bench();
    for shape in shapes().into_iter().filter(|shape| !shape.detached) {
        std::fs::copy(bench.path("src.raw"), bench.path("a")).unwrap();
        bench.truncate("a", BYTES as u64 + (32 << 20));
        let line =
            format!("reencrypt -q --encrypt --reduce-device-size 32M --key-file pw {} a", shape.format());
        cryptsetup(&bench, &line);
        assert!(reads(&bench, &shape, "pw"), "{shape:?}");
    }
}

#[test]
fn a_size_that_is_no_multiple_of_4096_gets_small_sectors_unless_they_were_asked_for() {
    let bench = bench();
    let create = |more: &str, size: u64| {
        let options = format!("key-secret=s,version=2,pbkdf=pbkdf2,pbkdf-iterations=1000{more}");
        bench.run(Ours, &format!("qemu-img create -q SECRET -f luks -o {options} a {size}"))
    };
    create("", 4096 + 512).ok();
    bench.ok(Ours, "qemu-img info --assert sector-size=512 a");
    create("", 8192).ok();
    bench.ok(Ours, "qemu-img info --assert sector-size=4096 a");
    let refused = create(",sector-size=4096", 4096 + 512);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("no multiple of the sector size 4096"), "{refused}");
}
