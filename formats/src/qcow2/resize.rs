//! Changes of the virtual size, and preallocation.

use super::entry::{self, L2Entry, SubKind};
use super::header::{Version, field};
use super::image::Qcow2;
use super::meta::{FreedBy, Meta};
use super::order::Tables;
use super::reftable::Room;
use super::zero::DiscardTo;
use crate::mapped::{ClusterIndex, GuestOffset, HostOffset};
use block::{Context, Error, Event, Prealloc, Quiesced, Resize, Result, ZeroFlags};
use std::ops::Range;
use std::sync::atomic::Ordering;

impl Qcow2 {
    /// Changes the virtual size.
    pub(super) fn resize(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        let old = self.size();
        if to.size == old {
            return Ok(());
        }
        if !to.size.is_multiple_of(block::SECTOR) {
            return Err(Error::invalid("The new size must be a multiple of 512"));
        }
        self.check_resizable()?;
        self.check_bitmaps_for_resize(to.size)?;
        if to.size < old {
            if to.prealloc != Prealloc::Off {
                return Err(Error::invalid("Preallocation can't be used for shrinking an image"));
            }
            self.shrink(to.size, old)?;
        } else {
            self.grow(old, to)?;
        }
        self.resize_bitmaps(to.size)?;
        self.set_size(to.size)
    }

    /// The rest of the last cluster of a disk that is going to grow, where the backing file would show in it, or has to be
    /// copied because the cluster is going to be allocated.
    pub(super) fn tail_to_zero(&self, to: Resize) -> Result<Range<u64>> {
        let (g, old) = (self.geometry, self.size());
        let shows = self.backing.as_ref().map_or(Ok(0), block::Child::len)? > old;
        if to.size <= old || !shows && to.prealloc == Prealloc::Off {
            return Ok(0..0);
        }
        self.check_resizable()?;
        let unit = if to.prealloc == Prealloc::Off { g.subcluster_size() } else { g.cluster_size() };
        Ok(old..old.next_multiple_of(unit).min(to.size))
    }

    /// Gives an image that has just been laid out its size.
    pub(super) fn grow_new(&self, to: Resize) -> Result<()> {
        self.grow(0, to)?;
        self.set_size(to.size)
    }

    fn check_resizable(&self) -> Result<()> {
        let meta = self.lock();
        meta.check_writable()?;
        if !meta.snapshots.is_empty() && meta.header.version < Version::V3 {
            return Err(Error::unsupported("Can't resize a v2 image which has snapshots"));
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let mut meta = self.lock();
        self.write_back(&mut meta)?;
        meta.caches
            .write_pointer(HostOffset(field::SIZE), &size.to_be_bytes(), Event("header_update"))
            .and_then(|()| meta.caches.settle())
            .context(|| "Failed to update the image size")?;
        meta.header.size = size;
        // The caches are as large as the image can make use of, and begin anew.
        meta.caches.tables(Tables::L2).fit(self.geometry.l2_bytes(size));
        meta.caches.tables(Tables::Refcounts).clear();
        self.len.store(size, Ordering::Release);
        Ok(())
    }

    fn shrink(&self, size: u64, old: u64) -> Result<()> {
        let g = self.geometry;
        let cut = g.round_up(size);
        if cut < old {
            self.crop(cut..g.round_up(old)).context(|| "Failed to discard cropped clusters")?;
        }
        let mut meta = self.lock();
        meta.release_pending()?;
        meta.shrink_l1(g.l1_entries(size)).context(|| "Failed to reduce the number of L2 tables")?;
        if let Some(data) = &self.data_file {
            data.truncate(Resize::to(size))?;
        }
        meta.shrink_reftable().context(|| "Failed to discard unused refblocks")?;
        self.write_back(&mut meta)?;
        let end = meta.last_used_cluster(self.file.len()?)?.0 + 1;
        if end << g.cluster_bits < self.file.len()? {
            self.file.truncate(Resize::to(end << g.cluster_bits))?;
        }
        Ok(())
    }

    /// Gives up the clusters of a range. What no L2 table describes has none, and a table made for it would only be freed.
    fn crop(&self, range: Range<u64>) -> Result<()> {
        let coverage = self.geometry.l2_coverage();
        let mut at = range.start;
        while at < range.end {
            let next = range.end.min((at / coverage + 1) * coverage);
            if entry::l2_table(self.lock().l1_entry(GuestOffset(at))).is_some() {
                self.discard_range(at..next, DiscardTo::Backing, FreedBy::Shrink)?;
            }
            at = next;
        }
        Ok(())
    }

    fn grow(&self, old: u64, to: Resize) -> Result<()> {
        let g = self.geometry;
        self.lock().grow_l1(g.l1_entries(to.size), Room::Exact).context(|| "Failed to grow the L1 table")?;
        match to.prealloc {
            // Where clusters are is no secret: every byte has its place.
            Prealloc::Off if self.raw_data_file() => self.preallocate(old..to.size, Prealloc::Metadata)?,
            Prealloc::Off => {
                if let Some(data) = &self.data_file {
                    data.truncate(Resize { exact: false, ..to })?;
                }
            }
            Prealloc::Metadata => self.preallocate(old..to.size, Prealloc::Metadata)?,
            mode if self.data_file.is_some() => self.preallocate(old..to.size, mode)?,
            mode => self.preallocate_area(old..to.size, mode)?,
        }
        let visible = self.backing.as_ref().map_or(Ok(0), block::Child::len)?;
        let start = old.next_multiple_of(g.subcluster_size());
        // Preallocated clusters read as zeroes, but for subclusters, which are not allocated yet.
        let absent = to.prealloc == Prealloc::Off || g.extended_l2;
        if visible > old && absent && start < to.size {
            self.len.store(to.size, Ordering::Release);
            self.lock().header.size = to.size;
            self.zero_range(start..to.size, ZeroFlags::empty())?;
        }
        Ok(())
    }

    /// Allocates every cluster of a guest range wherever there is room, and extends the file over them.
    pub(super) fn preallocate(&self, guest: Range<u64>, mode: Prealloc) -> Result<()> {
        let mut end = 0;
        let mut meta = self.lock();
        let mut at = guest.start;
        while at < guest.end {
            let (host, len) = meta.preallocate_run(GuestOffset(at), guest.end - at)?;
            end = host.0 + len;
            at += len;
        }
        let in_file = if mode == Prealloc::Metadata { Prealloc::Off } else { mode };
        meta.caches.write_all_back()?;
        let child = self.data_file.as_ref().unwrap_or(&self.file);
        if child.len()? < end {
            child.truncate(Resize { size: end, prealloc: in_file, exact: false })?;
        }
        Ok(())
    }

    /// Allocates a guest range in one piece at the end of the file.
    fn preallocate_area(&self, guest: Range<u64>, mode: Prealloc) -> Result<()> {
        let g = self.geometry;
        let mut meta = self.lock();
        let file_end = g.clusters(self.file.len()?);
        let clusters = g.clusters(guest.end) - g.clusters(guest.start);
        // One L2 table more than fits, as the range may begin and end in the middle of one.
        let tables = clusters.div_ceil(g.l2_entries()) + 1;
        let start = meta
            .new_refcount_area(file_end, clusters + tables, Room::Exact, None)
            .context(|| "Failed to resize refcount structures")?;
        let found = meta
            .allocate_at(g.host(ClusterIndex(start)), clusters)
            .context(|| "Failed to allocate data clusters")?;
        if found < clusters {
            return Err(Error::from_errno(nix::libc::EIO).context("Failed to allocate data clusters"));
        }
        let end = (start + clusters) << g.cluster_bits;
        self.file
            .truncate(Resize { size: end, prealloc: mode, exact: false })
            .context(|| "Failed to resize underlying file")?;
        let first = g.round_up(guest.start);
        for i in 0..clusters {
            let at = GuestOffset(first + (i << g.cluster_bits));
            meta.writable_l2(at).context(|| "Failed to update L2 tables")?;
            meta.set_l2_entry(at, preallocated(g.host(ClusterIndex(start + i)), g))?;
        }
        Ok(())
    }
}

impl Meta {
    /// Allocates clusters for up to `len` bytes at `at`, as far as they are contiguous; gives where and how many bytes: to
    /// the end of a subcluster, unless that has been stored already.
    fn preallocate_run(&mut self, at: GuestOffset, len: u64) -> Result<(HostOffset, u64)> {
        let g = self.geometry;
        let whole = |len: u64| (at.0 + len).next_multiple_of(g.subcluster_size()) - at.0;
        self.writable_l2(at)?;
        let old = self.l2_entry(at)?;
        if let Some(host) = old.host(g) {
            let len = len.min(g.cluster_size() - g.within(at.0));
            let last = g.subcluster(GuestOffset(at.0 + len - 1));
            let len = if old.kind(last, g) == SubKind::Data { len } else { whole(len) };
            return Ok((host.plus(g.within(at.0)), len));
        }
        let place = self.l2_place(at)?.ok_or_else(|| Error::from_errno(nix::libc::EIO))?;
        let wanted = g.clusters(g.within(at.0) + len);
        let free = self.l2_entries(place, wanted)?.take_while(|e| e.host(g).is_none()).count() as u64;
        let first = match self.external {
            true => HostOffset(g.round_down(at.0)),
            false => self.allocate(free)?,
        };
        for i in 0..free {
            let guest = GuestOffset(g.round_down(at.0) + (i << g.cluster_bits));
            self.set_l2_entry(guest, preallocated(first.plus(i << g.cluster_bits), g))?;
        }
        let covered = (free << g.cluster_bits) - g.within(at.0);
        Ok((first.plus(g.within(at.0)), whole(covered.min(len))))
    }

    /// Gives up refcount blocks that count nothing.
    fn shrink_reftable(&mut self) -> Result<()> {
        let g = self.geometry;
        for table in 0..self.reftable.len() as u64 {
            let Some(block) = self.refblock(table) else { continue };
            let own = g.index(block);
            let first = table * g.refblock_entries();
            let mut used = 0;
            for cluster in first..first + g.refblock_entries() {
                used += u64::from(ClusterIndex(cluster) != own && self.refcount(ClusterIndex(cluster))? > 0);
            }
            if used > 0 {
                continue;
            }
            let at = HostOffset(self.header.reftable.offset).plus(table * 8);
            self.caches.write_pointer(at, &[0; 8], Event("reftable_update"))?;
            self.caches.settle()?;
            let described_here = g.count_place(own).table == table;
            self.clear_reftable_entry(table);
            self.caches.tables(Tables::Refcounts).forget(block, g.cluster_size());
            if !described_here {
                self.free_now(block, g.cluster_size(), FreedBy::Shrink)?;
            }
        }
        Ok(())
    }

    fn clear_reftable_entry(&mut self, table: u64) {
        if let Some(entry) = usize::try_from(table).ok().and_then(|i| self.reftable.get_mut(i)) {
            *entry = 0;
            self.guard.forget();
        }
    }

    /// The last cluster in a file of `len` bytes that is in use. What has no refcount block is not, however long the file is.
    pub(super) fn last_used_cluster(&mut self, len: u64) -> Result<ClusterIndex> {
        let g = self.geometry;
        for table in (0..self.reftable.len() as u64).rev() {
            if self.refblock(table).is_none() {
                continue;
            }
            let first = table * g.refblock_entries();
            let end = g.clusters(len).min(first + g.refblock_entries());
            for cluster in (first..end).rev().map(ClusterIndex) {
                if self.refcount(cluster)? > 0 {
                    return Ok(cluster);
                }
            }
        }
        Err(self.corrupt("There are no references in the refcount table."))
    }
}

/// The entry for a cluster that has a place and no contents yet. Subclusters stay unallocated.
fn preallocated(host: HostOffset, g: super::geometry::Geometry) -> L2Entry {
    L2Entry { bitmap: 0, ..L2Entry::data(host, g) }
}
