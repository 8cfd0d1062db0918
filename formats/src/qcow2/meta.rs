//! The metadata of an open image: everything behind the one lock.

use super::entry::{self, L2Entry};
use super::features::Incompatible;
use super::free::Pending;
use super::geometry::Geometry;
use super::header::{Header, Version, field};
use super::order::{Caches, Tables};
use super::overlap::{Guard, Overlap};
use super::snapshot::Snapshot;
use crate::mapped::{ClusterIndex, GuestOffset, HostOffset, Leases, Pins};
use block::{Error, Event, Result};

/// Why a cluster is not needed any more; decides whether the file is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FreedBy {
    /// It was replaced and is likely to be reused.
    Overwrite,
    /// The guest gave it up.
    Request,
    /// The image was made smaller.
    Shrink,
    /// It belonged to a snapshot.
    Snapshot,
    /// Anything else.
    Other,
}

/// Which freed clusters are discarded in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Discards {
    /// Those the guest discarded.
    pub(super) request: bool,
    /// Those of snapshots.
    pub(super) snapshot: bool,
    /// All others.
    pub(super) other: bool,
}

impl Discards {
    /// Whether clusters freed for this reason are discarded.
    pub(super) fn passes(self, why: FreedBy) -> bool {
        match why {
            FreedBy::Overwrite => false,
            FreedBy::Shrink => true,
            FreedBy::Request => self.request,
            FreedBy::Snapshot => self.snapshot,
            FreedBy::Other => self.other,
        }
    }
}

/// The metadata of an open image.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) geometry: Geometry,
    pub(super) header: Header,
    /// The active L1 table.
    pub(super) l1: Vec<u64>,
    /// The refcount table.
    pub(super) reftable: Vec<u64>,
    pub(super) snapshots: Vec<Snapshot>,
    /// The snapshot table has not been read: the image is open to be checked.
    pub(super) snapshots_unread: bool,
    /// Bytes the snapshot table takes in the file.
    pub(super) snapshot_bytes: u64,
    pub(super) caches: Caches,
    /// Keeps metadata from being written over.
    pub(super) guard: Guard,
    /// No cluster before this one is free.
    pub(super) free_hint: ClusterIndex,
    /// Where the next compressed data may go, inside a cluster that has room.
    pub(super) free_bytes: Option<HostOffset>,
    pub(super) pending: Pending,
    pub(super) pins: Pins,
    pub(super) discards: Discards,
    /// What the guest discards keeps its place in the file.
    pub(super) keep_discarded: bool,
    pub(super) leases: Leases,
    pub(super) writable: bool,
    /// Refcounts are written lazily, under the dirty bit.
    pub(super) lazy_refcounts: bool,
    /// The file has to be at least this long when it is closed.
    pub(super) file_end: u64,
    /// There is a data file, in which clusters are not counted.
    pub(super) external: bool,
}

/// Where an L2 entry is.
#[derive(Debug, Clone, Copy)]
pub(super) struct L2Place {
    /// The slice of the table, as the cache holds it.
    pub(super) slice: HostOffset,
    /// Byte offset in the slice.
    pub(super) at: usize,
    /// Entries from this one to the end of the slice.
    pub(super) left: u64,
}

impl Meta {
    /// Announces a point fault injection may wait for.
    pub(super) fn event(&self, name: &'static str) {
        self.caches.file().node().event(Event(name));
    }

    /// An image that contradicts itself: marks it, if it may be written, and gives the error to return.
    pub(super) fn corrupt(&mut self, text: impl Into<String>) -> Error {
        let text = text.into();
        if self.writable && !self.header.has(Incompatible::CORRUPT) && self.header.version >= Version::V3 {
            self.header.incompatible |= Incompatible::CORRUPT;
            // The error returned says more than a failure to mark the image would.
            let _ = self.write_incompatible();
            block::tool::notice(&format!(
                "qcow2: Marking image as corrupt: {text}; further corruption events will be suppressed"
            ));
        } else {
            block::tool::notice(&format!(
                "qcow2: Image is corrupt: {text}; further non-fatal corruption events will be suppressed"
            ));
        }
        Error::corrupt(Error::from_errno(nix::libc::EIO).strerror()).with_errno(nix::libc::EIO)
    }

    /// Refuses to change an image that was found to be corrupt.
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.header.has(Incompatible::CORRUPT) { Err(Error::from_errno(nix::libc::EIO)) } else { Ok(()) }
    }

    /// Writes the incompatible features.
    pub(super) fn write_incompatible(&mut self) -> Result<()> {
        let bytes = self.header.incompatible.bits().to_be_bytes();
        self.caches.write_pointer(HostOffset(field::INCOMPATIBLE), &bytes, Event("header_update"))?;
        self.caches.settle()
    }

    /// Rewrites the whole header cluster.
    ///
    /// # Errors
    /// `ENOSPC` when it does not fit, or the file's.
    pub(super) fn write_header(&mut self) -> Result<()> {
        let bytes = self.header.to_bytes()?;
        self.caches.write_pointer(HostOffset(0), &bytes, Event("header_update"))
    }

    /// Sets the dirty bit before refcounts are allowed to lag behind.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn begin_lazy(&mut self) -> Result<()> {
        if !self.lazy_refcounts || self.header.has(Incompatible::DIRTY) {
            return Ok(());
        }
        self.header.incompatible |= Incompatible::DIRTY;
        self.write_incompatible()?;
        self.caches.set_lazy(true);
        Ok(())
    }

    /// Brings refcounts up to date and clears the dirty bit.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn end_lazy(&mut self) -> Result<()> {
        if !self.header.has(Incompatible::DIRTY) {
            return Ok(());
        }
        self.caches.set_lazy(false);
        self.release_pending()?;
        self.caches.write_all_back()?;
        self.header.incompatible -= Incompatible::DIRTY;
        self.write_incompatible()
    }

    /// The L1 entry for a guest offset; 0 past the end of the table.
    pub(super) fn l1_entry(&self, at: GuestOffset) -> u64 {
        let index = usize::try_from(self.geometry.l1_index(at)).unwrap_or(usize::MAX);
        self.l1.get(index).copied().unwrap_or(0)
    }

    /// Where the L2 entry for a guest offset is, if there is a table for it.
    ///
    /// # Errors
    /// A table out of place.
    pub(super) fn l2_place(&mut self, at: GuestOffset) -> Result<Option<L2Place>> {
        let Some(table) = entry::l2_table(self.l1_entry(at)) else { return Ok(None) };
        if self.geometry.within(table.0) != 0 {
            let l1_index = self.geometry.l1_index(at);
            return Err(
                self.corrupt(format!("L2 table offset {table:#x} unaligned (L1 index: {})", hex(l1_index)))
            );
        }
        Ok(Some(self.place_in(table, at)))
    }

    fn place_in(&mut self, table: HostOffset, at: GuestOffset) -> L2Place {
        let slice_len = self.caches.tables(Tables::L2).table_len() as u64;
        let entry_size = self.geometry.l2_entry_size();
        let offset = self.geometry.l2_index(at) * entry_size;
        let within = offset % slice_len;
        L2Place {
            slice: table.plus(offset - within),
            at: usize::try_from(within).unwrap_or(usize::MAX),
            left: (slice_len - within) / entry_size,
        }
    }

    /// Reads up to `max` entries from a place on, to the end of its slice.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn l2_entries(&mut self, place: L2Place, max: u64) -> Result<L2Entries<'_>> {
        let extended = self.geometry.extended_l2;
        let count = usize::try_from(place.left.min(max)).unwrap_or(usize::MAX);
        let size = if extended { 16 } else { 8 };
        let slice = self.caches.load(Tables::L2, place.slice)?;
        Ok(L2Entries { bytes: &slice[place.at..place.at + count * size], extended })
    }

    /// Reads the entry for a guest offset; an empty one where there is no table.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn l2_entry(&mut self, at: GuestOffset) -> Result<L2Entry> {
        match self.l2_place(at)? {
            Some(place) => Ok(self.l2_entries(place, 1)?.next().unwrap_or_default()),
            None => Ok(L2Entry::default()),
        }
    }

    /// Changes the entry for a guest offset, whose table exists and may be written.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn set_l2_entry(&mut self, at: GuestOffset, entry: L2Entry) -> Result<()> {
        let place = self.l2_place(at)?.ok_or_else(|| Error::from_errno(nix::libc::EIO))?;
        let extended = self.geometry.extended_l2;
        self.guard_table(Tables::L2, place.slice, Overlap::ACTIVE_L2)?;
        let slice = self.caches.change(Tables::L2, place.slice)?;
        write_l2_entry(&mut slice[place.at..], entry, extended);
        Ok(())
    }

    /// Refuses to change a cached table that is where other metadata is. What is dirty already was looked at then.
    pub(super) fn guard_table(&mut self, which: Tables, at: HostOffset, own: Overlap) -> Result<()> {
        let tables = self.caches.tables(which);
        match tables.is_dirty_at(at) {
            true => Ok(()),
            false => {
                let len = tables.table_len() as u64;
                self.guard(at, len, own)
            }
        }
    }

    /// How many clusters the whole disk has.
    pub(super) fn guest_clusters(&self) -> u64 {
        self.geometry.clusters(self.header.size)
    }
}

/// A number as messages show it: hexadecimal, but for 0.
pub(super) fn hex(number: u64) -> String {
    if number == 0 { "0".to_owned() } else { format!("{number:#x}") }
}

/// Writes an entry at the beginning of `bytes`.
pub(super) fn write_l2_entry(bytes: &mut [u8], entry: L2Entry, extended: bool) {
    bytes[..8].copy_from_slice(&entry.descriptor.to_be_bytes());
    if extended {
        bytes[8..16].copy_from_slice(&entry.bitmap.to_be_bytes());
    }
}

/// Entries of an L2 table, decoded one by one.
#[derive(Debug, Clone)]
pub(super) struct L2Entries<'a> {
    bytes: &'a [u8],
    extended: bool,
}

impl<'a> L2Entries<'a> {
    /// The entries in `bytes`.
    pub(super) fn new(bytes: &'a [u8], extended: bool) -> Self {
        L2Entries { bytes, extended }
    }
}

impl Iterator for L2Entries<'_> {
    type Item = L2Entry;

    #[inline]
    fn next(&mut self) -> Option<L2Entry> {
        let (first, rest) = self.bytes.split_first_chunk::<8>()?;
        let descriptor = u64::from_be_bytes(*first);
        if !self.extended {
            self.bytes = rest;
            return Some(L2Entry { descriptor, bitmap: 0 });
        }
        let (second, rest) = rest.split_first_chunk::<8>()?;
        self.bytes = rest;
        Some(L2Entry { descriptor, bitmap: u64::from_be_bytes(*second) })
    }
}
