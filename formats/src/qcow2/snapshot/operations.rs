//! Taking, applying, deleting and showing snapshots.
//!
//! What a crash may leave behind: references counted that nobody makes (leaks) and copied flags that are off. The
//! snapshot table and the active L1 table are switched by one write of the header each, after everything they point at
//! is on stable storage; what they no longer point at is counted down after that.

use super::table::{self, Snapshot};
use crate::mapped::HostOffset;
use crate::qcow2::entry::COPIED;
use crate::qcow2::header::{MAX_L1_BYTES, MAX_SNAPSHOTS, Table, check_table, field};
use crate::qcow2::image::Qcow2;
use crate::qcow2::meta::{FreedBy, Meta};
use crate::qcow2::open::read_numbers;
use crate::qcow2::order::Tables;
use crate::qcow2::reftable::Room;
use block::snapshot::{self, NewSnapshot, Snapshots};
use block::{Context, Error, Event, Quiesced, Resize, Result};
use std::sync::atomic::Ordering;

impl Snapshots for Qcow2 {
    fn list(&self) -> Vec<snapshot::Snapshot> {
        self.lock().snapshots.iter().map(describe).collect()
    }

    fn create(&self, _q: &Quiesced<'_>, new: &NewSnapshot) -> Result<()> {
        self.lock().create_snapshot(new)
    }

    fn apply(&self, q: &Quiesced<'_>, id: &str) -> Result<()> {
        if self.has_active_bitmaps() {
            return Err(Error::from_errno(nix::libc::EBUSY).context("Device has active dirty bitmaps"));
        }
        let index = self.lock().snapshot_index(id)?;
        let (size, l1) = {
            let meta = self.lock();
            meta.check_writable()?;
            (meta.snapshots[index].disk_size.unwrap_or(meta.header.size), meta.snapshot_l1(index)?)
        };
        if size != self.size() {
            self.resize(q, Resize::to(size))?;
        }
        self.lock().apply_l1(&l1)
    }

    fn delete(&self, _q: &Quiesced<'_>, id: &str) -> Result<()> {
        let mut meta = self.lock();
        let index = meta.snapshot_index(id)?;
        meta.delete_snapshot(index)
    }

    fn load(&self, _q: &Quiesced<'_>, id: &str) -> Result<()> {
        let mut meta = self.lock();
        if meta.writable {
            return Err(Error::invalid("Device is not readonly"));
        }
        let index = meta.snapshot_index(id)?;
        // The disk may have had another length then.
        let size = meta.snapshots[index].disk_size.unwrap_or(self.size());
        let (needed, there) = (self.geometry.l1_entries(size), meta.snapshots[index].l1_size);
        if needed > there.into() {
            return Err(Error::invalid(format!(
                "Snapshot L1 table has {there} entries, its disk of {size} bytes needs {needed}"
            )));
        }
        meta.l1 = meta.snapshot_l1(index)?;
        meta.guard.forget();
        meta.caches.tables(Tables::L2).clear();
        self.len.store(size, Ordering::Release);
        Ok(())
    }
}

fn describe(snapshot: &Snapshot) -> snapshot::Snapshot {
    snapshot::Snapshot {
        id: snapshot.id_text(),
        name: snapshot.name_text(),
        vm_state_size: snapshot.vm_state_size,
        date_sec: snapshot.date_sec,
        date_nsec: snapshot.date_nsec,
        vm_clock_nsec: snapshot.vm_clock_nsec,
        icount: snapshot.icount.filter(|count| *count != u64::MAX),
    }
}

impl Meta {
    fn snapshot_index(&self, id: &str) -> Result<usize> {
        self.snapshots.iter().position(|s| s.id_text() == id).ok_or_else(snapshot::not_found)
    }

    /// One more than the largest id that is a number.
    fn next_snapshot_id(&self) -> u64 {
        let numbers = self.snapshots.iter().filter_map(|s| s.id_text().parse::<u64>().ok());
        numbers.max().unwrap_or(0).saturating_add(1)
    }

    /// The L1 table of a snapshot.
    fn snapshot_l1(&self, index: usize) -> Result<Vec<u64>> {
        let snapshot = &self.snapshots[index];
        let bytes = u64::from(snapshot.l1_size) * 8;
        check_table(snapshot.l1_offset, bytes, MAX_L1_BYTES, self.geometry, "Snapshot L1 table")?;
        read_numbers(self.caches.file(), snapshot.l1_offset, snapshot.l1_size.into())
    }

    /// Brings everything that is cached to the file.
    fn settle_all(&mut self) -> Result<()> {
        self.check_writable()?;
        self.release_pending()?;
        self.caches.write_all_back()?;
        self.caches.settle()
    }

    fn create_snapshot(&mut self, new: &NewSnapshot) -> Result<()> {
        if self.external {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        if self.snapshots.len() >= MAX_SNAPSHOTS as usize {
            return Err(Error::from_errno(nix::libc::EFBIG));
        }
        self.settle_all()?;
        self.begin_lazy()?;
        let l1: Vec<u64> = self.l1.iter().map(|entry| entry & !COPIED).collect();
        let (at, room) = self.write_l1_copy(&l1)?;
        let done = self.add_references(&l1).and_then(|()| {
            let listed = self.refresh_copied().and_then(|()| {
                let mut all = self.snapshots.clone();
                all.push(self.new_entry(new, at, l1.len()));
                self.write_snapshot_table(all)
            });
            if listed.is_err() {
                // The failure is reported; what cannot be taken back is leaked.
                let _ = self.drop_references(&l1, FreedBy::Other).and_then(|()| self.refresh_copied());
            }
            listed
        });
        if done.is_err() {
            let _ = self.free_now(at, room, FreedBy::Other);
            // The clusters are back in the counts, which need not wait for anything.
            let _ = self.caches.write_all_back();
        }
        done
    }

    fn new_entry(&self, new: &NewSnapshot, at: HostOffset, l1_size: usize) -> Snapshot {
        Snapshot {
            l1_offset: at.0,
            l1_size: u32::try_from(l1_size).unwrap_or(u32::MAX),
            id: self.next_snapshot_id().to_string().into_bytes(),
            name: new.name.clone().into_bytes(),
            date_sec: new.date_sec,
            date_nsec: new.date_nsec,
            disk_size: Some(self.header.size),
            icount: Some(0),
            ..Snapshot::default()
        }
    }

    /// Writes an L1 table to new clusters; gives where and how many bytes they have.
    fn write_l1_copy(&mut self, l1: &[u64]) -> Result<(HostOffset, u64)> {
        let bytes: Vec<u8> = l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let room = bytes.len().max(1) as u64;
        let at = self.allocate(self.geometry.clusters(room))?;
        let written = self.caches.write_fresh(at, &bytes, Event("l1_update"));
        if written.is_err() {
            self.free_now(at, room, FreedBy::Other)?;
        }
        written.map(|()| (at, room))
    }

    fn apply_l1(&mut self, wanted: &[u64]) -> Result<()> {
        self.settle_all()?;
        self.begin_lazy()?;
        self.grow_l1(wanted.len() as u64, Room::Exact)?;
        let mut new: Vec<u64> = wanted.iter().map(|entry| entry & !COPIED).collect();
        new.resize(self.l1.len(), 0);
        self.add_references(&new)?;
        let (at, room) = self.write_l1_copy(&new)?;
        self.caches.write_all_back()?;
        self.caches.settle()?;
        let (old, place) = (self.l1.clone(), self.header.l1);
        if let Err(e) = self.switch_l1(&new, at) {
            let _ = self.drop_references(&new, FreedBy::Other);
            let _ = self.free_now(at, room, FreedBy::Other);
            return Err(e);
        }
        self.l1 = new;
        self.guard.forget();
        self.caches.settle()?;
        self.drop_references(&old, FreedBy::Snapshot)?;
        self.free_now(HostOffset(place.offset), u64::from(place.count) * 8, FreedBy::Other)?;
        self.refresh_copied()
    }

    fn delete_snapshot(&mut self, index: usize) -> Result<()> {
        let l1 = self.snapshot_l1(index)?;
        self.settle_all()?;
        self.begin_lazy()?;
        let mut all = self.snapshots.clone();
        let gone = all.remove(index);
        self.write_snapshot_table(all).context(|| "Failed to remove snapshot from snapshot list")?;
        self.caches.settle()?;
        let freed = self.free_snapshot(&l1, HostOffset(gone.l1_offset));
        if freed.is_err() {
            self.forget_refcounts();
        }
        freed.context(|| "Failed to free the cluster and L1 table")?;
        self.refresh_copied().context(|| "Failed to update snapshot status in disk")
    }

    /// Gives up what a snapshot's L1 table at `at` points at, and the table.
    fn free_snapshot(&mut self, l1: &[u64], at: HostOffset) -> Result<()> {
        self.drop_references(l1, FreedBy::Snapshot)?;
        self.free_now(at, (l1.len() as u64 * 8).max(1), FreedBy::Snapshot)?;
        self.caches.write_all_back()
    }

    /// Writes a new snapshot table and makes the header point at it; the old one is free then.
    ///
    /// # Errors
    /// `EFBIG` for a table that is too large, no space, or the file's; the old table is in force then.
    pub(in crate::qcow2) fn write_snapshot_table(&mut self, all: Vec<Snapshot>) -> Result<()> {
        let bytes: Vec<u8> = all.iter().flat_map(|s| s.to_bytes(self.header.size)).collect();
        if bytes.len() as u64 > table::MAX_TABLE {
            return Err(Error::from_errno(nix::libc::EFBIG));
        }
        let at = match bytes.is_empty() {
            true => HostOffset(0),
            false => self.allocate(self.geometry.clusters(bytes.len() as u64))?,
        };
        let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let pointer = [&count.to_be_bytes()[..], &at.0.to_be_bytes()].concat();
        let done = match bytes.is_empty() {
            true => Ok(()),
            false => self.caches.write_fresh(at, &bytes, Event("snapshot_update")),
        };
        let done = done.and_then(|()| {
            self.caches.write_all_back()?;
            self.caches.write_pointer(HostOffset(field::SNAPSHOTS), &pointer, Event("header_update"))?;
            self.caches.settle()
        });
        if let Err(e) = done {
            if !bytes.is_empty() {
                let _ = self.free_now(at, bytes.len() as u64, FreedBy::Other);
            }
            return Err(e);
        }
        let old = std::mem::replace(&mut self.header.snapshots, Table { offset: at.0, count });
        let old_bytes = std::mem::replace(&mut self.snapshot_bytes, bytes.len() as u64);
        self.snapshots = all;
        self.guard.forget();
        if old_bytes > 0 {
            let freed = self.free_now(HostOffset(old.offset), old_bytes, FreedBy::Snapshot);
            if let Err(e) = freed.and_then(|()| self.caches.write_all_back()) {
                // The new table is in force; what was not given back is leaked.
                self.forget_refcounts();
                block::tool::notice(&format!("qcow2_free_clusters failed: {}", e.strerror()));
            }
        }
        Ok(())
    }

    /// Makes the header name as many snapshots as were read: the table ends there, where it is.
    ///
    /// # Errors
    /// The file's.
    pub(in crate::qcow2) fn shorten_snapshot_table(&mut self) -> Result<()> {
        let count = u32::try_from(self.snapshots.len()).unwrap_or(u32::MAX);
        self.caches.write_pointer(
            HostOffset(field::SNAPSHOTS),
            &count.to_be_bytes(),
            Event("header_update"),
        )?;
        self.header.snapshots.count = count;
        Ok(())
    }

    /// Forgets changes of refcounts that could not be written.
    fn forget_refcounts(&mut self) {
        self.caches.tables(Tables::Refcounts).clear();
    }
}
