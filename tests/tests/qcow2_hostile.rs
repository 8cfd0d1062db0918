//! Images that are wrong on purpose: one field at a time is set to something illegal. Our programs end with an error that
//! names what is wrong, never with a panic, and never use more memory than an honest image would.

use nix::sys::resource::{UsageWho, getrusage};
use std::path::Path;
use tests::Whose;

/// The most memory any of the programs may have used, in KiB.
const MEMORY: i64 = 256 << 10;

/// A number in the image.
struct Field {
    name: &'static str,
    at: u64,
    width: usize,
}

const fn field(name: &'static str, at: u64, width: usize) -> Field {
    Field { name, at, width }
}

/// The fields of the header.
const HEADER: [Field; 19] = [
    field("magic", 0, 4),
    field("version", 4, 4),
    field("backing_file_offset", 8, 8),
    field("backing_file_size", 16, 4),
    field("cluster_bits", 20, 4),
    field("size", 24, 8),
    field("crypt_method", 32, 4),
    field("l1_size", 36, 4),
    field("l1_table_offset", 40, 8),
    field("refcount_table_offset", 48, 8),
    field("refcount_table_clusters", 56, 4),
    field("nb_snapshots", 60, 4),
    field("snapshots_offset", 64, 8),
    field("incompatible_features", 72, 8),
    field("refcount_order", 96, 4),
    field("header_length", 100, 4),
    field("compression_type", 104, 1),
    field("extension type", 112, 4),
    field("extension length", 116, 4),
];

/// Illegal or at least remarkable numbers of that many bytes.
fn values(width: usize) -> Vec<u64> {
    let max = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
    let top = max / 2 + 1;
    vec![0, 1, 0x201, top, max / 2, max, top | 0x5_0000, 0x7fff_ffff_0000 & max]
}

fn be(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// An image with data, compressed data, two snapshots and a bitmap.
fn image(dir: &Path) -> Vec<u8> {
    let run = |line: &str| Whose::Ours.run(dir, line).ok();
    run("qemu-img create -q -f qcow2 a.qcow2 4M");
    run("qemu-io -f qcow2 -c 'write -q -P 1 0 256k' -c 'write -q -c 1M 64k' a.qcow2");
    run("qemu-img snapshot -c one a.qcow2");
    run("qemu-io -f qcow2 -c 'write -q -P 2 64k 256k' a.qcow2");
    run("qemu-img snapshot -c two a.qcow2");
    run("qemu-img bitmap --add a.qcow2 b");
    run("qemu-io -f qcow2 -c 'write -q -P 3 2M 64k' a.qcow2");
    std::fs::read(dir.join("a.qcow2")).unwrap()
}

/// The fields of the tables the header points at.
fn table_fields(image: &[u8]) -> Vec<Field> {
    let (l1, reftable, snapshots) = (be(image, 40), be(image, 48), be(image, 64));
    let l2 = be(image, l1) & 0x00ff_ffff_ffff_fe00;
    let mut extension = 112;
    while be(image, extension) >> 32 != 0x2385_2875 {
        extension += 8 + (be(image, extension) & 0xffff_ffff).next_multiple_of(8);
    }
    let directory = be(image, extension + 24);
    let table = be(image, directory);
    vec![
        field("L1 entry", l1, 8),
        field("L2 entry", l2, 8),
        field("L2 entry of compressed data", l2 + 16 * 8, 8),
        field("refcount table entry", reftable, 8),
        field("refcount block entry", be(image, reftable), 2),
        field("snapshot l1_table_offset", snapshots, 8),
        field("snapshot l1_size", snapshots + 8, 4),
        field("snapshot id_str_size", snapshots + 12, 2),
        field("snapshot name_size", snapshots + 14, 2),
        field("snapshot extra_data_size", snapshots + 36, 4),
        field("nb_bitmaps", extension + 8, 4),
        field("reserved field of the bitmaps extension", extension + 12, 4),
        field("bitmap_directory_size", extension + 16, 8),
        field("bitmap_directory_offset", extension + 24, 8),
        field("bitmap_table_offset", directory, 8),
        field("bitmap_table_size", directory + 8, 4),
        field("bitmap flags", directory + 12, 4),
        field("bitmap type", directory + 16, 1),
        field("bitmap granularity_bits", directory + 17, 1),
        field("bitmap name_size", directory + 18, 2),
        field("bitmap extra_data_size", directory + 20, 4),
        field("bitmap table entry", table, 8),
    ]
}

/// What programs do with the image. A disk of any size is not copied as a whole.
const LINES: [&str; 6] = [
    "qemu-img info bad.qcow2",
    "qemu-img check bad.qcow2",
    "qemu-io -r -f qcow2 -c 'read -q 0 1M' -c 'read -q 1M 64k' bad.qcow2",
    "qemu-io -f qcow2 -c 'write -q 0 64k' -c 'write -q 3M 64k' -c 'discard -q 128k 64k' bad.qcow2",
    "qemu-img snapshot -c three bad.qcow2",
    "qemu-img snapshot -d one bad.qcow2",
];

/// Sets the field to every value, and has the programs look at the result.
fn attack(fields: &[Field]) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = image(dir);
    for Field { name, at, width } in fields {
        for value in values(*width) {
            let mut bad = good.clone();
            let at = usize::try_from(*at).unwrap();
            bad[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
            for line in LINES.into_iter().chain(["qemu-img check -r all bad.qcow2"]) {
                std::fs::write(dir.join("bad.qcow2"), &bad).unwrap();
                let ran = Whose::Ours.run(dir, line);
                let fine = ran.code.is_some_and(|code| code < 64) && !ran.stderr.contains("panicked");
                assert!(fine, "{name} = {value:#x}: {line}: {ran}");
            }
        }
    }
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    assert!(used < MEMORY, "{used} KiB");
}

#[test]
fn no_header_makes_a_program_panic_or_eat_memory() {
    attack(&HEADER);
}

#[test]
fn no_table_makes_a_program_panic_or_eat_memory() {
    let dir = tempfile::tempdir().unwrap();
    attack(&table_fields(&image(dir.path())));
}

/// What `info` says about a header with one wrong field.
#[test]
fn errors_name_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = image(dir);
    let cases: [(u64, &[u8], &str); 14] = [
        (4, &[0, 0, 0, 9], "Unsupported qcow2 version 9"),
        (8, &[0xff; 8], "Invalid backing file offset"),
        (20, &[0, 0, 0, 8], "Unsupported cluster size: 2^8"),
        (32, &[0, 0, 0, 9], "Unsupported encryption method 9"),
        (36, &[0xff; 4], "Active L1 table too large"),
        (36, &[0; 4], "L1 table is too small"),
        (40, &[0, 0, 0, 0, 0, 0, 2, 1], "Active L1 table offset invalid"),
        (48, &[0, 0, 0, 0, 0, 0, 2, 1], "Reference count table offset invalid"),
        (56, &[0xff; 4], "Reference count table too large"),
        (60, &[0xff; 4], "Snapshot table too large"),
        (64, &[0, 0, 0, 0, 0, 0, 2, 1], "Snapshot table offset invalid"),
        (72, &[0x80, 0, 0, 0, 0, 0, 0, 0], "Unknown incompatible feature: 8000000000000000"),
        (96, &[0, 0, 0, 7], "Reference count entry width too large"),
        (100, &[0, 0, 0, 1], "qcow2 header too short"),
    ];
    for (at, bytes, text) in cases {
        let mut bad = good.clone();
        let at = usize::try_from(at).unwrap();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(dir.join("bad.qcow2"), &bad).unwrap();
        let ran = Whose::Ours.run(dir, "qemu-img info -f qcow2 bad.qcow2");
        assert!(ran.code == Some(1) && ran.stderr.contains(text), "{text}: {ran}");
    }
}
