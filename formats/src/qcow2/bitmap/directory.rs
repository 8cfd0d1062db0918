//! Persistent dirty bitmaps: the directory (specification, "Bitmaps").

use crate::qcow2::geometry::Geometry;
use crate::qcow2::header::{Table, be32, be64};
use crate::qcow2::meta::Meta;
use block::{Error, Result};
use std::sync::Arc;

/// Bytes of a directory entry before its variable part.
const FIXED: usize = 24;

/// An entry of the bitmap directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::qcow2) struct BitmapEntry {
    /// Its table, counted in entries.
    pub(in crate::qcow2) table: Table,
    pub(in crate::qcow2) flags: BitmapFlags,
    /// log2 of the bytes one bit stands for.
    pub(in crate::qcow2) granularity_bits: u8,
    /// 1: dirty tracking.
    pub(in crate::qcow2) kind: u8,
    pub(in crate::qcow2) name: Arc<str>,
    /// Data of the type, which nobody knows.
    pub(in crate::qcow2) extra: Vec<u8>,
}

bitflags::bitflags! {
    /// Flags of a bitmap.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(in crate::qcow2) struct BitmapFlags: u32 {
        /// Not saved properly.
        const IN_USE = 1 << 0;
        /// Every writer must keep it up to date.
        const AUTO = 1 << 1;
        /// May be used by who does not know its extra data.
        const EXTRA_DATA_COMPATIBLE = 1 << 2;
        const _ = !0;
    }
}

/// Flags we know.
const KNOWN: BitmapFlags =
    BitmapFlags::IN_USE.union(BitmapFlags::AUTO).union(BitmapFlags::EXTRA_DATA_COMPATIBLE);
/// The only type of bitmap there is.
const DIRTY_TRACKING: u8 = 1;
/// log2 of the smallest and the largest granularity.
pub(in crate::qcow2) const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;
/// The most entries of a bitmap table.
const MAX_TABLE: u32 = 0x800_0000;
/// The most bytes of a bitmap.
const MAX_BYTES: u64 = 0x2000_0000;
/// The longest name, in bytes.
const MAX_NAME: usize = 1023;

/// Parses the bitmap directory.
///
/// # Errors
/// An entry that does not fit.
pub(in crate::qcow2) fn parse_directory(mut bytes: &[u8], count: u32) -> Result<Vec<BitmapEntry>> {
    let mut entries = Vec::new();
    for _ in 0..count {
        let (entry, len) = parse_entry(bytes).ok_or_else(|| Error::invalid("Broken bitmap directory"))?;
        entries.push(entry);
        bytes = &bytes[len.min(bytes.len())..];
    }
    Ok(entries)
}

fn parse_entry(bytes: &[u8]) -> Option<(BitmapEntry, usize)> {
    let fixed = bytes.get(..FIXED)?;
    let name_len = usize::from(u16::from_be_bytes([fixed[18], fixed[19]]));
    let extra_len = be32(fixed, 20) as usize;
    let extra = bytes.get(FIXED..FIXED.checked_add(extra_len)?)?;
    let name = bytes.get(FIXED + extra_len..FIXED + extra_len + name_len)?;
    let entry = BitmapEntry {
        table: Table { offset: be64(fixed, 0), count: be32(fixed, 8) },
        flags: BitmapFlags::from_bits_retain(be32(fixed, 12)),
        kind: fixed[16],
        granularity_bits: fixed[17],
        name: String::from_utf8_lossy(name).into(),
        extra: extra.to_vec(),
    };
    Some((entry, padded(name_len, extra_len)))
}

fn padded(name_len: usize, extra_len: usize) -> usize {
    (FIXED + extra_len + name_len).next_multiple_of(8)
}

impl BitmapEntry {
    /// The entry as written, padded.
    pub(in crate::qcow2) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.table.offset.to_be_bytes());
        out.extend(self.table.count.to_be_bytes());
        out.extend(self.flags.bits().to_be_bytes());
        out.extend([self.kind, self.granularity_bits]);
        out.extend(u16::try_from(self.name.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(u32::try_from(self.extra.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(&self.extra);
        out.extend(self.name.as_bytes());
        out.resize(self.stored_len(), 0);
        out
    }

    /// How many bytes the entry takes as written, with what pads it.
    pub(in crate::qcow2) fn stored_len(&self) -> usize {
        padded(self.name.len(), self.extra.len())
    }

    /// A new, empty bitmap.
    pub(in crate::qcow2) fn new(name: &str, granularity_bits: u8) -> Self {
        BitmapEntry {
            table: Table { offset: 0, count: 0 },
            flags: BitmapFlags::AUTO,
            kind: DIRTY_TRACKING,
            granularity_bits,
            name: name.into(),
            extra: Vec::new(),
        }
    }

    /// Checks what can be checked of an entry in an image of `size` bytes without reading its table.
    ///
    /// # Errors
    /// `Bitmap 'NAME' doesn't satisfy the constraints`; the hint says which.
    pub(in crate::qcow2) fn check(&self, g: Geometry, size: u64) -> Result<()> {
        let bytes = u64::from(self.table.count) << g.cluster_bits;
        let bits = u32::from(self.granularity_bits);
        let table_end = self.table.offset.checked_add(u64::from(self.table.count) * 8);
        let problem = if self.table.count == 0 || self.table.count > MAX_TABLE {
            format!("bitmap_table_size is {}", self.table.count)
        } else if self.table.offset == 0
            || g.within(self.table.offset) != 0
            || table_end.is_none_or(|end| end > i64::MAX as u64)
        {
            format!("bitmap_table_offset is {:#x}", self.table.offset)
        } else if !GRANULARITY_BITS.contains(&self.granularity_bits) {
            format!("granularity_bits is {bits}")
        } else if !KNOWN.contains(self.flags) {
            format!("flags are {:#x}", self.flags.bits())
        } else if self.name.is_empty() || self.name.len() > MAX_NAME {
            format!("name_size is {}", self.name.len())
        } else if self.kind != DIRTY_TRACKING {
            format!("type is {}", self.kind)
        } else if !self.extra.is_empty() && !self.flags.contains(BitmapFlags::EXTRA_DATA_COMPATIBLE) {
            format!("extra_data_size is {}", self.extra.len())
        } else if bytes > MAX_BYTES.max(g.cluster_size()) {
            format!("bitmap_table_size is {}", self.table.count)
        } else if !self.flags.contains(BitmapFlags::IN_USE)
            && u128::from(size) > (u128::from(bytes) * 8) << bits
        {
            format!("bitmap_table_size is {}, too small for the disk", self.table.count)
        } else {
            return Ok(());
        };
        Err(Error::invalid(format!("Bitmap '{}' doesn't satisfy the constraints", self.name))
            .with_hint(format!("In its directory entry, {problem}")))
    }
}

/// Clusters of a bitmap of that granularity for an image of `size` bytes.
pub(in crate::qcow2) fn table_entries(g: Geometry, size: u64, granularity_bits: u32) -> u64 {
    block::bitmap::bits_for(size, granularity_bits).div_ceil(8).div_ceil(g.cluster_size())
}

/// Whether a bitmap for an image of `size` bytes is within the limits.
pub(in crate::qcow2) fn fits(g: Geometry, size: u64, granularity_bits: u32) -> bool {
    let entries = table_entries(g, size, granularity_bits);
    entries <= u64::from(MAX_TABLE) && entries << g.cluster_bits <= MAX_BYTES.max(g.cluster_size())
}

impl Meta {
    /// The bitmap directory; empty without bitmaps.
    ///
    /// # Errors
    /// A broken directory, or the file's.
    pub(in crate::qcow2) fn bitmaps(&self) -> Result<Vec<BitmapEntry>> {
        let Some(directory) = self.header.extensions.bitmaps else { return Ok(Vec::new()) };
        let len = usize::try_from(directory.size).map_err(|_| Error::from_errno(nix::libc::EFBIG))?;
        let mut bytes = vec![0; len];
        self.caches.file().read_exact(directory.offset, &mut bytes)?;
        parse_directory(&bytes, directory.count)
    }

    /// Where the tables of all bitmaps are.
    ///
    /// # Errors
    /// As for [`Meta::bitmaps`].
    pub(in crate::qcow2) fn bitmap_tables(&self) -> Result<Vec<Table>> {
        Ok(self.bitmaps()?.into_iter().map(|bitmap| bitmap.table).collect())
    }
}
