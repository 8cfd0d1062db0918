//! How far a command is, for `-p`.

use block::copy::Observer;
use block::tool::Out;
use std::sync::{Mutex, PoisonError};

/// Prints percentages in QEMU's way, on one line that is written over and over.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    out: &'a Out,
    enabled: bool,
    /// Bytes to be dealt with altogether.
    total: u64,
    /// The smallest step worth printing, in percent.
    step: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    done: u64,
    printed: f64,
}

impl<'a> Progress<'a> {
    /// Begins at 0 of `total` bytes. Prints steps of more than `step` percent, and nothing unless `enabled`.
    pub(crate) fn start(out: &'a Out, enabled: bool, total: u64, step: f64) -> Self {
        let progress =
            Progress { out, enabled, total, step, state: Mutex::new(State { done: 0, printed: 0.0 }) };
        progress.print(0.0);
        progress
    }

    /// Leaves the line.
    pub(crate) fn finish(&self) {
        if self.enabled {
            self.out.line("");
        }
    }

    fn print(&self, percent: f64) {
        if self.enabled {
            self.out.print(&format!("    ({percent:.2}/100%)\r"));
            self.out.flush();
        }
    }
}

impl Observer for Progress<'_> {
    fn advance(&self, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += bytes;
        let percent = state.done as f64 * 100.0 / self.total as f64;
        if percent - state.printed > self.step || state.done == self.total {
            state.printed = percent;
            self.print(percent);
        }
    }
}
