//! Feature bits of the header, and the table of their names that version 3 images carry.

use bitflags::bitflags;

bitflags! {
    /// Features that forbid opening to whoever does not know them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Incompatible: u64 {
        /// Refcounts may be wrong.
        const DIRTY = 1 << 0;
        /// Anything may be wrong.
        const CORRUPT = 1 << 1;
        /// Guest data is in another file.
        const DATA_FILE = 1 << 2;
        /// Compressed clusters are not zlib.
        const COMPRESSION = 1 << 3;
        /// L2 entries have subclusters.
        const EXTENDED_L2 = 1 << 4;
        const _ = !0;
    }
}

bitflags! {
    /// Features that may be ignored.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Compatible: u64 {
        /// Refcounts may be updated lazily.
        const LAZY_REFCOUNTS = 1 << 0;
        const _ = !0;
    }
}

bitflags! {
    /// Features that must be cleared by a writer who does not know them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Autoclear: u64 {
        /// The bitmaps extension is consistent.
        const BITMAPS = 1 << 0;
        /// The data file is a raw image by itself.
        const RAW_DATA_FILE = 1 << 1;
        const _ = !0;
    }
}

impl Incompatible {
    /// What we know.
    pub(super) const KNOWN: Incompatible = Incompatible::DIRTY
        .union(Incompatible::CORRUPT)
        .union(Incompatible::DATA_FILE)
        .union(Incompatible::COMPRESSION)
        .union(Incompatible::EXTENDED_L2);
}

impl Autoclear {
    /// What we know.
    pub(super) const KNOWN: Autoclear = Autoclear::BITMAPS.union(Autoclear::RAW_DATA_FILE);
}

/// Bytes of an entry of the feature name table.
pub(super) const NAME_ENTRY: usize = 48;

/// The names we write: kind (0 incompatible, 1 compatible, 2 autoclear), bit and name.
const NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The feature name table as we write it.
pub(super) fn name_table() -> Vec<u8> {
    let mut table = vec![0; NAMES.len() * NAME_ENTRY];
    for (entry, (kind, bit, name)) in table.chunks_mut(NAME_ENTRY).zip(NAMES) {
        (entry[0], entry[1]) = (kind, bit);
        entry[2..2 + name.len()].copy_from_slice(name.as_bytes());
    }
    table
}

/// What an image calls the unknown incompatible features `bits`, for the message that refuses it.
pub(super) fn describe_unknown(bits: Incompatible, table: &[u8]) -> String {
    let mut left = bits.bits();
    let mut names = Vec::new();
    // The last name may be cut short.
    for entry in table.chunks(NAME_ENTRY).filter(|entry| entry.len() > 2) {
        let bit = 1u64.checked_shl(entry[1].into()).unwrap_or(0);
        if entry[0] == 0 && left & bit != 0 {
            left &= !bit;
            let name = entry[2..].split(|b| *b == 0).next().unwrap_or_default();
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    if left != 0 {
        names.push(format!("Unknown incompatible feature: {left:x}"));
    }
    names.join(", ")
}
