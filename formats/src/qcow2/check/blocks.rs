//! Refcounts as they stand in the image, a block at a time: lookups in the order of the file are next to free.

use crate::mapped::ClusterIndex;
use crate::qcow2::meta::Meta;
use crate::qcow2::order::Tables;
use crate::qcow2::refcount;
use block::Result;

/// The refcount block looked at last.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Its index in the refcount table.
    table: Option<u64>,
    /// Its contents; empty where there is no block.
    bytes: Vec<u8>,
}

impl Blocks {
    /// How often a cluster is referenced, as far as the image says. Changes made meanwhile to the block looked at last
    /// are not seen.
    #[inline]
    pub(super) fn refcount(&mut self, meta: &mut Meta, cluster: ClusterIndex) -> Result<u64> {
        let g = meta.geometry;
        let place = g.count_place(cluster);
        if self.table != Some(place.table) {
            self.table = None;
            self.bytes.clear();
            // An error is that of the first cluster of the block that is asked for; the others ask again.
            meta.refcount(cluster)?;
            if let Some(block) = meta.refblock(place.table) {
                self.bytes.extend_from_slice(meta.caches.load(Tables::Refcounts, block)?);
            }
            self.table = Some(place.table);
        }
        if self.bytes.is_empty() {
            Ok(0)
        } else {
            Ok(refcount::get(&self.bytes, place.entry, g.refcount_order))
        }
    }
}
