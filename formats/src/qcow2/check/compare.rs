//! Comparing the refcounts of the image with the references counted.

use super::Checker;
use super::blocks::Blocks;
use crate::mapped::ClusterIndex;
use block::Result;
use block::check::Repair;
use std::ops::Range;

impl Checker<'_> {
    /// Compares every cluster, mending what `repair` allows; gives one more than the last cluster in use.
    pub(super) fn compare(&mut self, repair: Repair) -> Result<u64> {
        // The header is there whatever the counts say.
        let mut end = 1;
        self.agrees = true;
        let mut blocks = Blocks::default();
        let per_block = self.meta.geometry.refblock_entries();
        // Of a file that is longer than anything known of it, the rest is not looked at.
        let known = self.counts.end().max(self.meta.reftable.len() as u64 * per_block);
        let len = self.counts.len().min(known);
        for table in 0..len.div_ceil(per_block) {
            let clusters = table * per_block..len.min((table + 1) * per_block);
            if self.meta.refblock(table).is_some() || self.counts.may_hold(&clusters) {
                match blocks.agreeing(self.meta, &self.counts, clusters.clone()) {
                    Some(used) => end = used.unwrap_or(end),
                    None => self.compare_block(clusters, repair, &mut blocks, &mut end),
                }
            }
        }
        Ok(end)
    }

    fn compare_block(&mut self, clusters: Range<u64>, repair: Repair, blocks: &mut Blocks, end: &mut u64) {
        for cluster in clusters.map(ClusterIndex) {
            let stored = match blocks.refcount(self.meta, cluster) {
                Ok(stored) => stored,
                Err(e) => {
                    (self.report)(&format!("Can't get refcount for cluster {}: {}", cluster.0, e.strerror()));
                    self.result.check_errors += 1;
                    self.agrees = false;
                    continue;
                }
            };
            let counted = self.counts.get(cluster);
            if stored > 0 || counted > 0 {
                *end = cluster.0 + 1;
            }
            if stored != counted {
                self.differs(cluster, stored, counted, repair);
            }
        }
    }

    fn differs(&mut self, cluster: ClusterIndex, stored: u64, counted: u64, repair: Repair) {
        self.agrees = false;
        let leak = stored > counted;
        let mendable = match leak {
            // Without a refcount there may be no refcount block; a block made now might land on something in use.
            _ if stored == 0 => {
                self.rebuild = true;
                false
            }
            true => repair.mends_leaks(),
            false => repair.mends_errors(),
        };
        let verb = match (mendable, leak) {
            (true, _) => "Repairing",
            (false, true) => "Leaked",
            (false, false) => "ERROR",
        };
        (self.report)(&format!("{verb} cluster {} refcount={stored} reference={counted}", cluster.0));
        let mended = mendable && self.meta.set_refcount(cluster, counted).is_ok();
        if mended && counted == 0 {
            self.meta.free_hint = self.meta.free_hint.min(cluster);
        }
        let result = &mut self.result;
        *match (mended, leak) {
            (true, true) => &mut result.leaks_fixed,
            (true, false) => &mut result.corruptions_fixed,
            (false, true) => &mut result.leaks,
            (false, false) => &mut result.corruptions,
        } += 1;
    }
}
