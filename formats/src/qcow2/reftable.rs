//! Growing the refcount table: a new, larger one together with the refcount blocks that count it.

use super::geometry::Geometry;
use super::header::{MAX_REFTABLE_BYTES, Table, field};
use super::meta::{FreedBy, Meta};
use super::order::Tables;
use super::refcount;
use crate::mapped::{ClusterIndex, HostOffset};
use block::{Error, Event, Result};

/// How much room refcounts take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RefcountArea {
    /// Refcount blocks.
    pub(super) blocks: u64,
    /// Clusters of the refcount table.
    pub(super) table: u64,
}

/// Whether to leave room for growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Only what is needed now.
    Exact,
    /// Half as much table again.
    Generous,
}

/// The refcount blocks and table for `clusters` clusters and for themselves.
pub(super) fn area(geometry: Geometry, mut clusters: u64, mut room: Room) -> RefcountArea {
    let per_table_cluster = geometry.cluster_size() / 8;
    let mut found = RefcountArea { blocks: 0, table: 0 };
    let mut total = 0;
    loop {
        let last = total;
        found.blocks = (clusters + found.table + found.blocks).div_ceil(geometry.refblock_entries());
        found.table = found.blocks.div_ceil(per_table_cluster);
        total = clusters + found.blocks + found.table;
        if total == last && room == Room::Generous {
            clusters += found.table.div_ceil(2);
            (total, room) = (0, Room::Exact);
        }
        if total == last {
            return found;
        }
    }
}

impl Meta {
    /// Replaces the refcount table by a larger one behind everything that is in use: `used` clusters. `extra` is a
    /// refcount block, and its place in the table, for which the old one is too small.
    pub(super) fn grow_reftable(&mut self, used: u64, extra: Option<(u64, HostOffset)>) -> Result<()> {
        let entries = self.geometry.refblock_entries();
        let start = used.div_ceil(entries) * entries;
        self.new_refcount_area(start, 0, Room::Generous, extra).map(drop)
    }

    /// Makes an area from cluster `start` on (where nothing is in use): the refcount blocks that are missing also for
    /// `more` clusters behind the area, and a new refcount table. The answer is the first cluster behind it.
    pub(super) fn new_refcount_area(
        &mut self,
        start: u64,
        more: u64,
        room: Room,
        extra: Option<(u64, HostOffset)>,
    ) -> Result<u64> {
        let g = self.geometry;
        let wanted = area(g, start + more, room);
        let per_cluster = g.cluster_size() / 8;
        let spare = if room == Room::Generous { wanted.blocks.div_ceil(2) } else { 0 };
        let len = (wanted.blocks + spare).next_multiple_of(per_cluster);
        if len * 8 > MAX_REFTABLE_BYTES {
            return Err(Error::from_errno(nix::libc::EFBIG));
        }
        let mut table = self.reftable.clone();
        table.resize(
            usize::try_from(len).map_err(|_| Error::from_errno(nix::libc::EFBIG))?.max(table.len()),
            0,
        );
        if let Some((index, block)) = extra {
            *entry(&mut table, index)? = block.0;
        }
        let first_block = start / g.refblock_entries();
        let mut missing = Vec::new();
        for index in first_block..wanted.blocks {
            let slot = entry(&mut table, index)?;
            if *slot == 0 {
                *slot = g.host(ClusterIndex(start + missing.len() as u64)).0;
                missing.push(index);
            }
        }
        let table_at = start + missing.len() as u64;
        let free = table_at + (table.len() as u64).div_ceil(per_cluster);
        for index in first_block..wanted.blocks {
            let block = HostOffset(*entry(&mut table, index)?);
            self.count_area(block, index * g.refblock_entries(), start..free, &missing)?;
        }
        self.switch_reftable(&table, g.host(ClusterIndex(table_at)))?;
        Ok(free)
    }

    /// Counts the clusters of the new area in the refcount block at `block`, whose first count is for cluster `first`.
    fn count_area(
        &mut self,
        block: HostOffset,
        first: u64,
        area: std::ops::Range<u64>,
        missing: &[u64],
    ) -> Result<()> {
        let g = self.geometry;
        if missing.contains(&(first / g.refblock_entries())) {
            let zeroes = vec![0; g.cluster_len()].into_boxed_slice();
            self.caches.insert(Tables::Refcounts, block, zeroes)?;
        }
        let bytes = self.caches.change(Tables::Refcounts, block)?;
        for cluster in area.start.max(first)..area.end.min(first + g.refblock_entries()) {
            refcount::set(bytes, cluster - first, g.refcount_order, 1);
        }
        Ok(())
    }

    fn switch_reftable(&mut self, table: &[u64], at: HostOffset) -> Result<()> {
        let g = self.geometry;
        self.caches.write_back(Tables::Refcounts)?;
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.caches.write_fresh(at, &bytes, Event("refblock_alloc_write_table"))?;
        let count = u32::try_from(g.clusters(bytes.len() as u64)).unwrap_or(u32::MAX);
        let pointer = [&at.0.to_be_bytes()[..], &count.to_be_bytes()].concat();
        let event = Event("refblock_alloc_switch_table");
        self.caches.write_pointer(HostOffset(field::REFTABLE_OFFSET), &pointer, event)?;
        let old = std::mem::replace(&mut self.header.reftable, Table { offset: at.0, count });
        self.reftable = table.to_vec();
        self.guard.forget();
        self.caches.settle()?;
        let old_bytes = u64::from(old.count) << g.cluster_bits;
        self.free_now(HostOffset(old.offset), old_bytes, FreedBy::Other)
    }
}

fn entry(table: &mut [u64], index: u64) -> Result<&mut u64> {
    let slot = usize::try_from(index).ok().and_then(|i| table.get_mut(i));
    slot.ok_or_else(|| Error::from_errno(nix::libc::EFBIG))
}
