//! Writing bitmaps: marking them as in use, and saving them.

use super::directory::{BitmapEntry, BitmapFlags, table_entries};
use super::keep::Kept;
use crate::mapped::HostOffset;
use crate::qcow2::entry::OFFSET;
use crate::qcow2::extension::BitmapDirectory;
use crate::qcow2::features::Autoclear;
use crate::qcow2::header::Table;
use crate::qcow2::meta::{FreedBy, Meta};
use crate::qcow2::open::read_numbers;
use block::bitmap::Stretch;
use block::{Context, Error, Event, Result};

impl Meta {
    /// Marks the bitmaps as in use in the file: a writer is at work.
    ///
    /// # Errors
    /// The file's.
    pub(in crate::qcow2) fn mark_bitmaps_in_use(&mut self, all: &[Kept]) -> Result<()> {
        let Some(directory) = self.header.extensions.bitmaps else { return Ok(()) };
        let mark = |kept: &Kept| {
            let entry = &kept.entry;
            BitmapEntry { flags: entry.flags | BitmapFlags::IN_USE, ..entry.clone() }.to_bytes()
        };
        let bytes: Vec<u8> = all.iter().flat_map(mark).collect();
        if all.iter().all(|kept| kept.bitmap.is_inconsistent()) || bytes.len() as u64 != directory.size {
            return Ok(());
        }
        // Only flags differ from what is there, so a write that is torn does no harm.
        self.caches.write_fresh(HostOffset(directory.offset), &bytes, Event("bitmap_update"))?;
        self.caches.settle()
    }

    /// Saves the bitmaps; the entries are then those in the file.
    ///
    /// # Errors
    /// No space, or the file's; the old directory, in which they are in use, is in force then.
    pub(in crate::qcow2) fn save_bitmaps(&mut self, all: &mut [Kept]) -> Result<()> {
        let mut fresh: Vec<BitmapEntry> = Vec::new();
        let saved = self.save_all(all, &mut fresh);
        if saved.is_err() {
            for entry in &fresh {
                // Whatever cannot be given back is leaked; the failure is what is reported.
                let _ = self.free_bitmap(entry.table);
            }
            let _ = self.caches.write_all_back();
        }
        saved
    }

    fn save_all(&mut self, all: &mut [Kept], fresh: &mut Vec<BitmapEntry>) -> Result<()> {
        let mut entries = Vec::new();
        for kept in all.iter() {
            let mut entry = kept.entry.clone();
            if !kept.bitmap.is_inconsistent() {
                entry.flags = entry.flags - BitmapFlags::IN_USE - BitmapFlags::AUTO;
                entry.flags.set(BitmapFlags::AUTO, kept.bitmap.is_enabled());
                entry.table = self
                    .write_bitmap(kept)
                    .context(|| format!("Failed to write bitmap '{}' to file", kept.entry.name))?;
                fresh.push(entry.clone());
            }
            entries.push(entry);
        }
        let old = self.bitmaps()?;
        self.switch_directory(&entries)?;
        for gone in old.iter().filter(|old| entries.iter().all(|new| new.table != old.table)) {
            self.free_bitmap(gone.table)?;
        }
        for (kept, entry) in all.iter_mut().zip(entries) {
            (kept.entry, kept.stored) = (entry, true);
            kept.bitmap.mark_stored();
        }
        self.caches.write_all_back()
    }

    /// Writes the bits to new clusters and gives the table that points at them.
    fn write_bitmap(&mut self, kept: &Kept) -> Result<Table> {
        let g = self.geometry;
        let bits = u32::from(kept.entry.granularity_bits);
        let count = table_entries(g, self.header.size, bits).max(1);
        let mut numbers = vec![0u64; usize::try_from(count).unwrap_or(usize::MAX)];
        let written = self.write_bits(kept, &mut numbers).and_then(|()| {
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
            let at = self.write_new(&bytes)?;
            Ok(Table { offset: at.0, count: u32::try_from(count).unwrap_or(u32::MAX) })
        });
        if written.is_err() {
            for at in numbers.into_iter().filter(|at| *at != 0) {
                let _ = self.free_now(HostOffset(at), g.cluster_size(), FreedBy::Other);
            }
        }
        written
    }

    fn write_bits(&mut self, kept: &Kept, numbers: &mut [u64]) -> Result<()> {
        let g = self.geometry;
        let mut cluster = vec![0; g.cluster_len()];
        for (index, number) in numbers.iter_mut().enumerate() {
            let first = index as u64 * g.cluster_size() * 8;
            if kept.bitmap.with_bits(|bits| bits.copy_bytes(first, &mut cluster))? == Stretch::Clear {
                continue;
            }
            *number = self.write_new(&cluster)?.0;
        }
        Ok(())
    }

    /// Writes bytes to clusters of their own, which are given back if that fails.
    fn write_new(&mut self, bytes: &[u8]) -> Result<HostOffset> {
        let at = self.allocate(self.geometry.clusters(bytes.len() as u64))?;
        let written = self.caches.write_fresh(at, bytes, Event("bitmap_update"));
        if written.is_err() {
            let _ = self.free_now(at, bytes.len() as u64, FreedBy::Other);
        }
        written.map(|()| at)
    }

    /// Writes a new directory, makes the header point at it, and gives the old one up.
    fn switch_directory(&mut self, entries: &[BitmapEntry]) -> Result<()> {
        let bytes: Vec<u8> = entries.iter().flat_map(BitmapEntry::to_bytes).collect();
        let new = match entries.is_empty() {
            true => None,
            false => {
                let at = self.write_new(&bytes)?;
                Some(BitmapDirectory {
                    count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
                    size: bytes.len() as u64,
                    offset: at.0,
                })
            }
        };
        let before = (self.header.extensions.bitmaps, self.header.autoclear);
        self.header.extensions.bitmaps = new;
        self.header.autoclear.set(Autoclear::BITMAPS, new.is_some());
        self.caches.write_all_back()?;
        let done = self.write_header().and_then(|()| self.caches.settle());
        if let Err(e) = done {
            (self.header.extensions.bitmaps, self.header.autoclear) = before;
            if let Some(new) = new {
                let _ = self.free_now(HostOffset(new.offset), new.size, FreedBy::Other);
            }
            return Err(e);
        }
        match before.0 {
            Some(old) => self.free_now(HostOffset(old.offset), old.size, FreedBy::Other),
            None => Ok(()),
        }
    }

    /// Gives up a table of a bitmap and the clusters it points at.
    fn free_bitmap(&mut self, table: Table) -> Result<()> {
        if table.count == 0 {
            return Ok(());
        }
        let g = self.geometry;
        let clusters = read_numbers(self.caches.file(), table.offset, table.count.into())?;
        for at in clusters.into_iter().map(|value| value & OFFSET).filter(|at| *at != 0) {
            if g.within(at) != 0 {
                return Err(Error::from_errno(nix::libc::EINVAL));
            }
            self.free_now(HostOffset(at), g.cluster_size(), FreedBy::Other)?;
        }
        self.free_now(HostOffset(table.offset), u64::from(table.count) * 8, FreedBy::Other)
    }
}
