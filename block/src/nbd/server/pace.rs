//! How long requests take below, and what follows: how many threads are of use, and whether one takes several at once.
//!
//! What is cached takes a few microseconds, less than handing a request to another thread costs: then threads for half of
//! the processors do all the work, each taking a few requests at a time; the client needs the other half. Where requests
//! wait for a disk or a network, each has a thread of its own, so that they wait together.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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

/// How long to look for the next request before sleeping: about what falling asleep and being woken cost together.
const LOOK: Duration = Duration::from_micros(60);

/// Who may look again and again for the next request instead of sleeping until it comes.
///
/// A client that waits for each answer sends its next request a few microseconds later; a server that slept meanwhile
/// has to be woken, which takes longer than the request. Those who look use a processor up, so half of the processors
/// stay free of them, and nobody looks for a client whose last request was slow to come.
#[derive(Debug)]
pub(super) struct Lookouts {
    free: AtomicUsize,
}

impl Lookouts {
    /// For a machine with this many processors.
    pub(super) fn new(processors: usize) -> Self {
        Lookouts { free: AtomicUsize::new(processors / 2) }
    }

    /// Asks `is_there` until it says yes, but not for long; not at all when too many do.
    pub(super) fn look(&self, is_there: impl Fn() -> bool) {
        let one_less = |free: usize| free.checked_sub(1);
        if self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_err() {
            return;
        }
        let begun = Instant::now();
        while !is_there() && begun.elapsed() < LOOK {
            std::hint::spin_loop();
        }
        self.free.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whether input that came after `wait` is worth looking for the next time.
pub(super) fn comes_soon(wait: Duration) -> bool {
    wait < LOOK
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

    #[test]
    fn half_of_the_processors_stay_free_of_those_who_look() {
        let asked = |lookouts: &Lookouts| {
            let count = AtomicUsize::new(0);
            lookouts.look(|| count.fetch_add(1, Ordering::Relaxed) == 3);
            count.into_inner()
        };
        assert_eq!(asked(&Lookouts::new(1)), 0);
        let two = Lookouts::new(2);
        two.look(|| {
            assert_eq!(asked(&two), 0);
            true
        });
        assert_eq!(asked(&two), 4);
    }

    #[test]
    fn looking_for_what_never_comes_ends() {
        Lookouts::new(2).look(|| false);
    }
}
