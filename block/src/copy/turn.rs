//! Whose turn it is to write, when chunks must be written in the order in which they were handed out.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Chunks are numbered from 0; each writes when all before it have written.
#[derive(Debug, Default)]
pub(super) struct Turns {
    next: Mutex<u64>,
    changed: Condvar,
}

impl Turns {
    /// Waits for the turn of chunk `number`. `false` when the copy has failed meanwhile.
    pub(super) fn wait(&self, number: u64) -> bool {
        let next = self.changed.wait_while(self.lock(), |next| *next < number);
        *next.unwrap_or_else(PoisonError::into_inner) == number
    }

    /// Ends the turn of chunk `number`, unless it has ended.
    pub(super) fn end(&self, number: u64) {
        let mut next = self.lock();
        if *next <= number {
            *next = number + 1;
            self.changed.notify_all();
        }
    }

    /// There will be no more turns.
    pub(super) fn abandon(&self) {
        *self.lock() = u64::MAX;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
