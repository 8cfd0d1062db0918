//! Reference counts of 1 to 64 bits: reading and changing them (specification, "Host cluster management").

use super::geometry::Geometry;
use super::header::{MAX_REFTABLE_BYTES, be32, be64};
use super::meta::{Meta, hex};
use super::order::Tables;
use super::overlap::Overlap;
use crate::mapped::{ClusterIndex, HostOffset};
use block::{Error, Result};
use std::ops::Range;

/// The refcount block a refcount table entry points at.
pub(super) const REFTABLE_OFFSET: u64 = !0x1ff;

/// Reads entry `index` of a refcount block; counts are 2^`order` bits wide.
#[inline]
pub(super) fn get(block: &[u8], index: u64, order: u32) -> u64 {
    let bits = 1u64 << order;
    let byte = usize::try_from(index * bits / 8).unwrap_or(usize::MAX);
    if order < 3 {
        let shift = index * bits % 8;
        return u64::from(block[byte]) >> shift & ((1 << bits) - 1);
    }
    match (order, &block[byte..]) {
        (3, [a, ..]) => u64::from(*a),
        (4, [a, b, ..]) => u64::from(u16::from_be_bytes([*a, *b])),
        (5, bytes) => u64::from(be32(bytes, 0)),
        (_, bytes) => be64(bytes, 0),
    }
}

/// Writes entry `index` of a refcount block.
pub(super) fn set(block: &mut [u8], index: u64, order: u32, value: u64) {
    let bits = 1u64 << order;
    let byte = usize::try_from(index * bits / 8).unwrap_or(usize::MAX);
    if order < 3 {
        let shift = index * bits % 8;
        let mask = ((1u8 << bits) - 1) << shift;
        let [low, ..] = value.to_le_bytes();
        block[byte] = block[byte] & !mask | low << shift & mask;
        return;
    }
    let width = 1 << (order - 3);
    block[byte..byte + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
}

/// How a count changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// One more reference.
    Up,
    /// One less.
    Down,
}

/// Where a cluster's count is.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountPlace {
    /// Index in the refcount table.
    pub(super) table: u64,
    /// Index in the refcount block.
    pub(super) entry: u64,
}

impl Geometry {
    #[inline]
    pub(super) fn count_place(self, cluster: ClusterIndex) -> CountPlace {
        let bits = self.cluster_bits + 3 - self.refcount_order;
        CountPlace { table: cluster.0 >> bits, entry: cluster.0 & ((1 << bits) - 1) }
    }
}

impl Meta {
    /// The refcount block at a refcount table index, if there is one.
    pub(super) fn refblock(&self, table: u64) -> Option<HostOffset> {
        let entry = usize::try_from(table).ok().and_then(|i| self.reftable.get(i))?;
        Some(HostOffset(entry & REFTABLE_OFFSET)).filter(|at| at.0 != 0)
    }

    /// How often a cluster is referenced.
    ///
    /// # Errors
    /// A refcount block out of place, or the file's.
    pub(super) fn refcount(&mut self, cluster: ClusterIndex) -> Result<u64> {
        let place = self.geometry.count_place(cluster);
        let Some(block) = self.refblock(place.table) else { return Ok(0) };
        if self.geometry.within(block.0) != 0 {
            return Err(self.corrupt(format!(
                "Refblock offset {block:#x} unaligned (reftable index: {})",
                hex(place.table)
            )));
        }
        let order = self.geometry.refcount_order;
        Ok(get(self.caches.load(Tables::Refcounts, block)?, place.entry, order))
    }

    /// Sets a cluster's count; its refcount block exists.
    pub(super) fn set_refcount(&mut self, cluster: ClusterIndex, count: u64) -> Result<()> {
        let place = self.geometry.count_place(cluster);
        let block = self.refblock(place.table).ok_or_else(|| Error::from_errno(nix::libc::EINVAL))?;
        let order = self.geometry.refcount_order;
        self.guard_table(Tables::Refcounts, block, Overlap::REFCOUNT_BLOCK)?;
        self.event("refblock_load");
        set(self.caches.change(Tables::Refcounts, block)?, place.entry, order, count);
        Ok(())
    }

    /// Counts one more or one less reference to each cluster of a range whose refcount blocks exist.
    ///
    /// # Errors
    /// A count that would leave its range (`EINVAL`), a missing refcount block, or the file's.
    pub(super) fn change_refcounts(&mut self, clusters: Range<u64>, change: Change) -> Result<()> {
        for cluster in clusters.map(ClusterIndex) {
            let count = self.refcount(cluster)?;
            let table = self.geometry.count_place(cluster).table;
            if change == Change::Up && self.refblock(table).is_none() {
                // A cluster that is in use and was never counted.
                let beyond = table >= MAX_REFTABLE_BYTES / 8;
                return Err(Error::from_errno(if beyond { nix::libc::EFBIG } else { nix::libc::EAGAIN }));
            }
            let next = match change {
                Change::Up if count < self.geometry.max_refcount() => count + 1,
                Change::Down if count > 0 => count - 1,
                _ => return Err(Error::from_errno(nix::libc::EINVAL)),
            };
            self.set_refcount(cluster, next)?;
            if next == 0 {
                self.free_hint = self.free_hint.min(cluster);
                // Compressed data must not be appended to what may soon be something else.
                self.free_bytes = self.free_bytes.filter(|at| self.geometry.index(*at) != cluster);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_read_back_and_leave_their_neighbours_alone() {
        for order in 0..=6 {
            let max = if order == 6 { u64::MAX } else { (1u64 << (1 << order)) - 1 };
            let mut block = vec![0; 64];
            let entries = (64 * 8) >> order;
            for index in 0..entries {
                set(&mut block, index, order, max);
                assert_eq!(get(&block, index, order), max);
                assert!(index == 0 || get(&block, index - 1, order) == 0);
                assert!(index + 1 == entries || get(&block, index + 1, order) == 0);
                set(&mut block, index, order, 0);
            }
        }
    }

    #[test]
    fn narrow_counts_begin_at_the_lowest_bit_and_wide_ones_are_big_endian() {
        let mut block = vec![0; 8];
        set(&mut block, 1, 0, 1);
        set(&mut block, 1, 4, 0x1234);
        assert_eq!(block, [2, 0, 0x12, 0x34, 0, 0, 0, 0]);
    }
}
