//! Building refcounts anew from the references counted.
//!
//! New refcount blocks and a new table go where nothing is referenced; the old ones are left as they are until the
//! header points at the new table, and leak then.

use super::Checker;
use crate::mapped::{ClusterIndex, HostOffset};
use crate::qcow2::header::{MAX_REFTABLE_BYTES, Table, field};
use crate::qcow2::order::Tables;
use crate::qcow2::refcount;
use block::{Error, Event, Result};

/// Where the new structures go.
#[derive(Debug, Default)]
struct Layout {
    /// By refcount table index: the block's cluster, or 0.
    blocks: Vec<u64>,
    table: u64,
    table_clusters: u64,
}

impl Checker<'_> {
    /// Writes new refcount blocks and a new table, and switches to them.
    pub(super) fn rebuild_refcounts(&mut self) -> Result<()> {
        let layout = self.lay_out()?;
        let g = self.meta.geometry;
        let mut table =
            vec![0; usize::try_from(layout.table_clusters * g.cluster_size()).unwrap_or(usize::MAX)];
        for (index, cluster) in layout.blocks.iter().enumerate().filter(|(_, cluster)| **cluster > 0) {
            let bytes = self.refblock(index as u64);
            let at = g.host(ClusterIndex(*cluster));
            self.meta.caches.write_fresh(at, &bytes, Event("refblock_alloc_write"))?;
            table[index * 8..index * 8 + 8].copy_from_slice(&at.0.to_be_bytes());
        }
        let at = g.host(ClusterIndex(layout.table));
        // Dirty blocks of the old structure are of no use to anybody.
        self.meta.caches.tables(Tables::Refcounts).clear();
        self.meta.caches.write_fresh(at, &table, Event("refblock_alloc_write_table"))?;
        let count = u32::try_from(layout.table_clusters).map_err(|_| Error::from_errno(nix::libc::EFBIG))?;
        let pointer = [&at.0.to_be_bytes()[..], &count.to_be_bytes()].concat();
        let event = Event("refblock_alloc_switch_table");
        self.meta.caches.write_pointer(HostOffset(field::REFTABLE_OFFSET), &pointer, event)?;
        self.meta.caches.settle()?;
        self.meta.header.reftable = Table { offset: at.0, count };
        self.meta.reftable = table.chunks_exact(8).map(|b| crate::qcow2::header::be64(b, 0)).collect();
        self.meta.guard.forget();
        self.meta.free_hint = ClusterIndex(0);
        self.meta.free_bytes = None;
        Ok(())
    }

    /// Finds room for a block wherever something is referenced, and for the table; both are referenced from then on,
    /// which may take more blocks.
    fn lay_out(&mut self) -> Result<Layout> {
        let g = self.meta.geometry;
        let per_block = g.refblock_entries();
        let mut layout = Layout::default();
        // No block before `from` is missing, and no cluster before `free` is free.
        let (mut from, mut free) = (0, 0);
        loop {
            let blocks = self.counts.end().min(self.counts.len()).div_ceil(per_block);
            let needed = g.clusters(blocks * 8);
            if needed << g.cluster_bits > MAX_REFTABLE_BYTES {
                return Err(Error::from_errno(nix::libc::EFBIG));
            }
            layout.blocks.resize(usize::try_from(blocks).unwrap_or(usize::MAX), 0);
            let missing = (from..blocks).find(|i| {
                let slot = layout.blocks[usize::try_from(*i).unwrap_or(usize::MAX)];
                slot == 0 && self.counts.any(i * per_block..(i + 1) * per_block)
            });
            if let Some(index) = missing {
                let cluster = self.counts.free_run(free, 1);
                self.counts.add(ClusterIndex(cluster), u64::MAX)?;
                layout.blocks[usize::try_from(index).unwrap_or(usize::MAX)] = cluster;
                (from, free) = (index.min(cluster / per_block), cluster + 1);
                continue;
            }
            if layout.table_clusters >= needed {
                return Ok(layout);
            }
            // Where the table goes may need one block more.
            let room = needed + 1;
            let clusters = if layout.table_clusters == 0 { needed } else { room };
            layout.table = self.counts.free_run(free, clusters);
            layout.table_clusters = clusters;
            from = layout.table / per_block;
            for cluster in layout.table..layout.table + clusters {
                self.counts.add(ClusterIndex(cluster), u64::MAX)?;
            }
        }
    }

    fn refblock(&self, index: u64) -> Vec<u8> {
        let g = self.meta.geometry;
        let mut bytes = vec![0; g.cluster_len()];
        let first = index * g.refblock_entries();
        for entry in 0..g.refblock_entries() {
            let count = self.counts.get(ClusterIndex(first + entry));
            if count > 0 {
                refcount::set(&mut bytes, entry, g.refcount_order, count);
            }
        }
        bytes
    }
}
