//! What `info` says about an image with one wrong field: the sentence of the real tool, and where the field is.

use super::images::{Field, KINDS, Kind};
use tests::Pair;

/// Sentences that QEMU's suite wants to see alone; they name the field themselves.
const ALONE: [&str; 3] =
    ["L1 table is too small", "Snapshot table too large", "Unknown incompatible feature: 8000000000000000"];

/// The field of that name among those of an image.
fn find(kind: &Kind, image: &[u8], name: &str) -> Field {
    kind.fields(image).into_iter().find(|field| field.name == name).unwrap()
}

/// Sets fields of the first kind of image of that name, and compares what is said with the real tool and with `text`.
fn says(kind: &str, cases: &[(&str, u64, &str)]) {
    let kind = KINDS.iter().find(|known| known.name == kind).unwrap();
    let pair = Pair::new();
    let good = kind.make(pair.dir(tests::Whose::Real));
    kind.make(pair.dir(tests::Whose::Ours));
    for (name, value, text) in cases {
        let Field { at, width, .. } = find(kind, &good, name);
        let mut bad = good.clone();
        bad[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
        pair.write("a.img", &bad);
        let [ours, real] = pair.run(&format!("qemu-img info {}", kind.named()));
        assert!(ours.code == Some(1) && ours.agrees_with(&real), "{name}:\n ours {ours}\n real {real}");
        let place = format!("offset {at} of the file");
        assert!(ours.stderr.contains(text), "{name}: {text}: {ours}");
        assert!(ours.stderr.contains(&place) || ALONE.contains(text), "{name}: {place}: {ours}");
    }
}

#[test]
fn errors_about_the_header_name_the_field_and_its_offset() {
    says(
        "plain",
        &[
            ("version", 9, "Unsupported qcow2 version 9"),
            ("backing_file_offset", u64::MAX, "Invalid backing file offset"),
            ("cluster_bits", 8, "Unsupported cluster size: 2^8"),
            ("crypt_method", 9, "Unsupported encryption method 9"),
            ("l1_size", 0xffff_ffff, "Active L1 table too large"),
            ("l1_size", 0, "L1 table is too small"),
            ("l1_table_offset", 0x201, "Active L1 table offset invalid"),
            ("refcount_table_offset", 0x201, "Reference count table offset invalid"),
            ("refcount_table_clusters", 0xffff_ffff, "Reference count table too large"),
            ("refcount_table_clusters", 0, "Image does not contain a reference count table"),
            ("nb_snapshots", 0xffff_ffff, "Snapshot table too large"),
            ("snapshots_offset", 0x201, "Snapshot table offset invalid"),
            ("incompatible_features", 1 << 63, "Unknown incompatible feature: 8000000000000000"),
            ("refcount_order", 7, "Reference count entry width too large"),
            ("header_length", 1, "qcow2 header too short"),
            ("header_length", 0xffff_ffff, "qcow2 header exceeds cluster size"),
            ("compression_type", 9, "unknown compression type"),
        ],
    );
    says("version 2", &[("backing_file_size", 0xffff_ffff, "Backing file name too long")]);
}

#[test]
fn errors_about_version_1_name_the_field_and_its_offset() {
    says(
        "qcow",
        &[
            ("backing_file_size", 0xffff_ffff, "Backing file name too long"),
            ("size", 1, "Image size is too small"),
            ("size", u64::MAX, "Image too large"),
            ("cluster_bits", 17, "Cluster size must be between 512 and 64k"),
            ("l2_bits", 1, "L2 table size must be between 512 and 64k"),
            ("crypt_method", 9, "invalid encryption method"),
        ],
    );
}

#[test]
fn errors_about_extensions_name_where_they_are() {
    let kind = &KINDS[0];
    let pair = Pair::new();
    let good = kind.make(pair.dir(tests::Whose::Real));
    kind.make(pair.dir(tests::Whose::Ours));
    let cases = [
        (
            "length of extension 0x23852875",
            0xffff,
            "Header extension too large",
            "length of a header extension",
        ),
        (
            "length of extension 0x23852875",
            8,
            "Invalid extension length",
            "The header extension is at offset",
        ),
        ("nb_bitmaps", 0, "zero bitmaps", "The header extension is at offset"),
        ("bitmap_directory_size", u64::MAX, "bitmap directory size", "The header extension is at offset"),
        ("bitmap type", 9, "type is 9", "Its directory entry is at offset"),
        ("bitmap granularity_bits", 70, "granularity_bits is 70", "Its directory entry is at offset"),
        ("bitmap_table_size", 0, "bitmap_table_size is 0", "Its directory entry is at offset"),
        ("bitmap_table_offset", 3, "bitmap_table_offset is 0x3", "Its directory entry is at offset"),
    ];
    for (name, value, text, place) in cases {
        let Field { at, width, .. } = find(kind, &good, name);
        let mut bad = good.clone();
        bad[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
        pair.write("a.img", &bad);
        let [ours, real] = pair.run(&format!("qemu-img info {}", kind.named()));
        assert!(ours.code == Some(1) && ours.agrees_with(&real), "{name}:\n ours {ours}\n real {real}");
        assert!(ours.stderr.contains(text) && ours.stderr.contains(place), "{name}: {text}, {place}: {ours}");
    }
}
