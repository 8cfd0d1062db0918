//! Room for writes: which clusters a write goes to, and the entries that then point at them.
//!
//! A stretch of a write is one of three: *in place* (clusters of our own that hold data already: nothing to change),
//! *kept* (clusters of our own whose entry changes: zero clusters, subclusters), or *fresh* (new clusters, contiguous).

use super::entry::{self, Cluster, L2Entry, SubKind};
use super::geometry::Geometry;
use super::meta::{FreedBy, Meta, hex};
use super::order::Tables;
use super::overlap::Overlap;
use super::reftable::Room;
use crate::mapped::{GuestOffset, HostOffset, Lease, Reservation};
use block::{Error, Event, Result};
use std::ops::Range;

/// What goes with a lease.
#[derive(Debug)]
pub struct Token {
    id: u64,
    /// The guest clusters, whole.
    guest: Range<u64>,
    /// Where the first of them is going to be.
    host: HostOffset,
    fresh: bool,
}

/// How the first clusters of a write are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    InPlace(HostOffset),
    Kept(HostOffset),
    Fresh,
}

impl Meta {
    /// Finds room for a write of `len` bytes at `at`, or for its beginning. Nothing in the range is leased.
    ///
    /// # Errors
    /// A corrupt image, no space, or the file's.
    pub(super) fn reserve(
        &mut self,
        at: GuestOffset,
        len: u64,
        after: Option<HostOffset>,
    ) -> Result<Reservation<Token>> {
        self.check_writable()?;
        self.writable_l2(at)?;
        let (way, covered) = self.stretch(at, len)?;
        if way == Way::Fresh {
            return self.reserve_fresh(at, covered, after);
        }
        let (Way::InPlace(host) | Way::Kept(host)) = way else { unreachable!("fresh is dealt with") };
        let host = host.plus(self.geometry.within(at.0));
        if !self.external {
            self.guard(host, covered, Overlap::empty())?;
        }
        let pin = self.pins.pin(host, covered);
        let lease = match way {
            Way::Kept(first) => Some(self.lease(at, covered, first, false)?),
            _ => None,
        };
        Ok(Reservation { len: covered, host, pin, lease })
    }

    /// How the cluster at `at` is to be written, and how many bytes of the request go the same way.
    fn stretch(&mut self, at: GuestOffset, len: u64) -> Result<(Way, u64)> {
        let g = self.geometry;
        let place = self.l2_place(at)?.ok_or_else(|| Error::from_errno(nix::libc::EIO))?;
        let end = at.0 + len;
        let mut first: Option<Way> = None;
        let mut start = at.0;
        let (mut problem, mut invalid) = (None, false);
        for entry in self.l2_entries(place, g.clusters(g.within(at.0) + len))? {
            let stop = end.min(g.round_down(start) + g.cluster_size());
            if entry.is_invalid(g) {
                invalid = true;
                break;
            }
            let way = way(entry, start..stop, g);
            let offset = g.round_down(start) - g.round_down(at.0);
            let same = match (first, way) {
                (None, _) => true,
                (Some(Way::InPlace(a) | Way::Kept(a)), Way::InPlace(b) | Way::Kept(b)) => a.plus(offset) == b,
                (Some(Way::Fresh), Way::Fresh) => true,
                _ => false,
            };
            if let (Way::InPlace(host) | Way::Kept(host), true) = (way, same)
                && g.within(host.0) != 0
            {
                problem = Some((host, start));
                break;
            }
            if !same {
                break;
            }
            first = match (first, way) {
                // One request stays one, also where only some of its entries change.
                (Some(Way::InPlace(a)), Way::Kept(_)) => Some(Way::Kept(a)),
                (first, way) => first.or(Some(way)),
            };
            start = stop;
        }
        match (problem, first) {
            (Some((host, start)), None) => Err(self.unaligned(host, GuestOffset(start))),
            (_, Some(way)) => Ok((way, start - at.0)),
            (None, None) if invalid => Err(self.invalid_entry(at)),
            (None, None) => Err(Error::from_errno(nix::libc::EIO)),
        }
    }

    fn invalid_entry(&mut self, guest: GuestOffset) -> Error {
        let table = entry::l2_table(self.l1_entry(guest)).unwrap_or(HostOffset(0));
        let index = hex(self.geometry.l2_index(guest));
        self.corrupt(format!("Invalid cluster entry found (L2 offset: {table:#x}, L2 index: {index})"))
    }

    fn unaligned(&mut self, host: HostOffset, guest: GuestOffset) -> Error {
        let entry = self.l2_entry(guest).unwrap_or_default();
        let kind = if entry.kind(0, self.geometry) == SubKind::Zero { "Preallocated zero" } else { "Data" };
        self.corrupt(format!("{kind} cluster offset {host:#x} unaligned (guest offset: {})", hex(guest.0)))
    }

    fn reserve_fresh(
        &mut self,
        at: GuestOffset,
        len: u64,
        after: Option<HostOffset>,
    ) -> Result<Reservation<Token>> {
        let g = self.geometry;
        let clusters = g.clusters(g.within(at.0) + len);
        let (first, count) = match self.external {
            true => (HostOffset(g.round_down(at.0)), clusters),
            false => self.find_room(clusters, after)?,
        };
        if !self.external {
            self.guard(first, count << g.cluster_bits, Overlap::empty())?;
        }
        if first.0 == 0 && !self.external {
            return Err(self.corrupt("Preventing invalid allocation of data cluster at offset 0"));
        }
        let len = len.min((count << g.cluster_bits) - g.within(at.0));
        let host = first.plus(g.within(at.0));
        let pin = self.pins.pin(first, count << g.cluster_bits);
        let lease = self.lease(at, len, first, true);
        if lease.is_err() && !self.external {
            self.free_now(first, count << g.cluster_bits, FreedBy::Overwrite)?;
        }
        Ok(Reservation { len, host, pin, lease: Some(lease?) })
    }

    fn find_room(&mut self, clusters: u64, after: Option<HostOffset>) -> Result<(HostOffset, u64)> {
        self.begin_lazy()?;
        if let Some(after) = after.filter(|after| self.geometry.within(after.0) == 0) {
            let count = self.allocate_at(after, clusters)?;
            if count > 0 {
                return Ok((after, count));
            }
        }
        Ok((self.allocate(clusters)?, clusters))
    }

    /// Leases the clusters of a stretch that will be at `first`.
    fn lease(&mut self, at: GuestOffset, len: u64, first: HostOffset, fresh: bool) -> Result<Lease<Token>> {
        let g = self.geometry;
        let guest = g.round_down(at.0)..g.round_up(at.0 + len);
        let last = GuestOffset(guest.end - g.cluster_size());
        let head = self.l2_entry(at)?;
        let tail = if last.0 > at.0 { self.l2_entry(last)? } else { head };
        let start = cover_start(head, at.0, fresh, g);
        let end = cover_end(tail, at.0 + len, fresh, g);
        let id = self.leases.take(guest.clone());
        let blank = fresh && !self.external && first.0 >= self.caches.file().len()?;
        Ok(Lease { covers: start..end, blank, token: Token { id, guest, host: first, fresh } })
    }

    /// Makes the entries of a lease point at what was written.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn commit(&mut self, lease: &Lease<Token>) -> Result<()> {
        let g = self.geometry;
        self.caches.data_written();
        self.begin_lazy()?;
        for start in lease.token.guest.clone().step_by(g.cluster_len()) {
            let guest = GuestOffset(start);
            let host = lease.token.host.plus(start - lease.token.guest.start);
            let old = self.l2_entry(guest)?;
            let mut new = L2Entry::data(host, g);
            if g.extended_l2 {
                let stop = lease.covers.end.min(start + g.cluster_size());
                let first = g.subcluster(GuestOffset(lease.covers.start.max(start)));
                let end = g.subcluster(GuestOffset(stop - 1)) + 1;
                new.bitmap = if matches!(old.cluster(g), Cluster::Compressed(_)) { 0 } else { old.bitmap };
                new.set_data(first..end);
            }
            self.set_l2_entry(guest, new)?;
            if lease.token.fresh {
                self.free_replaced(old, FreedBy::Overwrite)?;
            }
        }
        // Subclusters that hold nothing need not be in the file.
        let end = lease.token.host.0 + lease.covers.end - lease.token.guest.start;
        if !self.external {
            self.file_end = self.file_end.max(end);
        }
        self.leases.give_back(lease.token.id);
        Ok(())
    }

    /// Gives a lease back: its fresh clusters are free again.
    pub(super) fn abandon(&mut self, lease: &Lease<Token>) {
        self.leases.give_back(lease.token.id);
        if lease.token.fresh && !self.external {
            let bytes = lease.token.guest.end - lease.token.guest.start;
            // What cannot be freed is leaked; the failure that made us abandon the write is what is reported.
            let _ = self.free_now(lease.token.host, bytes, FreedBy::Overwrite);
        }
    }

    /// Gives up what an entry that has just been replaced pointed at.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn free_replaced(&mut self, old: L2Entry, why: FreedBy) -> Result<()> {
        let g = self.geometry;
        match old.cluster(g) {
            Cluster::None => Ok(()),
            Cluster::Standard(host) if self.external => {
                if self.discards.passes(why) {
                    self.discard_external(host);
                }
                Ok(())
            }
            Cluster::Standard(host) if g.within(host.0) != 0 => {
                let error = format!("Cannot free unaligned cluster {host:#x}");
                let writable = std::mem::replace(&mut self.writable, false);
                self.corrupt(error);
                self.writable = writable;
                Ok(())
            }
            Cluster::Standard(host) => self.free_later(host, g.cluster_size(), why),
            Cluster::Compressed(place) => {
                let start = place.at.0 & !511;
                self.free_later(HostOffset(start), place.at.0 + place.len - start, why)
            }
        }
    }

    /// Sees to it that there is an L2 table for `at` which may be changed.
    ///
    /// # Errors
    /// No space, or the file's.
    pub(super) fn writable_l2(&mut self, at: GuestOffset) -> Result<()> {
        let l1_index = self.geometry.l1_index(at);
        if l1_index >= self.l1.len() as u64 {
            // Behind the disk is room for the state of a machine, whose size nobody knows beforehand.
            self.grow_l1(l1_index + 1, Room::Generous)?;
        }
        let old = self.l1_entry(at);
        if self.l2_place(at)?.is_some() && old & entry::COPIED != 0 {
            return Ok(());
        }
        self.begin_lazy()?;
        let old_table = entry::l2_table(old);
        let table = self.allocate(1)?;
        if table.0 == 0 {
            return Err(self.corrupt("Preventing invalid allocation of L2 table at offset 0"));
        }
        let done = self.fill_table(table, old_table).and_then(|()| self.point_l1(at, table));
        if done.is_err() {
            self.free_now(table, self.geometry.cluster_size(), FreedBy::Other)?;
            return done;
        }
        match old_table {
            Some(old) => self.free_later(old, self.geometry.cluster_size(), FreedBy::Other),
            None => Ok(()),
        }
    }

    fn fill_table(&mut self, table: HostOffset, old: Option<HostOffset>) -> Result<()> {
        self.guard(table, self.geometry.cluster_size(), Overlap::empty())?;
        let mut bytes = vec![0; self.geometry.cluster_len()];
        if let Some(old) = old {
            self.caches.write_back(Tables::L2)?;
            self.caches.file().read_exact(old.0, &mut bytes)?;
        }
        self.caches.write_fresh(table, &bytes, Event("l2_alloc_write"))?;
        let slice = self.caches.tables(Tables::L2).table_len();
        if slice == bytes.len() {
            self.caches.insert(Tables::L2, table, bytes.into_boxed_slice())?;
        }
        Ok(())
    }

    fn point_l1(&mut self, at: GuestOffset, table: HostOffset) -> Result<()> {
        let index = self.geometry.l1_index(at);
        let old = entry::l2_table(self.l1_entry(at));
        let value = table.0 | entry::COPIED;
        let place = HostOffset(self.header.l1.offset).plus(index * 8);
        self.caches.write_pointer(place, &value.to_be_bytes(), Event("l1_update"))?;
        let slot = usize::try_from(index).ok().and_then(|i| self.l1.get_mut(i));
        *slot.ok_or_else(|| Error::from_errno(nix::libc::EIO))? = value;
        if let Some(old) = old {
            self.guard.remove(self.geometry.index(old).0, Overlap::ACTIVE_L2);
        }
        self.guard.add(self.geometry.index(table).0, Overlap::ACTIVE_L2);
        Ok(())
    }
}

/// How one cluster is to be written in `range`, which lies in it.
fn way(entry: L2Entry, range: Range<u64>, g: Geometry) -> Way {
    match entry.cluster(g) {
        Cluster::Standard(host) if entry.is_copied() => {
            let first = g.subcluster(GuestOffset(range.start));
            let last = g.subcluster(GuestOffset(range.end - 1));
            let stored = (first..=last).all(|i| entry.kind(i, g) == SubKind::Data);
            if stored { Way::InPlace(host) } else { Way::Kept(host) }
        }
        _ => Way::Fresh,
    }
}

/// Where the copy around a write begins, in the cluster of `entry`, which is the first.
fn cover_start(entry: L2Entry, at: u64, fresh: bool, g: Geometry) -> u64 {
    let cluster = g.round_down(at);
    let index = g.subcluster(GuestOffset(at));
    match entry.kind(index, g) {
        SubKind::Compressed => cluster,
        SubKind::Data if !fresh => at,
        _ => {
            let stored = if fresh { (0..index).find(|i| entry.kind(*i, g) == SubKind::Data) } else { None };
            cluster + u64::from(stored.unwrap_or(index)) * g.subcluster_size()
        }
    }
}

/// Where it ends, in the cluster of `entry`, which is the last.
fn cover_end(entry: L2Entry, end: u64, fresh: bool, g: Geometry) -> u64 {
    let cluster = g.round_down(end - 1);
    let index = g.subcluster(GuestOffset(end - 1));
    match entry.kind(index, g) {
        SubKind::Compressed => cluster + g.cluster_size(),
        SubKind::Data if !fresh => end,
        _ => {
            let after = index + 1..g.subclusters();
            let stored = if fresh { after.rev().find(|i| entry.kind(*i, g) == SubKind::Data) } else { None };
            cluster + u64::from(stored.unwrap_or(index) + 1) * g.subcluster_size()
        }
    }
}
