//! The bytes in flight of the whole process: taken before a payload is read or a buffer for one is made.
//!
//! Invariant: the leases that live never add up to more than the limit, so a client cannot make the server hold more,
//! whatever lengths it claims.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The budget.
#[derive(Debug)]
pub(super) struct Budget {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    free: u64,
    waiting: u32,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Budget { state: Mutex::new(State { free: limit, waiting: 0 }), freed: Condvar::new() }
    }

    /// Takes `bytes` (less than the limit), waiting until they are free.
    pub(super) fn take(&self, bytes: u64) -> Lease<'_> {
        let mut state = self.lock();
        while state.free < bytes {
            state.waiting += 1;
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state.free -= bytes;
        Lease { budget: self, bytes }
    }

    /// Whether somebody waits for bytes.
    pub(super) fn is_contended(&self) -> bool {
        self.lock().waiting > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes taken from a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.free += self.bytes;
        if state.waiting > 0 {
            self.budget.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_wants_more_than_is_free_waits_for_a_lease_to_end() {
        let budget = Budget::new(10);
        let first = budget.take(8);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(budget.take(5)));
            while !budget.is_contended() {
                std::thread::yield_now();
            }
            drop(budget.take(2));
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap();
        });
        drop(budget.take(10));
    }
}
