//! Refcounts as they stand in the image, a block at a time: lookups in the order of the file are next to free.

use super::counts::{Counts, Slots};
use crate::mapped::ClusterIndex;
use crate::qcow2::meta::Meta;
use crate::qcow2::order::Tables;
use crate::qcow2::refcount;
use block::Result;
use std::ops::Range;

/// log2 of the width of refcounts that nearly all images have, in bits.
const PLAIN_ORDER: u32 = 4;

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
            self.load(meta, cluster)?;
        }
        if self.bytes.is_empty() {
            Ok(0)
        } else {
            Ok(refcount::get(&self.bytes, place.entry, g.refcount_order))
        }
    }

    /// Looks at the block of a cluster.
    fn load(&mut self, meta: &mut Meta, cluster: ClusterIndex) -> Result<()> {
        let table = meta.geometry.count_place(cluster).table;
        self.table = None;
        self.bytes.clear();
        // An error is that of the first cluster of the block that is asked for; the others ask again.
        meta.refcount(cluster)?;
        if let Some(block) = meta.refblock(table) {
            self.bytes.extend_from_slice(meta.caches.load(Tables::Refcounts, block)?);
        }
        self.table = Some(table);
        Ok(())
    }

    /// Where all clusters of `clusters`, which are those of one block or its beginning, are referenced as often as the
    /// image says: one more than the last of them in use, if any is. `None` where they are not, or where that takes a
    /// closer look.
    pub(super) fn agreeing(
        &mut self,
        meta: &mut Meta,
        counts: &Counts,
        clusters: Range<u64>,
    ) -> Option<Option<u64>> {
        let first = clusters.start;
        if meta.geometry.refcount_order != PLAIN_ORDER || self.load(meta, ClusterIndex(first)).is_err() {
            return None;
        }
        let stored = self.bytes.as_chunks::<2>().0;
        let mut end = None;
        for (part, counted) in counts.pages(clusters) {
            let at = |cluster: u64| usize::try_from(cluster - first).unwrap_or(usize::MAX);
            let stored = stored.get(at(part.start)..at(part.end)).unwrap_or_default();
            let Some(counted) = counted.filter(|_| !stored.is_empty()) else {
                let used = counted.and_then(Slots::last_used).is_some();
                if used || stored.iter().any(|count| *count != [0; 2]) {
                    return None;
                }
                continue;
            };
            if !counted.are(stored) {
                return None;
            }
            end = counted.last_used().map(|last| part.start + last as u64 + 1).or(end);
        }
        Some(end)
    }
}
