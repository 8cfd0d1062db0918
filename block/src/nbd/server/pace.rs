//! How long requests take below, and what follows: how many threads are of use, and whether one takes several at once.
//!
//! What is cached takes a few microseconds, less than handing a request to another thread costs: then as many threads as
//! there are processors do all the work, each taking a few requests at a time. Where requests wait for a disk or a network,
//! each has a thread of its own, so that they wait together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Requests that take less than this on average are not worth a thread each, in nanoseconds.
const QUICK: u64 = 40_000;

/// One request counts as at most this, so that a thread that was held up once does not change much.
const MOST: u64 = 4 * QUICK;

/// The average is over about this many requests.
const MEMORY: u64 = 16;

/// The average time of recent requests.
#[derive(Debug, Default)]
pub(super) struct Pace {
    average: AtomicU64,
}

impl Pace {
    /// Notes that `count` requests took `time` together.
    pub(super) fn note(&self, time: Duration, count: usize) {
        let sample = u64::try_from(time.as_nanos()).unwrap_or(MOST) / count.max(1) as u64;
        let old = self.average.load(Ordering::Relaxed);
        // Two threads may note at the same time and one be lost; it is an estimate.
        self.average.store(old - old / MEMORY + sample.min(MOST) / MEMORY, Ordering::Relaxed);
    }

    /// Whether requests are quick at the moment.
    pub(super) fn is_quick(&self) -> bool {
        self.average.load(Ordering::Relaxed) < QUICK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_request_among_quick_ones_changes_nothing_and_many_do() {
        let pace = Pace::default();
        pace.note(Duration::from_micros(12), 4);
        pace.note(Duration::from_millis(500), 1);
        assert!(pace.is_quick());
        (0..10).for_each(|_| pace.note(Duration::from_micros(100), 1));
        assert!(!pace.is_quick());
        (0..100).for_each(|_| pace.note(Duration::from_micros(2), 1));
        assert!(pace.is_quick());
    }
}
