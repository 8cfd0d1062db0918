//! One limit as a leaky bucket: requests fill it, time empties it, and who finds it too full waits.

use std::time::Duration;

/// Without a burst rate, so much of a second may be used at once.
const SHARE: f64 = 0.1;

/// What a request does, as far as limits tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// A limit and how much of it is used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    /// Units a second; 0 is no limit.
    pub(super) rate: f64,
    /// Units a second during a burst; 0 is no burst.
    pub(super) burst: f64,
    /// How long a burst may last, in seconds.
    pub(super) length: f64,
    level: f64,
    burst_level: f64,
}

impl Bucket {
    pub(super) fn new(rate: i64, burst: i64, length: i64) -> Self {
        // Limits are below 2^53.
        #[expect(clippy::cast_precision_loss, reason = "limits are below 2^53")]
        let float = |n: i64| n as f64;
        Bucket { rate: float(rate), burst: float(burst), length: float(length), ..Bucket::default() }
    }

    /// Time goes by.
    pub(super) fn leak(&mut self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        self.level = (self.level - self.rate * seconds).max(0.0);
        self.burst_level = (self.burst_level - self.burst * seconds).max(0.0);
    }

    /// How long the next request must wait.
    pub(super) fn wait(&self) -> Duration {
        if self.rate == 0.0 {
            return Duration::ZERO;
        }
        let size = if self.burst > 0.0 { self.burst * self.length } else { self.rate * SHARE };
        let mut wait = (self.level - size) / self.rate;
        if self.burst > 0.0 && self.length > 1.0 {
            wait = wait.max((self.burst_level - self.burst * SHARE) / self.burst);
        }
        Duration::try_from_secs_f64(wait.max(0.0)).unwrap_or_default()
    }

    /// A request takes so many units.
    pub(super) fn fill(&mut self, units: f64) {
        self.level += units;
        self.burst_level += units;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_a_second_may_be_used_at_once() {
        let mut bucket = Bucket::new(100_000, 0, 1);
        assert_eq!(bucket.wait(), Duration::ZERO);
        bucket.fill(50_000.0);
        assert_eq!(bucket.wait(), Duration::from_millis(400));
        bucket.leak(Duration::from_millis(400));
        assert_eq!(bucket.wait(), Duration::ZERO);
    }

    #[test]
    fn a_burst_goes_on_as_long_as_it_may_and_no_faster() {
        let mut bucket = Bucket::new(100, 1000, 5);
        bucket.fill(200.0);
        assert_eq!(bucket.wait(), Duration::from_millis(100));
        for _ in 0..100 {
            bucket.leak(Duration::from_millis(100));
            bucket.fill(100.0);
        }
        assert!(bucket.wait() > Duration::from_secs(1));
    }

    #[test]
    fn no_limit_is_no_wait() {
        let mut bucket = Bucket::default();
        bucket.fill(1e15);
        assert_eq!(bucket.wait(), Duration::ZERO);
    }
}
