//! The header: 48 bytes to a validated model and back.
//!
//! A [`Header`] obeys every rule that can be checked without reading anything else of the image.

use crate::field::wrong;
use block::{Error, Result};
use std::mem::offset_of;
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first four bytes of the file.
const MAGIC: u32 = 0x5146_49fb;
/// The only version this driver knows.
const VERSION: u32 = 1;
/// Bytes of the header.
pub(super) const BYTES: usize = size_of::<Disk>();
/// The longest backing file name.
pub(super) const MAX_BACKING_NAME: u32 = 1023;
/// The largest L1 table, in entries: its bytes are counted in 31 bits.
const MAX_L1_ENTRIES: u64 = i32::MAX as u64 / 8;
/// log2 of what clusters and L2 tables may have, in bytes.
const TABLE_BITS: std::ops::RangeInclusive<u8> = 9..=16;

/// The header as it is stored, big-endian.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Disk {
    magic: U32,
    version: U32,
    backing_offset: U64,
    backing_len: U32,
    mtime: U32,
    size: U64,
    cluster_bits: u8,
    l2_bits: u8,
    padding: U16,
    crypt: U32,
    l1_offset: U64,
}

const _: () = {
    assert!(BYTES == 48);
    assert!(offset_of!(Disk, size) == 24);
    assert!(offset_of!(Disk, cluster_bits) == 32);
    assert!(offset_of!(Disk, crypt) == 36);
    assert!(offset_of!(Disk, l1_offset) == 40);
};

/// How offsets split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// log2 of the bytes in a cluster.
    pub(super) cluster_bits: u8,
    /// log2 of the entries in an L2 table.
    pub(super) l2_bits: u8,
}

impl Geometry {
    /// Bytes in a cluster.
    pub(super) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of an L2 table.
    pub(super) fn l2_bytes(self) -> u64 {
        8 << self.l2_bits
    }

    /// Guest bytes that one L2 table describes.
    pub(super) fn l2_coverage(self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits)
    }

    /// Bytes of the L1 table of a disk of `size` bytes.
    pub(super) fn l1_bytes(self, size: u64) -> u64 {
        size.div_ceil(self.l2_coverage()) * 8
    }
}

/// A valid header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) geometry: Geometry,
    /// Virtual size in bytes.
    pub(super) size: u64,
    /// Whether the contents are encrypted, with legacy AES.
    pub(super) encrypted: bool,
    /// Where the L1 table is.
    pub(super) l1_offset: u64,
    /// Offset and length of the backing file's name; a length of 0 without one.
    pub(super) backing: (u64, u32),
}

/// Whether a file begins like an image of this version.
pub(super) fn is_qcow(head: &[u8]) -> bool {
    Disk::ref_from_prefix(head)
        .is_ok_and(|(disk, _)| disk.magic.get() == MAGIC && disk.version.get() == VERSION)
}

impl Header {
    /// Parses the beginning of a file.
    ///
    /// # Errors
    /// QEMU's sentence about the first rule that does not hold, and where the field is.
    pub(super) fn parse(bytes: &[u8; BYTES]) -> Result<Self> {
        let disk: &Disk = zerocopy::transmute_ref!(bytes);
        check_format(disk)?;
        if disk.size.get() <= 1 {
            let text = "Image size is too small (must be at least 2 bytes)";
            return Err(wrong(text, "size", offset_of!(Disk, size)));
        }
        if !TABLE_BITS.contains(&disk.cluster_bits) {
            let text = "Cluster size must be between 512 and 64k";
            return Err(wrong(text, "cluster_bits", offset_of!(Disk, cluster_bits)));
        }
        // Entries have eight bytes.
        if !TABLE_BITS.contains(&disk.l2_bits.saturating_add(3)) {
            let text = "L2 table size must be between 512 and 64k";
            return Err(wrong(text, "l2_bits", offset_of!(Disk, l2_bits)));
        }
        if disk.crypt.get() > 1 {
            return Err(wrong(
                "invalid encryption method in qcow header",
                "crypt_method",
                offset_of!(Disk, crypt),
            ));
        }
        let geometry = Geometry { cluster_bits: disk.cluster_bits, l2_bits: disk.l2_bits };
        if disk.size.get().div_ceil(geometry.l2_coverage()) > MAX_L1_ENTRIES {
            return Err(wrong("Image too large", "size", offset_of!(Disk, size)));
        }
        let backing = disk.backing()?;
        let header = Header {
            geometry,
            size: disk.size.get(),
            encrypted: disk.crypt.get() == 1,
            l1_offset: disk.l1_offset.get(),
            backing,
        };
        header.check_l1()?;
        Ok(header)
    }

    fn check_l1(&self) -> Result<()> {
        let end = self.l1_offset.checked_add(self.geometry.l1_bytes(self.size));
        let fits = end.is_some_and(|end| end <= i64::MAX as u64) && self.l1_offset >= BYTES as u64;
        let at = offset_of!(Disk, l1_offset);
        if fits { Ok(()) } else { Err(wrong("Invalid L1 table offset", "l1_table_offset", at)) }
    }

    /// The header's bytes.
    pub(super) fn to_bytes(&self) -> [u8; BYTES] {
        let mut disk = Disk::new_zeroed();
        disk.magic = MAGIC.into();
        disk.version = VERSION.into();
        (disk.backing_offset, disk.backing_len) = (self.backing.0.into(), self.backing.1.into());
        disk.size = self.size.into();
        disk.cluster_bits = self.geometry.cluster_bits;
        disk.l2_bits = self.geometry.l2_bits;
        disk.crypt = u32::from(self.encrypted).into();
        disk.l1_offset = self.l1_offset.into();
        zerocopy::transmute!(disk)
    }
}

fn check_format(disk: &Disk) -> Result<()> {
    if disk.magic.get() != MAGIC {
        return Err(Error::invalid("Image not in qcow format"));
    }
    match disk.version.get() {
        VERSION => Ok(()),
        other => {
            let error = Error::unsupported(format!("qcow (v1) does not support qcow version {other}"));
            Err(match other {
                2 | 3 => error.with_hint("Try the 'qcow2' driver instead."),
                _ => error,
            })
        }
    }
}

impl Disk {
    fn backing(&self) -> Result<(u64, u32)> {
        let (offset, len) = (self.backing_offset.get(), self.backing_len.get());
        if offset == 0 {
            return Ok((0, 0));
        }
        if len > MAX_BACKING_NAME {
            let at = offset_of!(Disk, backing_len);
            return Err(wrong("Backing file name too long", "backing_file_size", at));
        }
        Ok((offset, len))
    }
}
