//! An image and its backing file: naming another one, and giving up everything so that it shows.

use super::features::Incompatible;
use super::header::{CryptMethod, MAX_BACKING_NAME, Table, Version, field};
use super::image::Qcow2;
use super::meta::{FreedBy, Meta};
use super::order::Tables;
use super::refcount;
use super::zero::DiscardTo;
use crate::mapped::{ClusterIndex, HostOffset};
use block::overlay::{BackingName, Emptying, Overlay};
use block::{Error, Event, Quiesced, Resize, Result, ZeroFlags};

impl Overlay for Qcow2 {
    fn set_backing(&self, _q: &Quiesced<'_>, to: Option<BackingName<'_>>) -> Result<()> {
        let mut meta = self.lock();
        let too_long = to.is_some_and(|to| to.file.len() > MAX_BACKING_NAME);
        if too_long || to.is_some() && self.data_file.is_some() && meta.header.raw_data_file() {
            return Err(Error::from_errno(nix::libc::EINVAL));
        }
        let old = meta.header.clone();
        meta.header.backing_file = to.map(|to| to.file.to_owned());
        meta.header.extensions.backing_format = to.and_then(|to| to.format.map(str::to_owned));
        let written = meta.write_header();
        if written.is_err() {
            meta.header = old;
        }
        written
    }
}

impl Emptying for Qcow2 {
    fn make_empty(&self, _q: &Quiesced<'_>) -> Result<()> {
        let mut meta = self.lock();
        meta.check_writable()?;
        if !meta.can_be_laid_out_anew() {
            drop(meta);
            return self.discard_range(0..self.size(), DiscardTo::Backing, FreedBy::Other);
        }
        meta.release_pending()?;
        meta.caches.write_all_back()?;
        let end = meta.lay_out_anew();
        if end.is_err() {
            // What is in memory is not what is on disk any more; the dirty bit tells whoever opens it next.
            meta.writable = false;
        }
        self.file.truncate(Resize { exact: false, ..Resize::to(end?) })?;
        meta.header.incompatible -= Incompatible::DIRTY;
        meta.write_incompatible()?;
        meta.caches.set_lazy(false);
        Ok(())
    }
}

impl Meta {
    /// Whether the image can be emptied in one go: nothing but the active disk is in it, there is a dirty bit, and one
    /// refcount block counts what an empty image has.
    fn can_be_laid_out_anew(&self) -> bool {
        let g = self.geometry;
        let kept = 3 + g.clusters(u64::from(self.header.l1.count) * 8);
        let alone = self.snapshots.is_empty() && self.header.extensions.bitmaps.is_none();
        alone
            && !self.external
            && self.header.version >= Version::V3
            && self.header.crypt != CryptMethod::Luks
            && kept <= g.refblock_entries()
    }

    /// Makes the image what it was when it was created, under the dirty bit; gives its length. No refcount is right
    /// between the first step and the last, and nothing of what was stored is needed after the first.
    fn lay_out_anew(&mut self) -> Result<u64> {
        let g = self.geometry;
        let l1_bytes = u64::from(self.header.l1.count) * 8;
        let l1_clusters = g.clusters(l1_bytes);
        self.header.incompatible |= Incompatible::DIRTY;
        self.write_incompatible()?;
        self.caches.set_lazy(true);
        let zeroes = vec![0; usize::try_from(l1_bytes).unwrap_or(usize::MAX)];
        self.caches.write_pointer(HostOffset(self.header.l1.offset), &zeroes, Event("l1_update"))?;
        self.caches.settle()?;
        self.l1.fill(0);
        self.caches.tables(Tables::L2).clear();
        self.caches.tables(Tables::Refcounts).clear();
        self.event("empty_image_prepare");
        let (table, block, l1) = (g.cluster_size(), 2 * g.cluster_size(), 3 * g.cluster_size());
        let end = l1 + (l1_clusters << g.cluster_bits);
        self.caches.file().write_zeroes(table..end, ZeroFlags::empty())?;
        let pointers = [&l1.to_be_bytes()[..], &table.to_be_bytes(), &1u32.to_be_bytes()].concat();
        self.caches.write_pointer(HostOffset(field::L1_OFFSET), &pointers, Event("reftable_update"))?;
        self.caches.settle()?;
        self.header.l1.offset = l1;
        self.header.reftable = Table { offset: table, count: 1 };
        self.caches.write_pointer(HostOffset(table), &block.to_be_bytes(), Event("refblock_alloc"))?;
        self.reftable = vec![0; g.cluster_len() / 8];
        self.reftable[0] = block;
        let mut counts = vec![0; g.cluster_len()];
        for cluster in 0..3 + l1_clusters {
            refcount::set(&mut counts, cluster, g.refcount_order, 1);
        }
        self.caches.write_fresh(HostOffset(block), &counts, Event("refblock_update"))?;
        self.caches.settle()?;
        self.free_hint = ClusterIndex(3 + l1_clusters);
        self.free_bytes = None;
        self.file_end = 0;
        Ok(end)
    }
}
