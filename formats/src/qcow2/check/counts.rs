//! How often each cluster of the file is referenced, as counted from the tables. Pages without references take no room.

use crate::mapped::ClusterIndex;
use block::{Error, Result};
use std::collections::HashMap;

const PAGE: usize = 4096;

/// More clusters than any file can have that is not a mistake: one page table entry each 4096 clusters.
const MAX_PAGES: usize = 1 << 22;

/// Look among the large counts.
const LARGE: u16 = u16::MAX;

/// Counts by cluster.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pages: Vec<Option<Box<[u16; PAGE]>>>,
    /// Counts too large for a page, which says [`LARGE`] then.
    large: HashMap<u64, u64>,
    /// Clusters there are, counted or not.
    len: u64,
}

#[inline]
fn split(cluster: ClusterIndex) -> (usize, usize) {
    let index = usize::try_from(cluster.0).unwrap_or(usize::MAX);
    (index / PAGE, index % PAGE)
}

impl Counts {
    /// Counts for `len` clusters, all 0.
    pub(super) fn new(len: u64) -> Self {
        Counts { len, ..Counts::default() }
    }

    /// How many clusters there are.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How often a cluster is referenced.
    #[inline]
    pub(super) fn get(&self, cluster: ClusterIndex) -> u64 {
        let (page, entry) = split(cluster);
        match self.pages.get(page).and_then(Option::as_ref).map_or(0, |p| p[entry]) {
            LARGE => self.large.get(&cluster.0).copied().unwrap_or(0),
            count => count.into(),
        }
    }

    /// Counts one more reference, unless there are `max` already; whether it was counted.
    ///
    /// # Errors
    /// A cluster beyond all reason (`EFBIG`).
    #[inline]
    pub(super) fn add(&mut self, cluster: ClusterIndex, max: u64) -> Result<bool> {
        let (page, entry) = split(cluster);
        if page >= MAX_PAGES {
            return Err(Error::from_errno(nix::libc::EFBIG));
        }
        self.len = self.len.max(cluster.0 + 1);
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let count = &mut self.pages[page].get_or_insert_with(|| Box::new([0; PAGE]))[entry];
        if *count == LARGE {
            let count = self.large.entry(cluster.0).or_insert(LARGE.into());
            let room = *count < max;
            *count += u64::from(room);
            return Ok(room);
        }
        if u64::from(*count) >= max {
            return Ok(false);
        }
        *count += 1;
        if *count == LARGE {
            self.large.insert(cluster.0, LARGE.into());
        }
        Ok(true)
    }

    /// The first run of `count` clusters without references at or after `from`.
    pub(super) fn free_run(&self, from: u64, count: u64) -> u64 {
        let mut start = from;
        let mut end = from;
        while end - start < count {
            if self.get(ClusterIndex(end)) > 0 {
                start = end + 1;
            }
            end += 1;
        }
        start
    }

    /// Whether a cluster of `range` can be referenced: false where there is no page for any of them.
    pub(super) fn may_hold(&self, range: &std::ops::Range<u64>) -> bool {
        let (first, last) = (split(ClusterIndex(range.start)).0, split(ClusterIndex(range.end.max(1) - 1)).0);
        let last = last.min(self.pages.len().saturating_sub(1));
        self.pages.get(first..=last).is_some_and(|pages| pages.iter().any(Option::is_some))
    }

    /// Whether any cluster of `range` is referenced.
    pub(super) fn any(&self, mut range: std::ops::Range<u64>) -> bool {
        self.may_hold(&range) && range.any(|cluster| self.get(ClusterIndex(cluster)) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_with_references_take_room() {
        let mut counts = Counts::new(10);
        counts.add(ClusterIndex(1 << 30), 9).unwrap();
        counts.add(ClusterIndex(1 << 30), 9).unwrap();
        assert_eq!(counts.get(ClusterIndex(1 << 30)), 2);
        assert_eq!(counts.get(ClusterIndex((1 << 30) - 1)), 0);
        assert_eq!(counts.pages.iter().flatten().count(), 1);
        assert_eq!(counts.len(), (1 << 30) + 1);
        assert!(counts.add(ClusterIndex(u64::MAX), 9).is_err());
        counts.add(ClusterIndex(2), 9).unwrap();
        assert_eq!(counts.free_run(0, 3), 3);
    }
    #[test]
    fn counts_are_exact_up_to_the_largest_there_may_be() {
        let mut counts = Counts::new(1);
        let times = (0..70_000).filter(|_| counts.add(ClusterIndex(0), 69_999).unwrap()).count();
        assert_eq!((times as u64, counts.get(ClusterIndex(0))), (69_999, 69_999));
        assert!(!counts.add(ClusterIndex(1), 0).unwrap());
        assert!(counts.add(ClusterIndex(1), 1).unwrap() && !counts.add(ClusterIndex(1), 1).unwrap());
    }
}
