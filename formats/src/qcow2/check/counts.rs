//! How often each cluster of the file is referenced, as counted from the tables. Pages without references take no room.

use crate::mapped::ClusterIndex;
use block::{Error, Result};

const PAGE: usize = 4096;

/// More clusters than any file can have that is not a mistake: one page table entry each 4096 clusters.
const MAX_PAGES: usize = 1 << 22;

/// Counts by cluster.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pages: Vec<Option<Box<[u32; PAGE]>>>,
    /// Clusters there are, counted or not.
    len: u64,
}

fn split(cluster: ClusterIndex) -> (usize, usize) {
    let index = usize::try_from(cluster.0).unwrap_or(usize::MAX);
    (index / PAGE, index % PAGE)
}

impl Counts {
    /// Counts for `len` clusters, all 0.
    pub(super) fn new(len: u64) -> Self {
        Counts { pages: Vec::new(), len }
    }

    /// How many clusters there are.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How often a cluster is referenced.
    pub(super) fn get(&self, cluster: ClusterIndex) -> u64 {
        let (page, entry) = split(cluster);
        self.pages.get(page).and_then(Option::as_ref).map_or(0, |p| p[entry].into())
    }

    /// Counts one more reference.
    ///
    /// # Errors
    /// A cluster beyond all reason (`EFBIG`).
    pub(super) fn add(&mut self, cluster: ClusterIndex) -> Result<()> {
        let (page, entry) = split(cluster);
        if page >= MAX_PAGES {
            return Err(Error::from_errno(nix::libc::EFBIG));
        }
        self.len = self.len.max(cluster.0 + 1);
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| Box::new([0; PAGE]));
        page[entry] = page[entry].saturating_add(1);
        Ok(())
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

    /// Whether any cluster of `range` is referenced.
    pub(super) fn any(&self, mut range: std::ops::Range<u64>) -> bool {
        range.any(|cluster| self.get(ClusterIndex(cluster)) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_with_references_take_room() {
        let mut counts = Counts::new(10);
        counts.add(ClusterIndex(1 << 30)).unwrap();
        counts.add(ClusterIndex(1 << 30)).unwrap();
        assert_eq!(counts.get(ClusterIndex(1 << 30)), 2);
        assert_eq!(counts.get(ClusterIndex((1 << 30) - 1)), 0);
        assert_eq!(counts.pages.iter().flatten().count(), 1);
        assert_eq!(counts.len(), (1 << 30) + 1);
        assert!(counts.add(ClusterIndex(u64::MAX)).is_err());
        counts.add(ClusterIndex(2)).unwrap();
        assert_eq!(counts.free_run(0, 3), 3);
    }
}
