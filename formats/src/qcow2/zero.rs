//! Writes of zeroes and discards: changes of entries that move no data.

use super::entry::{Cluster, L2Entry};
use super::header::Version;
use super::image::Qcow2;
use super::meta::{FreedBy, Meta};
use crate::mapped::{GuestOffset, HostOffset};
use block::{Error, Result, ZeroFlags};
use std::ops::Range;

/// What becomes of discarded clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiscardTo {
    /// They read as zeroes.
    Zero,
    /// They are not in this image any more: the backing file shows.
    Backing,
}

impl Qcow2 {
    /// Makes a range of whole subclusters (or up to the end of the image) read as zeroes.
    pub(super) fn zero_range(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        if self.raw_data_file() {
            self.data_child().write_zeroes(range.clone(), flags)?;
        }
        if self.lock().header.version < Version::V3 {
            // There is no zero flag; what is in no image reads as zeroes unless there is a backing file.
            return match self.has_backing() || flags.contains(ZeroFlags::NO_FALLBACK) {
                true => Err(Error::from_errno(nix::libc::ENOTSUP)),
                false => self.discard_range(range, DiscardTo::Zero, FreedBy::Request),
            };
        }
        if self.geometry.extended_l2 {
            self.lock().refuse_compressed_ends(&range)?;
        }
        self.each_cluster(range, |meta, part| meta.zero_cluster(part, flags))
    }

    /// Gives up the whole clusters of a range.
    pub(super) fn discard_range(&self, range: Range<u64>, to: DiscardTo, why: FreedBy) -> Result<()> {
        let g = self.geometry;
        let len = self.size();
        let end = if range.end == len { g.round_up(len) } else { g.round_down(range.end) };
        let start = g.round_up(range.start);
        if start >= end {
            return Ok(());
        }
        let has_backing = self.has_backing();
        if self.lock().header.version < Version::V3 && has_backing && to == DiscardTo::Zero {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        self.each_cluster(start..end, |meta, part| meta.discard_cluster(part.start, to, has_backing, why))
    }

    /// Calls `change` for the part of `range` in each cluster, none of them leased meanwhile.
    fn each_cluster(
        &self,
        range: Range<u64>,
        mut change: impl FnMut(&mut Meta, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let g = self.geometry;
        let mut at = range.start;
        while at < range.end {
            let (mut meta, clear) =
                self.ready(GuestOffset(at), range.end - at, crate::mapped::Reader::Request)?;
            meta.check_writable()?;
            let left = g.l2_coverage() - at % g.l2_coverage();
            let stop = at + clear.min(left).min(1 << 30);
            while at < stop {
                let next = stop.min(g.round_down(at) + g.cluster_size());
                change(&mut meta, at..next)?;
                at = next;
            }
        }
        Ok(())
    }
}

impl Meta {
    /// Refuses a range that begins or ends inside a compressed cluster, where only data can be zero: before anything is
    /// changed, so that what is written instead finds all its clusters as they were.
    fn refuse_compressed_ends(&mut self, range: &Range<u64>) -> Result<()> {
        let g = self.geometry;
        let first = range.start..range.end.min(g.round_down(range.start) + g.cluster_size());
        let last = range.start.max(g.round_down(range.end - 1))..range.end;
        for part in [first, last] {
            let entry = if self.is_whole(&part) {
                L2Entry::default()
            } else {
                self.l2_entry(GuestOffset(part.start))?
            };
            if matches!(entry.cluster(g), Cluster::Compressed(_)) {
                return Err(Error::from_errno(nix::libc::ENOTSUP));
            }
        }
        Ok(())
    }

    /// Whether a part of a cluster is all of it, as far as the disk goes.
    fn is_whole(&self, part: &Range<u64>) -> bool {
        let g = self.geometry;
        g.within(part.start) == 0 && (g.within(part.end) == 0 || part.end >= self.header.size)
    }

    /// Makes a part of one cluster read as zeroes: all of it, or whole subclusters.
    fn zero_cluster(&mut self, part: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let g = self.geometry;
        let at = GuestOffset(part.start);
        if !self.is_whole(&part) {
            return self.zero_subclusters(part);
        }
        self.writable_l2(at)?;
        let old = self.l2_entry(at)?;
        let cluster = old.cluster(g);
        let compressed = matches!(cluster, Cluster::Compressed(_));
        let wanted = compressed || flags.contains(ZeroFlags::MAY_UNMAP) && cluster != Cluster::None;
        let unmap = compressed || wanted && !self.keep_discarded;
        let keep = if unmap { None } else { old.host(g) };
        let new = L2Entry::zero(keep, old.descriptor & super::entry::COPIED, g);
        if new == old {
            return Ok(());
        }
        self.begin_lazy()?;
        self.set_l2_entry(at, new)?;
        match keep {
            None if unmap => self.free_replaced(old, FreedBy::Request)?,
            Some(host) if wanted => self.discard_kept(host, FreedBy::Request),
            _ => {}
        }
        Ok(())
    }

    /// Tells the file that a cluster which keeps its place is not needed.
    fn discard_kept(&self, host: HostOffset, why: FreedBy) {
        if self.discards.passes(why) {
            let file = self.caches.data().unwrap_or(self.caches.file());
            // Space that is not given back is no failure of the operation.
            let _ = file.discard(host.0..host.0 + self.geometry.cluster_size());
        }
    }

    fn zero_subclusters(&mut self, part: Range<u64>) -> Result<()> {
        let g = self.geometry;
        let at = GuestOffset(part.start);
        self.writable_l2(at)?;
        let mut entry = self.l2_entry(at)?;
        if !g.extended_l2 || matches!(entry.cluster(g), Cluster::Compressed(_)) {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        let old = entry;
        entry.set_zero(g.subcluster(at)..g.subcluster(GuestOffset(part.end - 1)) + 1);
        if entry == old { Ok(()) } else { self.set_l2_entry(at, entry) }
    }

    fn discard_cluster(&mut self, at: u64, to: DiscardTo, has_backing: bool, why: FreedBy) -> Result<()> {
        let g = self.geometry;
        let guest = GuestOffset(at);
        // Also where nothing changes: images are to be laid out as by QEMU, which makes the table first.
        self.writable_l2(guest)?;
        let old = self.l2_entry(guest)?;
        let stored = old.cluster(g) != Cluster::None;
        let keep = old.host(g).filter(|_| self.keep_discarded && to == DiscardTo::Zero);
        let new = match to {
            DiscardTo::Backing => L2Entry::default(),
            DiscardTo::Zero if !has_backing && !stored => return Ok(()),
            DiscardTo::Zero if self.header.version >= Version::V3 => {
                L2Entry::zero(keep, old.descriptor & super::entry::COPIED, g)
            }
            DiscardTo::Zero => L2Entry::default(),
        };
        if new == old {
            return Ok(());
        }
        self.begin_lazy()?;
        self.set_l2_entry(guest, new)?;
        match keep {
            Some(host) => {
                self.discard_kept(host, why);
                Ok(())
            }
            None => self.free_replaced(old, why),
        }
    }

    /// Tells the data file that a cluster is not needed.
    pub(super) fn discard_external(&self, host: HostOffset) {
        if let Some(data) = self.caches.data() {
            // Space that is not given back is no failure of the operation that freed it.
            let _ = data.discard(host.0..host.0 + self.geometry.cluster_size());
        }
    }
}
