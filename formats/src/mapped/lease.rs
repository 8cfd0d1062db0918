//! Leases: who may change the entry of a guest cluster. At most one live lease per guest cluster.

use std::ops::Range;

/// The live leases of an image.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    next: u64,
    live: Vec<(u64, Range<u64>)>,
}

impl Leases {
    /// How many of the `len` bytes at `at` come before the first leased cluster; 0 when the first is leased.
    pub(crate) fn clear_bytes(&self, at: u64, len: u64) -> u64 {
        let ahead = self.live.iter().filter(|(_, range)| range.end > at);
        ahead.map(|(_, range)| range.start.saturating_sub(at)).fold(len, u64::min)
    }

    /// Leases the guest clusters of `range`, which are free.
    pub(crate) fn take(&mut self, range: Range<u64>) -> u64 {
        debug_assert_eq!(self.clear_bytes(range.start, range.end - range.start), range.end - range.start);
        self.next += 1;
        self.live.push((self.next, range));
        self.next
    }

    /// Ends a lease.
    pub(crate) fn give_back(&mut self, id: u64) {
        self.live.retain(|(live, _)| *live != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_trimmed_to_what_is_before_the_first_lease() {
        let mut leases = Leases::default();
        let first = leases.take(100..200);
        leases.take(300..400);
        assert_eq!(leases.clear_bytes(0, 1000), 100);
        assert_eq!(leases.clear_bytes(150, 10), 0);
        assert_eq!(leases.clear_bytes(200, 50), 50);
        assert_eq!(leases.clear_bytes(200, 150), 100);
        leases.give_back(first);
        assert_eq!(leases.clear_bytes(0, 1000), 300);
    }
}
