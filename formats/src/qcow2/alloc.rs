//! Finding free clusters: first fit from a hint, so that images are laid out as QEMU lays them out.
//!
//! A cluster is free when its refcount is 0. Where a refcount block is missing, one is made first, and the search then
//! starts over at the same place: the block may have taken what the search had found.

use super::entry;
use super::meta::{FreedBy, Meta};
use super::order::Tables;
use super::overlap::Overlap;
use super::refcount::{self, Change};
use crate::mapped::{ClusterIndex, HostOffset};
use block::{Error, Event, Result};
use std::ops::Range;

/// What there was in the way of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// Nothing: every refcount block exists.
    Yes,
    /// A refcount block had to be made; search again.
    Again,
}

impl Meta {
    /// Allocates `count` contiguous clusters.
    ///
    /// # Errors
    /// `EFBIG` past the largest file there can be, or the file's.
    pub(super) fn allocate(&mut self, count: u64) -> Result<HostOffset> {
        self.allocate_below(count, i64::MAX as u64)
    }

    /// Like [`Meta::allocate`], all of it before the offset `limit`.
    fn allocate_below(&mut self, count: u64, limit: u64) -> Result<HostOffset> {
        self.event("cluster_alloc");
        loop {
            let hint = self.free_hint;
            let run = self.find_free(count, limit)?;
            if self.pending.lowest_freed().is_some_and(|lowest| lowest.0 < run.end)
                && self.release_pending()?
            {
                // What becomes free may be one run with what was passed over.
                self.free_hint = self.free_hint.min(hint);
                continue;
            }
            self.event("refblock_alloc");
            if self.prepare_blocks(&run)? == Ready::Yes {
                self.change_refcounts(run.clone(), Change::Up)?;
                return Ok(self.geometry.host(ClusterIndex(run.start)));
            }
        }
    }

    /// Allocates up to `count` clusters beginning with the one at `at`; none if that is in use.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn allocate_at(&mut self, at: HostOffset, count: u64) -> Result<u64> {
        let first = self.geometry.index(at).0;
        self.event("refblock_alloc");
        loop {
            let mut end = first;
            while end < first + count && self.refcount(ClusterIndex(end))? == 0 {
                end += 1;
            }
            if end < first + count && self.pending.has(ClusterIndex(end)) && self.release_pending()? {
                continue;
            }
            if end == first || self.prepare_blocks(&(first..end))? == Ready::Yes {
                self.change_refcounts(first..end, Change::Up)?;
                return Ok(end - first);
            }
        }
    }

    /// Allocates `len` bytes, fewer than a cluster, for compressed data: after the last such allocation if there is
    /// room, else in a new cluster.
    ///
    /// # Errors
    /// As for [`Meta::allocate`].
    pub(super) fn allocate_bytes(&mut self, len: u64) -> Result<HostOffset> {
        self.event("cluster_alloc_bytes");
        let g = self.geometry;
        if let Some(at) = self.free_bytes.filter(|at| g.within(at.0) != 0)
            && self.refcount(g.index(at))? == g.max_refcount()
        {
            self.free_bytes = None;
        }
        let at = self.place_bytes(len)?;
        let end = at.plus(len);
        self.free_bytes = Some(end).filter(|end| g.within(end.0) != 0);
        Ok(at)
    }

    /// Where `len` bytes of compressed data go, with the clusters they touch counted.
    fn place_bytes(&mut self, len: u64) -> Result<HostOffset> {
        let g = self.geometry;
        let limit = entry::compressed_limit(g);
        let rest = self.free_bytes.map_or(0, |at| g.round_up(at.0) - at.0);
        // Room in the cluster begun last, alone or together with the one that follows it.
        let fresh = if rest >= len { None } else { Some(self.allocate_below(1, limit)?) };
        match (self.free_bytes, fresh) {
            (Some(at), fresh) if rest > 0 && fresh.is_none_or(|fresh| g.round_up(at.0) == fresh.0) => {
                self.change_refcounts(g.index(at).0..g.index(at).0 + 1, Change::Up)?;
                Ok(at)
            }
            (_, Some(fresh)) => Ok(fresh),
            (_, None) => self.allocate_below(1, limit),
        }
    }

    /// The first run of `count` free clusters from the hint on; the hint moves past it.
    fn find_free(&mut self, count: u64, limit: u64) -> Result<Range<u64>> {
        let mut start = self.free_hint.0;
        let mut end = start;
        while end - start < count {
            if self.refcount(ClusterIndex(end))? != 0 {
                start = end + 1;
            }
            end += 1;
        }
        if end.saturating_sub(1) > (limit - 1) >> self.geometry.cluster_bits {
            return Err(Error::from_errno(nix::libc::EFBIG));
        }
        self.free_hint = ClusterIndex(end);
        Ok(start..end)
    }

    /// Sees to it that every cluster of `run` has a refcount block.
    fn prepare_blocks(&mut self, run: &Range<u64>) -> Result<Ready> {
        let g = self.geometry;
        let tables =
            g.count_place(ClusterIndex(run.start)).table..=g.count_place(ClusterIndex(run.end - 1)).table;
        for table in tables {
            if self.refblock(table).is_none() {
                // Of the run, what comes before the missing block counts as taken.
                let taken = ClusterIndex(run.start.max(table * g.refblock_entries()));
                if (run.start..taken.0).contains(&self.free_hint.0) {
                    self.free_hint = taken;
                }
                self.make_refblock(table, run)?;
                // Whoever asked gets the same clusters if they are still free.
                self.free_hint = self.free_hint.min(ClusterIndex(run.start));
                return Ok(Ready::Again);
            }
        }
        Ok(Ready::Yes)
    }

    /// Makes the refcount block for refcount table index `table`, for an allocation of `run`.
    fn make_refblock(&mut self, table: u64, run: &Range<u64>) -> Result<()> {
        let g = self.geometry;
        let own = self.find_free(1, i64::MAX as u64)?.start;
        let block = g.host(ClusterIndex(own));
        if block.0 == 0 {
            return Err(self.corrupt("Preventing invalid allocation of refcount block at offset 0"));
        }
        let place = g.count_place(ClusterIndex(own));
        self.guard(block, g.cluster_size(), Overlap::empty())?;
        let mut bytes = vec![0; g.cluster_len()].into_boxed_slice();
        if place.table == table {
            refcount::set(&mut bytes, place.entry, g.refcount_order, 1);
        } else {
            // Counted in another block, which may be missing too; that ends with one that counts itself.
            while self.prepare_blocks(&(own..own + 1))? == Ready::Again {}
            self.change_refcounts(own..own + 1, Change::Up)?;
        }
        self.caches.write_fresh(block, &bytes, Event("refblock_alloc_write"))?;
        self.caches.insert(Tables::Refcounts, block, bytes)?;
        if table < self.reftable.len() as u64 {
            self.event("refblock_alloc_hookup");
            return self.hook_refblock(table, block);
        }
        self.event("refblock_alloc_write_blocks");
        let needed = (run.start.max(g.refblock_entries() * table) + 1).max(own);
        self.grow_reftable(needed, Some((table, block)))
    }

    fn hook_refblock(&mut self, table: u64, block: HostOffset) -> Result<()> {
        let at = HostOffset(self.header.reftable.offset).plus(table * 8);
        self.caches.write_pointer(at, &block.0.to_be_bytes(), Event("reftable_update"))?;
        let index = usize::try_from(table).map_err(|_| Error::from_errno(nix::libc::EFBIG))?;
        self.reftable[index] = block.0;
        self.guard.add(self.geometry.index(block).0, Overlap::REFCOUNT_BLOCK);
        Ok(())
    }

    /// Frees clusters that nothing on disk points at: an allocation that came to nothing, or a table just replaced.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn free_now(&mut self, at: HostOffset, bytes: u64, why: FreedBy) -> Result<()> {
        self.event("cluster_free");
        let g = self.geometry;
        let clusters = g.index(at).0..g.index(at).0 + g.clusters(bytes);
        self.caches.tables(Tables::L2).forget(at, g.clusters(bytes) << g.cluster_bits);
        self.change_refcounts(clusters.clone(), Change::Down)?;
        self.discard_freed(clusters, why);
        Ok(())
    }
}
