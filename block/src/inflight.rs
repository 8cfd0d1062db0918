//! Requests in flight on a node, and who waits for whom.
//!
//! A serialising request (one that reads, modifies and writes back) waits for every request that overlaps it, and
//! overlapping requests that come meanwhile wait for it. Plain requests that overlap do not wait for each other. A drain waits for
//! all and lets nobody in until it ends.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Whether a request must have its range to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Others may touch the range at the same time.
    Plain,
    /// Nobody else may.
    Serialising,
}

#[derive(Debug)]
struct Request {
    id: u64,
    range: Range<u64>,
    mode: Mode,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    next: u64,
    drains: u32,
    waiting: u32,
}

/// The set of requests in flight on one node.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    state: Mutex<State>,
    changed: Condvar,
}

impl InFlight {
    /// Enters a request, waiting for those it must not overlap. It leaves when the guard is dropped.
    ///
    /// A request that waits does not hold up others, so that one that was stopped on purpose stops only those that
    /// must not overlap it.
    pub(crate) fn begin(&self, range: Range<u64>, mode: Mode) -> Guard<'_> {
        let mut state = self.lock();
        while state.drains > 0 || state.blocks(&range, mode) {
            state = self.wait(state);
        }
        let id = state.next;
        state.next += 1;
        state.requests.push(Request { id, range, mode });
        Guard { set: self, id }
    }

    /// Waits until nothing is in flight and keeps it so until the guard is dropped.
    pub(crate) fn drain(&self) -> Drained<'_> {
        let mut state = self.lock();
        while state.drains > 0 {
            state = self.wait(state);
        }
        state.drains += 1;
        while !state.requests.is_empty() {
            state = self.wait(state);
        }
        Drained { set: self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    fn leave(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }
}

impl State {
    /// Whether a request in flight keeps one of this range and mode out.
    fn blocks(&self, range: &Range<u64>, mode: Mode) -> bool {
        self.requests.iter().any(|r| {
            (mode == Mode::Serialising || r.mode == Mode::Serialising)
                && r.range.start < range.end
                && range.start < r.range.end
        })
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    set: &'a InFlight,
    id: u64,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.set.leave(|state| state.requests.retain(|r| r.id != self.id));
    }
}

/// A drained set: nothing is in flight while this lives.
#[derive(Debug)]
pub(crate) struct Drained<'a> {
    set: &'a InFlight,
}

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        self.set.leave(|state| state.drains -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// Whether a second request of the given range and mode has to wait for `first`.
    fn waits(set: &InFlight, first: Guard<'_>, range: Range<u64>, mode: Mode) -> bool {
        let entered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _second = set.begin(range, mode);
                entered.store(true, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(50));
            let waited = !entered.load(Ordering::SeqCst);
            drop(first);
            waited
        })
    }

    #[test]
    fn only_serialising_requests_wait_for_overlapping_ones() {
        let set = InFlight::default();
        assert!(!waits(&set, set.begin(0..10, Mode::Plain), 5..6, Mode::Plain));
        assert!(waits(&set, set.begin(0..10, Mode::Plain), 5..6, Mode::Serialising));
        assert!(waits(&set, set.begin(0..10, Mode::Serialising), 5..6, Mode::Plain));
        assert!(!waits(&set, set.begin(0..10, Mode::Serialising), 10..12, Mode::Serialising));
    }

    #[test]
    fn a_request_that_waits_keeps_nobody_out() {
        let set = InFlight::default();
        let first = set.begin(0..10, Mode::Serialising);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| drop(set.begin(5..20, Mode::Serialising)));
            std::thread::sleep(Duration::from_millis(20));
            drop(set.begin(15..25, Mode::Serialising));
            assert!(!waiting.is_finished());
            drop(first);
        });
    }

    #[test]
    fn a_drain_waits_for_all_and_keeps_others_out() {
        let set = InFlight::default();
        let first = set.begin(0..1, Mode::Plain);
        std::thread::scope(|scope| {
            let drainer = scope.spawn(|| set.drain());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!drainer.is_finished());
            drop(first);
            let drained = drainer.join().unwrap();
            let late = scope.spawn(|| drop(set.begin(5..6, Mode::Plain)));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!late.is_finished());
            drop(drained);
        });
    }
}
