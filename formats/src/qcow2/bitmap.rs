//! Persistent dirty bitmaps: the directory (specification, "Bitmaps").

use super::header::{Table, be32, be64};
use super::meta::Meta;
use block::{Error, Result};

/// Bytes of a directory entry before its variable part.
const FIXED: usize = 24;

/// An entry of the bitmap directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BitmapEntry {
    /// Its table, counted in entries.
    pub(super) table: Table,
    pub(super) flags: BitmapFlags,
    /// log2 of the bytes one bit stands for.
    pub(super) granularity_bits: u8,
    pub(super) name: String,
    /// Data of the type, which nobody knows.
    pub(super) extra: Vec<u8>,
}

bitflags::bitflags! {
    /// Flags of a bitmap.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct BitmapFlags: u32 {
        /// Not saved properly.
        const IN_USE = 1 << 0;
        /// Every writer must keep it up to date.
        const AUTO = 1 << 1;
        /// May be used by who does not know its extra data.
        const EXTRA_DATA_COMPATIBLE = 1 << 2;
        const _ = !0;
    }
}

/// Parses the bitmap directory.
///
/// # Errors
/// An entry that does not fit.
pub(super) fn parse_directory(mut bytes: &[u8], count: u32) -> Result<Vec<BitmapEntry>> {
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
        granularity_bits: fixed[17],
        name: String::from_utf8_lossy(name).into_owned(),
        extra: extra.to_vec(),
    };
    Some((entry, (FIXED + extra_len + name_len).next_multiple_of(8)))
}

impl Meta {
    /// The bitmap directory; empty without bitmaps.
    ///
    /// # Errors
    /// A broken directory, or the file's.
    pub(super) fn bitmaps(&self) -> Result<Vec<BitmapEntry>> {
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
    pub(super) fn bitmap_tables(&self) -> Result<Vec<Table>> {
        Ok(self.bitmaps()?.into_iter().map(|bitmap| bitmap.table).collect())
    }
}
