//! Giving all reference counts another width.
//!
//! New refcount blocks and a new table are allocated and filled while the old ones are in force; then one write of the
//! header switches both place and width, and the old ones are given up. Interrupted before the switch, the new ones
//! leak; after it, the old ones do.

use super::steps::Steps;
use crate::mapped::{ClusterIndex, HostOffset};
use crate::qcow2::geometry::Geometry;
use crate::qcow2::header::{MAX_REFTABLE_BYTES, Table};
use crate::qcow2::image::Qcow2;
use crate::qcow2::meta::{FreedBy, Meta};
use crate::qcow2::order::Tables;
use crate::qcow2::refcount;
use block::{Context, Error, Event, Result};

/// The new structures.
#[derive(Debug, Default)]
struct Layout {
    /// By refcount table index: where the block is, or 0.
    blocks: Vec<u64>,
    /// Where the table is, and how many clusters it has.
    table: Option<(HostOffset, u64)>,
}

/// Which walk over the old refcount table this is, for the progress.
#[derive(Debug, Clone, Copy)]
struct Walks {
    done: u64,
    expected: u64,
}

impl Qcow2 {
    /// Makes every reference count 2^`order` bits wide.
    pub(super) fn change_width(&self, order: u32, steps: &mut Steps<'_>) -> Result<()> {
        let mut meta = self.lock();
        // Nothing may be waiting for the old counts.
        meta.end_lazy()?;
        meta.release_pending()?;
        let new = Geometry { refcount_order: order, ..meta.geometry };
        let mut layout = Layout::default();
        // At least one walk that allocates, one that finds nothing more to allocate, and one that writes.
        let mut walks = Walks { done: 0, expected: 3 };
        while meta.extend_layout(&mut layout, new, walks, steps)? {
            walks.done += 1;
            walks.expected = walks.expected.max(walks.done + 2);
        }
        walks.done += 1;
        meta.fill_layout(&layout, new, walks, steps)?;
        meta.switch_width(&layout, new)?;
        let len = meta.reftable.len() as u64;
        steps.at(len, len);
        Ok(())
    }
}

impl Meta {
    /// Allocates what is missing in `layout` for the counts there are now; whether anything was.
    fn extend_layout(
        &mut self,
        layout: &mut Layout,
        new: Geometry,
        walks: Walks,
        steps: &mut Steps<'_>,
    ) -> Result<bool> {
        let mut changed = false;
        let mut table = 0;
        // The table may grow while it is walked.
        while table < self.reftable.len() as u64 {
            let len = self.reftable.len() as u64;
            steps.at(walks.done * len + table, walks.expected * len);
            if self.refblock(table).is_some() {
                let entries = self.geometry.refblock_entries();
                for cluster in (table * entries..(table + 1) * entries).map(ClusterIndex) {
                    changed |= self.place_count(layout, new, cluster)?;
                }
            }
            table += 1;
        }
        let wanted = new.clusters(layout.blocks.len() as u64 * 8).max(1);
        if wanted << new.cluster_bits > MAX_REFTABLE_BYTES {
            return Err(Error::from_errno(nix::libc::EFBIG).context("Failed to allocate the new reftable"));
        }
        match layout.table {
            Some((_, clusters)) if clusters >= wanted => return Ok(changed),
            Some((at, clusters)) => self.free_now(at, clusters << new.cluster_bits, FreedBy::Other)?,
            None => {}
        }
        let at = self.allocate(wanted).context(|| "Failed to allocate the new reftable")?;
        layout.table = Some((at, wanted));
        Ok(true)
    }

    /// Sees to it that the count of `cluster`, if it has any, has a place; whether a block was allocated for it.
    fn place_count(&mut self, layout: &mut Layout, new: Geometry, cluster: ClusterIndex) -> Result<bool> {
        let count = self.refcount(cluster)?;
        if count == 0 {
            return Ok(false);
        }
        if count > new.max_refcount() {
            return Err(Error::invalid(format!(
                "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} has a refcount of {count}",
                new.refcount_bits(),
                new.host(cluster).0
            )));
        }
        let index = usize::try_from(new.count_place(cluster).table).unwrap_or(usize::MAX);
        if index >= layout.blocks.len() {
            layout.blocks.resize(index + 1, 0);
        }
        if layout.blocks[index] != 0 {
            return Ok(false);
        }
        layout.blocks[index] = self.allocate(1).context(|| "Failed to allocate refblock")?.0;
        Ok(true)
    }

    /// Writes the new blocks and the new table; nothing points at them yet.
    fn fill_layout(
        &mut self,
        layout: &Layout,
        new: Geometry,
        walks: Walks,
        steps: &mut Steps<'_>,
    ) -> Result<()> {
        let len = self.reftable.len() as u64;
        let ratio = new.refblock_entries() as f64 / self.geometry.refblock_entries() as f64;
        for (index, block) in (0u64..).zip(&layout.blocks) {
            steps.at(walks.done * len + ((index as f64 * ratio) as u64).min(len), walks.expected * len);
            if *block == 0 {
                continue;
            }
            let mut bytes = vec![0; new.cluster_len()];
            for entry in 0..new.refblock_entries() {
                let count = self.refcount(ClusterIndex(index * new.refblock_entries() + entry))?;
                refcount::set(&mut bytes, entry, new.refcount_order, count);
            }
            self.caches.write_fresh(HostOffset(*block), &bytes, Event("refblock_alloc_write"))?;
        }
        let (at, clusters) = layout.table.ok_or_else(|| Error::from_errno(nix::libc::EIO))?;
        let mut bytes: Vec<u8> = layout.blocks.iter().flat_map(|block| block.to_be_bytes()).collect();
        bytes.resize(usize::try_from(clusters << new.cluster_bits).unwrap_or(usize::MAX), 0);
        self.caches.write_fresh(at, &bytes, Event("refblock_alloc_write_table"))
    }

    /// Makes the header speak of the new structures, and gives the old ones up.
    fn switch_width(&mut self, layout: &Layout, new: Geometry) -> Result<()> {
        let (at, clusters) = layout.table.ok_or_else(|| Error::from_errno(nix::libc::EIO))?;
        let old = (self.header.clone(), std::mem::take(&mut self.reftable));
        self.header.geometry = new;
        self.header.reftable = Table { offset: at.0, count: u32::try_from(clusters).unwrap_or(u32::MAX) };
        let written = self.write_header().and_then(|()| self.caches.settle());
        if let Err(e) = written {
            (self.header, self.reftable) = old;
            return Err(e.context("Failed to update the image header"));
        }
        self.geometry = new;
        self.caches.tables(Tables::Refcounts).clear();
        self.reftable = layout.blocks.clone();
        self.guard.forget();
        self.reftable.resize(usize::try_from((clusters << new.cluster_bits) / 8).unwrap_or(usize::MAX), 0);
        let (header, blocks) = old;
        for block in blocks.into_iter().map(|entry| entry & refcount::REFTABLE_OFFSET).filter(|b| *b != 0) {
            self.free_now(HostOffset(block), new.cluster_size(), FreedBy::Other)?;
        }
        let bytes = u64::from(header.reftable.count) << new.cluster_bits;
        self.free_now(HostOffset(header.reftable.offset), bytes, FreedBy::Other)
    }
}
