//! `throttle-group`: the object that holds limits and how much of them its nodes have used.

use super::bucket::{Bucket, Direction};
use crate::{Error, Result};
use secret::{Object, ObjectType};
use serde::Deserialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The highest limit.
const MOST: i64 = 1_000_000_000_000_000;

/// The limits, in the order of [`Given::values`]: three directions of two units.
const NAMES: [&str; 6] = ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"];

macro_rules! limits {
    ($type:ident: $($rate:ident $max:ident $length:ident,)* ; $size:ident) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(rename_all = "kebab-case", default)]
        struct $type {
            $($rate: Option<i64>, $max: Option<i64>, $length: Option<i64>,)*
            $size: Option<i64>,
        }

        impl $type {
            /// Each limit as rate, burst rate and length of a burst.
            fn values(&self) -> [[Option<i64>; 3]; 6] {
                [$([self.$rate, self.$max, self.$length],)*]
            }
        }
    };
}

limits!(Limits:
    bps_total bps_total_max bps_total_max_length,
    bps_read bps_read_max bps_read_max_length,
    bps_write bps_write_max bps_write_max_length,
    iops_total iops_total_max iops_total_max_length,
    iops_read iops_read_max iops_read_max_length,
    iops_write iops_write_max iops_write_max_length,
    ; iops_size
);

/// The same limits under their older names, beside the group of the newer ones.
#[derive(Debug, Deserialize)]
struct Properties {
    #[serde(default)]
    limits: Limits,
    #[serde(rename = "x-bps-total")]
    bps_total: Option<i64>,
    #[serde(rename = "x-bps-total-max")]
    bps_total_max: Option<i64>,
    #[serde(rename = "x-bps-total-max-length")]
    bps_total_length: Option<i64>,
    #[serde(rename = "x-bps-read")]
    bps_read: Option<i64>,
    #[serde(rename = "x-bps-read-max")]
    bps_read_max: Option<i64>,
    #[serde(rename = "x-bps-read-max-length")]
    bps_read_length: Option<i64>,
    #[serde(rename = "x-bps-write")]
    bps_write: Option<i64>,
    #[serde(rename = "x-bps-write-max")]
    bps_write_max: Option<i64>,
    #[serde(rename = "x-bps-write-max-length")]
    bps_write_length: Option<i64>,
    #[serde(rename = "x-iops-total")]
    iops_total: Option<i64>,
    #[serde(rename = "x-iops-total-max")]
    iops_total_max: Option<i64>,
    #[serde(rename = "x-iops-total-max-length")]
    iops_total_length: Option<i64>,
    #[serde(rename = "x-iops-read")]
    iops_read: Option<i64>,
    #[serde(rename = "x-iops-read-max")]
    iops_read_max: Option<i64>,
    #[serde(rename = "x-iops-read-max-length")]
    iops_read_length: Option<i64>,
    #[serde(rename = "x-iops-write")]
    iops_write: Option<i64>,
    #[serde(rename = "x-iops-write-max")]
    iops_write_max: Option<i64>,
    #[serde(rename = "x-iops-write-max-length")]
    iops_write_length: Option<i64>,
    #[serde(rename = "x-iops-size")]
    iops_size: Option<i64>,
}

impl Properties {
    fn values(&self) -> [[Option<i64>; 3]; 6] {
        [
            [self.bps_total, self.bps_total_max, self.bps_total_length],
            [self.bps_read, self.bps_read_max, self.bps_read_length],
            [self.bps_write, self.bps_write_max, self.bps_write_length],
            [self.iops_total, self.iops_total_max, self.iops_total_length],
            [self.iops_read, self.iops_read_max, self.iops_read_length],
            [self.iops_write, self.iops_write_max, self.iops_write_length],
        ]
    }

    /// What the older names alone are checked for.
    fn check(&self) -> Result<()> {
        for (name, [rate, max, length]) in NAMES.iter().zip(self.values()) {
            if [rate, max, self.iops_size].iter().flatten().any(|n| *n < 0) {
                return Err(Error::invalid("Property values cannot be negative"));
            }
            if length.is_some_and(|n| u32::try_from(n).is_err()) {
                let most = u32::MAX;
                return Err(Error::invalid(format!(
                    "x-{name}-max-length value must be in therange [0, {most}]"
                )));
            }
        }
        Ok(())
    }

    /// All limits, those of the group winning.
    fn given(&self) -> Given {
        let mut limits = [[0, 0, 1]; 6];
        for (to, (older, newer)) in limits.iter_mut().zip(self.values().into_iter().zip(self.limits.values()))
        {
            for (value, given) in to.iter_mut().zip(older.into_iter().zip(newer).map(|(o, n)| n.or(o))) {
                *value = given.unwrap_or(*value);
            }
        }
        Given { limits, iops_size: self.limits.iops_size.or(self.iops_size).unwrap_or(0) }
    }
}

/// The limits that hold: rate, burst rate and length of a burst, in the order of [`NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given {
    limits: [[i64; 3]; 6],
    iops_size: i64,
}

impl Given {
    fn check(&self) -> Result<()> {
        let [bps, iops] = [0, 3].map(|i| [self.limits[i], self.limits[i + 1], self.limits[i + 2]]);
        for [total, read, write] in [bps, iops] {
            let both = |i: usize| total[i] != 0 && (read[i] != 0 || write[i] != 0);
            if both(0) || both(1) {
                return Err(Error::invalid(
                    "bps/iops/max total values and read/write values cannot be used at the same time",
                ));
            }
        }
        if self.iops_size != 0 && iops.iter().all(|limit| limit[0] == 0) {
            return Err(Error::invalid("iops size requires an iops value to be set"));
        }
        self.limits.iter().try_for_each(|limit| check_limit(*limit).map_err(Error::invalid))
    }
}

fn check_limit([rate, max, length]: [i64; 3]) -> Result<(), &'static str> {
    if ![rate, max].iter().all(|n| (0..=MOST).contains(n)) {
        return Err("bps/iops/max values must be within [0, 1000000000000000]");
    }
    match (max, length) {
        (_, 0) => Err("the burst length cannot be 0"),
        (0, 1) => Ok(()),
        (0, _) => Err("burst length set without burst rate"),
        _ if length < 0 || max > MOST / length => Err("burst length too high for this burst rate"),
        _ if rate == 0 => Err("bps_max/iops_max require corresponding bps/iops values"),
        _ if max < rate => Err("bps_max/iops_max cannot be lower than bps/iops"),
        _ => Ok(()),
    }
}

/// A `throttle-group`.
#[derive(Debug)]
pub struct ThrottleGroup(Arc<Limiter>);

impl Object for ThrottleGroup {}

impl ThrottleGroup {
    pub(super) fn limiter(&self) -> Arc<Limiter> {
        Arc::clone(&self.0)
    }
}

/// The `throttle-group` object.
pub const TYPE: ObjectType = ObjectType {
    name: "throttle-group",
    options: &[
        ("limits", "ThrottleLimits"),
        ("x-bps-read-max-length", "int"),
        ("x-bps-read-max", "int"),
        ("x-bps-read", "int"),
        ("x-bps-total-max-length", "int"),
        ("x-bps-total-max", "int"),
        ("x-bps-total", "int"),
        ("x-bps-write-max-length", "int"),
        ("x-bps-write-max", "int"),
        ("x-bps-write", "int"),
        ("x-iops-read-max-length", "int"),
        ("x-iops-read-max", "int"),
        ("x-iops-read", "int"),
        ("x-iops-size", "int"),
        ("x-iops-total-max-length", "int"),
        ("x-iops-total-max", "int"),
        ("x-iops-total", "int"),
        ("x-iops-write-max-length", "int"),
        ("x-iops-write-max", "int"),
        ("x-iops-write", "int"),
    ],
    create: |request| {
        let properties: Properties = request.parse()?;
        Ok(Box::new(ThrottleGroup::new(&properties)?))
    },
};

impl ThrottleGroup {
    fn new(properties: &Properties) -> Result<Self> {
        properties.check()?;
        let given = properties.given();
        given.check()?;
        Ok(ThrottleGroup(Arc::new(Limiter::new(given))))
    }
}

/// How much of each limit is used, and whose turn it is.
#[derive(Debug)]
pub(super) struct Limiter {
    state: Mutex<State>,
    /// Held by the request that waits next, one for each direction.
    turns: [Mutex<()>; 2],
    iops_size: u64,
}

#[derive(Debug)]
struct State {
    buckets: [Bucket; 6],
    last: Instant,
}

impl Limiter {
    fn new(given: Given) -> Self {
        let buckets = given.limits.map(|[rate, max, length]| Bucket::new(rate, max, length));
        Limiter {
            state: Mutex::new(State { buckets, last: Instant::now() }),
            turns: Default::default(),
            iops_size: u64::try_from(given.iops_size).unwrap_or(0),
        }
    }

    /// Waits until a request of so many bytes may be made.
    pub(super) fn wait(&self, direction: Direction, bytes: u64) {
        let (turn, concerned) = match direction {
            Direction::Read => (&self.turns[0], [0, 1, 3, 4]),
            Direction::Write => (&self.turns[1], [0, 2, 3, 5]),
        };
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.leak();
            let wait = concerned.iter().map(|i| state.buckets[*i].wait()).max().unwrap_or_default();
            if wait.is_zero() {
                for i in concerned {
                    state.buckets[i].fill(if i < 3 { float(bytes) } else { self.operations(bytes) });
                }
                return;
            }
            drop(state);
            std::thread::sleep(wait);
        }
    }

    /// How many operations a request of so many bytes counts as.
    fn operations(&self, bytes: u64) -> f64 {
        match self.iops_size {
            0 => 1.0,
            size => (float(bytes) / float(size)).max(1.0),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "requests are shorter than 2^53 bytes")]
fn float(n: u64) -> f64 {
    n as f64
}

impl State {
    fn leak(&mut self) {
        let now = Instant::now();
        let elapsed = now - self.last;
        self.last = now;
        self.buckets.iter_mut().for_each(|bucket| bucket.leak(elapsed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(arg: &str) -> String {
        let mut registry = secret::Registry::new([&[TYPE][..]]);
        registry.add(format!("throttle-group,id=t,{arg}")).map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn limits_have_two_spellings() {
        assert_eq!(add("x-bps-total=1000,x-bps-total-max=2000,x-bps-total-max-length=2"), "");
        assert_eq!(add("limits.iops-read=5,limits.iops-size=4096"), "");
        assert_eq!(add("limits.bogus=1"), "Parameter 'limits.bogus' is unexpected");
        assert_eq!(add("x-bps-total=abc"), "Parameter 'x-bps-total' expects integer");
    }

    #[test]
    fn limits_that_contradict_each_other_are_named() {
        let both = "bps/iops/max total values and read/write values cannot be used at the same time";
        assert_eq!(add("x-bps-total=1,x-bps-read=1"), both);
        assert_eq!(add("x-bps-total=-1"), "Property values cannot be negative");
        assert_eq!(add("x-iops-size=4096"), "iops size requires an iops value to be set");
        assert_eq!(add("x-bps-total-max=5"), "bps_max/iops_max require corresponding bps/iops values");
        assert_eq!(add("x-bps-total=5,x-bps-total-max=4"), "bps_max/iops_max cannot be lower than bps/iops");
        assert_eq!(add("x-bps-total=5,x-bps-total-max-length=2"), "burst length set without burst rate");
        assert_eq!(add("x-bps-total-max-length=0"), "the burst length cannot be 0");
        let high = "bps/iops/max values must be within [0, 1000000000000000]";
        assert_eq!(add("limits.iops-total=10000000000000000"), high);
    }

    #[test]
    fn requests_beyond_the_limit_wait_and_others_do_not() {
        let mut limits = [[0, 0, 1]; 6];
        limits[2] = [100_000, 0, 1];
        let limiter = Limiter::new(Given { limits, iops_size: 0 });
        let started = Instant::now();
        limiter.wait(Direction::Write, 20_000);
        limiter.wait(Direction::Read, 1 << 40);
        limiter.wait(Direction::Read, 1 << 40);
        limiter.wait(Direction::Write, 1);
        assert!(started.elapsed().as_millis() >= 100);
    }
}
