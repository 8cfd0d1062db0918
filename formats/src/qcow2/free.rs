//! Clusters that nothing points at any more, but something on disk still does: rule 3 of [`super::order`].
//!
//! A cluster that is given up waits here, its refcount unchanged, until the L2 table that lost it is on stable storage
//! and nobody reads from it (its pin count is zero). Only then is it counted down, and discarded if nothing is left.

use super::meta::{FreedBy, Meta};
use super::order::Tables;
use super::refcount::Change;
use crate::mapped::{ClusterIndex, HostOffset};
use block::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;

/// How many may wait before they are settled whether or not anybody needs them.
const MANY: usize = 4096;

/// Clusters waiting to be counted down.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: Vec<(ClusterIndex, FreedBy)>,
    times: HashMap<ClusterIndex, u64>,
    lowest_freed: Option<ClusterIndex>,
}

impl Pending {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a cluster is waiting.
    pub(super) fn has(&self, cluster: ClusterIndex) -> bool {
        self.times.contains_key(&cluster)
    }

    /// The first cluster that will be free.
    pub(super) fn lowest_freed(&self) -> Option<ClusterIndex> {
        self.lowest_freed
    }
}

impl Meta {
    /// Gives up one reference to each cluster that `bytes` bytes at `at` touch, from an L2 entry just changed.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn free_later(&mut self, at: HostOffset, bytes: u64, why: FreedBy) -> Result<()> {
        let g = self.geometry;
        for index in (g.index(at).0..=g.index(at.plus(bytes - 1)).0).map(ClusterIndex) {
            let times = *self.pending.times.entry(index).and_modify(|n| *n += 1).or_insert(1);
            if self.refcount(index)? <= times {
                let lowest = self.pending.lowest_freed.map_or(index, |l| l.min(index));
                self.pending.lowest_freed = Some(lowest);
            }
            self.pending.waiting.push((index, why));
        }
        if self.pending.waiting.len() >= MANY {
            self.release_pending()?;
        }
        Ok(())
    }

    /// Counts down what is waiting, after bringing the L2 tables to stable storage; whether anything was counted down.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn release_pending(&mut self) -> Result<bool> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        self.event("refblock_alloc");
        self.caches.settle_l2()?;
        self.event("cluster_free");
        let waiting = std::mem::take(&mut self.pending).waiting;
        let g = self.geometry;
        let total = waiting.len();
        let mut kept = Vec::new();
        for (index, why) in waiting {
            if self.pins.overlaps(g.host(index), g.cluster_size()) {
                kept.push((index, why));
                continue;
            }
            self.change_refcounts(index.0..index.0 + 1, Change::Down)?;
            self.discard_freed(index.0..index.0 + 1, why);
        }
        let released = kept.len() < total;
        kept.iter().for_each(|(index, _)| *self.pending.times.entry(*index).or_insert(0) += 1);
        self.pending.waiting = kept;
        Ok(released)
    }

    /// Writes everything back for the last time. Each cache that cannot be written is said, the last one by the error.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn flush_for_good(&mut self) -> Result<()> {
        let tables = self.release_pending().and_then(|_| self.caches.write_back(Tables::L2));
        let tables = tables.and_then(|()| self.caches.settle_all());
        let counts = if self.caches.is_lazy() { Ok(()) } else { self.caches.write_back(Tables::Refcounts) };
        let counts = counts.and_then(|()| self.caches.settle_all());
        let say = |what: &str, e: &Error| {
            let text = format!("Failed to flush the {what} cache");
            Error::from_errno(e.errno()).context(text)
        };
        match (tables, counts) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(e), Ok(())) => Err(say("L2 table", &e)),
            (Ok(()), Err(e)) => Err(say("refcount block", &e)),
            (Err(first), Err(second)) => {
                let first = say("L2 table", &first);
                block::tool::notice(&format!("{}: {first}", block::tool::program_name()));
                Err(say("refcount block", &second))
            }
        }
    }

    /// Tells the file that clusters whose count is now 0 are not needed, where such discards are passed on.
    pub(super) fn discard_freed(&mut self, clusters: Range<u64>, why: FreedBy) {
        if !self.discards.passes(why) {
            return;
        }
        for index in clusters.map(ClusterIndex) {
            if matches!(self.refcount(index), Ok(0)) {
                let at = self.geometry.host(index).0;
                // Space that is not given back is no failure of the operation that freed it.
                let _ = self.caches.file().discard(at..at + self.geometry.cluster_size());
            }
        }
    }
}
