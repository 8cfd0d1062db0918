//! The active L1 table as a whole: growing and shrinking it.

use super::entry;
use super::header::{MAX_L1_BYTES, Table, field};
use super::meta::{FreedBy, Meta};
use super::reftable::Room;
use crate::mapped::HostOffset;
use block::{Error, Event, Result};

impl Meta {
    /// Makes room for `entries` L1 entries.
    ///
    /// # Errors
    /// `EFBIG` above the largest table there may be, no space, or the file's.
    pub(super) fn grow_l1(&mut self, entries: u64, room: Room) -> Result<()> {
        let old = self.header.l1;
        let mut count = u64::from(old.count);
        if entries <= count {
            return Ok(());
        }
        match room {
            Room::Exact => count = entries,
            Room::Generous => {
                while count < entries {
                    count = (count.max(1) * 3).div_ceil(2);
                }
            }
        }
        if count * 8 > MAX_L1_BYTES {
            return Err(Error::from_errno(nix::libc::EFBIG));
        }
        let bytes = count * 8;
        self.event("l1_grow_alloc_table");
        let at = self.allocate(self.geometry.clusters(bytes))?;
        if at.0 == 0 {
            return Err(self.corrupt("Preventing invalid allocation of L1 table at offset 0"));
        }
        let mut table = self.l1.clone();
        table.resize(usize::try_from(count).map_err(|_| Error::from_errno(nix::libc::EFBIG))?, 0);
        let done = self.switch_l1(&table, at);
        if done.is_err() {
            self.free_now(at, bytes, FreedBy::Other)?;
            return done;
        }
        self.l1 = table;
        self.guard.forget();
        if old.count > 0 {
            self.caches.settle()?;
            self.free_now(HostOffset(old.offset), u64::from(old.count) * 8, FreedBy::Other)?;
        }
        Ok(())
    }

    /// Writes `table` at `at` and makes the header point at it.
    pub(super) fn switch_l1(&mut self, table: &[u64], at: HostOffset) -> Result<()> {
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.caches.write_fresh(at, &bytes, Event("l1_grow_write_table"))?;
        self.guard.forget();
        let count = u32::try_from(table.len()).unwrap_or(u32::MAX);
        let pointer = [&count.to_be_bytes()[..], &at.0.to_be_bytes()].concat();
        self.caches.write_pointer(HostOffset(field::L1_SIZE), &pointer, Event("l1_grow_activate_table"))?;
        self.header.l1 = Table { offset: at.0, count };
        Ok(())
    }

    /// Forgets the L2 tables from entry `from` on; nothing in them is in use.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn shrink_l1(&mut self, from: u64) -> Result<()> {
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(self.l1.len());
        let tail: Vec<u64> = self.l1[from..].to_vec();
        if tail.is_empty() {
            return Ok(());
        }
        self.event("l1_shrink_write_table");
        let at = HostOffset(self.header.l1.offset).plus(from as u64 * 8);
        self.caches.write_pointer(at, &vec![0; tail.len() * 8], Event("l1_shrink_free_l2_clusters"))?;
        self.caches.settle()?;
        self.l1[from..].fill(0);
        self.guard.forget();
        for table in tail.into_iter().filter_map(entry::l2_table) {
            self.free_now(table, self.geometry.cluster_size(), FreedBy::Shrink)?;
        }
        Ok(())
    }
}
