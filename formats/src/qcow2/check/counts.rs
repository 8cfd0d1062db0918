//! How often each cluster of the file is referenced, as counted from the tables. Pages without references take no room.

use crate::mapped::ClusterIndex;
use block::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;

const PAGE: usize = 4096;

/// More clusters than any file can have that is not a mistake: one page table entry each 4096 clusters.
const MAX_PAGES: usize = 1 << 22;

/// Look among the large counts.
const LARGE: u16 = u16::MAX;

/// The counts of neighbours: a byte each as long as none is large.
#[derive(Debug)]
enum Page {
    Narrow(Box<[u8; PAGE]>),
    Wide(Box<[u16; PAGE]>),
}

impl Page {
    fn new() -> Self {
        Page::Narrow(Box::new([0; PAGE]))
    }

    /// The same counts, in wide slots.
    fn widen(&mut self) -> &mut [u16; PAGE] {
        if let Page::Narrow(slots) = self {
            *self = Page::Wide(Box::new(slots.map(u16::from)));
        }
        let Page::Wide(slots) = self else { unreachable!("it was just made wide") };
        slots
    }

    #[inline]
    fn get(&self, entry: usize) -> u16 {
        match self {
            Page::Narrow(slots) => slots[entry].into(),
            Page::Wide(slots) => slots[entry],
        }
    }

    /// Some of its counts.
    fn slots(&self, range: Range<usize>) -> Slots<'_> {
        match self {
            Page::Narrow(slots) => Slots::Narrow(&slots[range]),
            Page::Wide(slots) => Slots::Wide(&slots[range]),
        }
    }

    /// Counts one more for each slot of `range`, unless one of them has `limit` or more already.
    fn add_run(&mut self, range: Range<usize>, limit: u16) -> bool {
        match self {
            Page::Narrow(slots) => {
                match add_below(&mut slots[range.clone()], u8::try_from(limit).unwrap_or(u8::MAX)) {
                    true => true,
                    false if limit <= u8::MAX.into() => false,
                    false => add_below(&mut self.widen()[range], limit),
                }
            }
            Page::Wide(slots) => add_below(&mut slots[range], limit),
        }
    }
}

/// Counts one more for each slot, unless one of them has `limit` or more already.
fn add_below<T: Copy + Ord + From<u8> + std::ops::AddAssign>(slots: &mut [T], limit: T) -> bool {
    if slots.iter().fold(T::from(0), |most, count| most.max(*count)) >= limit {
        return false;
    }
    slots.iter_mut().for_each(|count| *count += T::from(1));
    true
}

/// Some of the counts of a page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slots<'a> {
    Narrow(&'a [u8]),
    Wide(&'a [u16]),
}

impl Slots<'_> {
    /// Whether these are exactly the counts stored, none of them large.
    pub(super) fn are(self, stored: &[[u8; 2]]) -> bool {
        match self {
            Slots::Narrow(slots) => same(slots, stored),
            Slots::Wide(slots) => same(slots, stored) && !slots.contains(&LARGE),
        }
    }

    /// The last cluster that is referenced.
    pub(super) fn last_used(self) -> Option<usize> {
        match self {
            Slots::Narrow(slots) => slots.iter().rposition(|count| *count != 0),
            Slots::Wide(slots) => slots.iter().rposition(|count| *count != 0),
        }
    }

    /// Whether each is 1.
    fn all_once(self) -> bool {
        match self {
            Slots::Narrow(slots) => slots.iter().fold(0, |differs, count| differs | (count ^ 1)) == 0,
            Slots::Wide(slots) => slots.iter().fold(0, |differs, count| differs | (count ^ 1)) == 0,
        }
    }
}

fn same<T: Copy + Into<u16>>(counted: &[T], stored: &[[u8; 2]]) -> bool {
    let differs = |differs, (stored, counted): (&[u8; 2], &T)| {
        differs | (u16::from_be_bytes(*stored) ^ (*counted).into())
    };
    stored.iter().zip(counted).fold(0, differs) == 0
}

/// Counts by cluster.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pages: Vec<Option<Page>>,
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

    /// A cluster from which on none is referenced, whatever the length of the file.
    pub(super) fn end(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }

    /// How often a cluster is referenced.
    #[inline]
    pub(super) fn get(&self, cluster: ClusterIndex) -> u64 {
        let (page, entry) = split(cluster);
        match self.pages.get(page).and_then(Option::as_ref).map_or(0, |p| p.get(entry)) {
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
        let slots = match self.pages[page].get_or_insert_with(Page::new) {
            Page::Narrow(slots) if slots[entry] < u8::MAX => {
                let room = u64::from(slots[entry]) < max;
                slots[entry] += u8::from(room);
                return Ok(room);
            }
            page => page.widen(),
        };
        let count = &mut slots[entry];
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

    /// Counts one more reference to each cluster of `range`, a page at a time, up to a page where one has many already; gives
    /// the first cluster that was not counted.
    pub(super) fn add_run(&mut self, range: Range<u64>, max: u64) -> u64 {
        let limit = u16::try_from(max).unwrap_or(LARGE).min(LARGE - 1);
        let mut at = range.start;
        while at < range.end {
            let (page, entry) = split(ClusterIndex(at));
            if page >= MAX_PAGES {
                break;
            }
            if page >= self.pages.len() {
                self.pages.resize_with(page + 1, || None);
            }
            let end = PAGE.min(entry.saturating_add(usize::try_from(range.end - at).unwrap_or(usize::MAX)));
            if !self.pages[page].get_or_insert_with(Page::new).add_run(entry..end, limit) {
                break;
            }
            at += (end - entry) as u64;
        }
        self.len = self.len.max(at);
        at
    }

    /// The parts of `range` page by page, with the counts of each as far as there is a page.
    pub(super) fn pages(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, Option<Slots<'_>>)> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let (page, entry) = split(ClusterIndex(at));
            let end = range.end.min(at + (PAGE - entry) as u64);
            let part = at..end;
            at = end;
            let slots = self.pages.get(page).and_then(Option::as_ref);
            let len = usize::try_from(part.end - part.start).unwrap_or(0);
            (!part.is_empty()).then(|| (part, slots.map(|slots| slots.slots(entry..entry + len))))
        })
    }

    /// Whether each cluster of `range` is referenced exactly once.
    pub(super) fn all_once(&self, range: Range<u64>) -> bool {
        self.pages(range).all(|(_, slots)| slots.is_some_and(Slots::all_once))
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
    pub(super) fn may_hold(&self, range: &Range<u64>) -> bool {
        let (first, last) = (split(ClusterIndex(range.start)).0, split(ClusterIndex(range.end.max(1) - 1)).0);
        let last = last.min(self.pages.len().saturating_sub(1));
        self.pages.get(first..=last).is_some_and(|pages| pages.iter().any(Option::is_some))
    }

    /// Whether any cluster of `range` is referenced.
    pub(super) fn any(&self, mut range: Range<u64>) -> bool {
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
    fn a_run_is_counted_as_far_as_no_count_is_near_its_limit() {
        let mut counts = Counts::new(1);
        assert_eq!(counts.add_run(10..10_000, 2), 10_000);
        assert!(counts.all_once(10..10_000) && !counts.all_once(9..11) && !counts.all_once(9_999..20_000));
        counts.add(ClusterIndex(5_000), 2).unwrap();
        assert_eq!(counts.add_run(10..10_000, 2), 4096);
        let parts: Vec<_> =
            counts.pages(4000..4100).map(|(part, slots)| (part, slots.unwrap().all_once())).collect();
        assert_eq!(parts, [(4000..4096, false), (4096..4100, true)]);
        assert_eq!(
            (counts.len(), counts.pages(1 << 30..1 << 31).next().unwrap().1.is_none()),
            (10_000, true)
        );
    }

    #[test]
    fn counts_are_exact_up_to_the_largest_there_may_be() {
        let mut counts = Counts::new(1);
        let times = (0..70_000).filter(|_| counts.add(ClusterIndex(0), 69_999).unwrap()).count();
        assert_eq!((times as u64, counts.get(ClusterIndex(0))), (69_999, 69_999));
        assert_eq!(counts.add_run(0..3, 9), 0);
        let times = (0..400).filter(|_| counts.add_run(4097..4100, 300) == 4100).count();
        assert_eq!((times, counts.get(ClusterIndex(4098)), counts.get(ClusterIndex(4096))), (300, 300, 0));
        assert!(!counts.add(ClusterIndex(1), 0).unwrap());
        assert!(counts.add(ClusterIndex(1), 1).unwrap() && !counts.add(ClusterIndex(1), 1).unwrap());
    }
}
