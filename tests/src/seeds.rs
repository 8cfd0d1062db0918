//! Runs of numbered random cases, which the environment can cut in pieces.
//!
//! `BLOCKIMG_SEED=N BLOCKIMG_COUNT=M` runs M cases from the one with the number N on; without a count it is that one.

use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Which cases are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(Range<u64>);

impl Seeds {
    /// What the environment asks for, or else the first `short` cases, or `long` with `BLOCKIMG_LONG`.
    pub fn asked(short: u64, long: u64) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let all = if std::env::var_os("BLOCKIMG_LONG").is_some() { long } else { short };
        let first = number("BLOCKIMG_SEED");
        let count = number("BLOCKIMG_COUNT").unwrap_or(if first.is_some() { 1 } else { all });
        let first = first.unwrap_or(0);
        Seeds(first..first.saturating_add(count))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.end - self.0.start
    }

    /// Runs `case` for each, on all processors; what they found wrong. A run of hundreds tells how far it is.
    ///
    /// # Panics
    /// A case panics.
    pub fn run(&self, case: impl Fn(u64) -> Option<String> + Sync) -> Vec<String> {
        let (next, start) = (AtomicU64::new(self.0.start), Instant::now());
        let worker = || {
            let taken = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
            let mut found = Vec::new();
            for seed in taken.take_while(|seed| self.0.contains(seed)) {
                found.extend(case(seed));
                self.tell_progress(seed - self.0.start + 1, start);
            }
            found
        };
        let threads = std::thread::available_parallelism().map_or(1, Into::into);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a case ends")).collect()
        })
    }

    fn tell_progress(&self, done: u64, start: Instant) {
        if done.is_multiple_of(100) {
            let line = format!("{done} of {} after {} s\n", self.count(), start.elapsed().as_secs());
            // Not by way of the macros, whose output the harness keeps to itself. Nobody may be listening.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Seeds;

    #[test]
    fn every_case_is_run_once_and_what_it_finds_is_told() {
        let mut found = Seeds(30..250).run(|seed| (seed % 2 == 0).then(|| format!("{seed:03}")));
        found.sort();
        assert_eq!(found, (30..250).step_by(2).map(|seed| format!("{seed:03}")).collect::<Vec<_>>());
    }
}
