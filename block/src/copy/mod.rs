//! The copy engine behind `convert` and `dd`: several workers, one cursor.
//!
//! Workers take chunks from a shared cursor over the extents of the sources, read, look for zeroes and write, each on
//! its own core; decryption and encryption happen inside the drivers' read and write, so they scale with the workers.
//! Memory is one buffer per worker.

mod cursor;
mod sparse;
mod worker;

pub use cursor::Span;

use crate::extents::Extents;
use crate::{Image, Result, Want, ZeroFlags};
use cursor::Cursor;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest piece a worker takes at once, in bytes.
pub const CHUNK: u64 = 1 << 20;

/// Where the bytes of the target come from: a part of an image.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The image.
    pub image: Image,
    /// The part of it, in bytes.
    pub range: Range<u64>,
}

/// How to copy.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions {
    /// How many workers at most.
    pub workers: usize,
    /// The shortest run of zeroes that is worth leaving out, in bytes; 0 writes everything.
    pub sparse: u64,
    /// The target reads as zeroes already.
    pub target_is_zero: bool,
    /// At most this many bytes a second.
    pub rate: Option<u64>,
    /// What cannot be read becomes zeroes.
    pub salvage: bool,
    /// Write compressed clusters.
    pub compressed: bool,
}

/// What a copy tells while it runs. Called from all workers.
pub trait Observer: Sync {
    /// `bytes` more of the source are dealt with.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Whether to stop now; asked between chunks.
    fn stop(&self) -> bool {
        false
    }

    /// A read failed and its range will be zeroes.
    fn salvaged(&self, at: u64, error: &crate::Error) {
        let _ = (at, error);
    }
}

/// An observer that is not interested.
#[derive(Debug)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// Why a copy ended before its end.
#[derive(Debug)]
pub enum CopyError {
    /// Finding out what the source is made of failed.
    Map(crate::Error),
    /// A read failed at this byte of the source as a whole.
    Read(u64, crate::Error),
    /// A write failed at this byte of the target.
    Write(u64, crate::Error),
    /// The observer asked to stop.
    Stopped,
}

/// Copies `sources`, one after the other, to the beginning of `target`.
///
/// # Errors
/// The first failure; the other workers stop as soon as they have finished their chunk.
pub fn copy(
    sources: &[Segment],
    target: &Image,
    options: &CopyOptions,
    observer: &dyn Observer,
) -> Result<(), CopyError> {
    let job = Job {
        cursor: Mutex::new(Cursor::new(sources)),
        target,
        options,
        observer,
        failed: AtomicBool::new(false),
        alignment: alignment(target),
        throttle: options.rate.map(|rate| Mutex::new(Throttle::new(rate))),
    };
    std::thread::scope(|scope| {
        let spawn = |_| scope.spawn(|| job.run());
        let helpers: Vec<_> = (1..options.workers.max(1)).map(spawn).collect();
        let first = job.run();
        helpers.into_iter().map(join).fold(first, Result::and)
    })
}

fn join(handle: std::thread::ScopedJoinHandle<'_, Result<(), CopyError>>) -> Result<(), CopyError> {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the workers share.
struct Job<'a> {
    cursor: Mutex<Cursor<'a>>,
    target: &'a Image,
    options: &'a CopyOptions,
    observer: &'a dyn Observer,
    failed: AtomicBool,
    /// Zero runs are cut to multiples of this, in bytes, so that a target cluster is written once.
    alignment: u64,
    throttle: Option<Mutex<Throttle>>,
}

impl Job<'_> {
    fn run(&self) -> Result<(), CopyError> {
        let result = worker::Worker::new(self).run();
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }
}

fn alignment(target: &Image) -> u64 {
    let limits = target.limits();
    u64::from(limits.request_align.max(limits.cluster_size.unwrap_or(1)))
}

/// Keeps the rate: each chunk pushes the time at which the next may start.
struct Throttle {
    rate: u64,
    next: Instant,
}

impl Throttle {
    fn new(rate: u64) -> Self {
        Throttle { rate: rate.max(1), next: Instant::now() }
    }

    /// Books `bytes` and gives how long to wait first.
    fn book(&mut self, bytes: u64) -> Duration {
        let now = Instant::now();
        let start = self.next.max(now);
        self.next = start + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        start - now
    }
}

/// Makes the whole target read as zeroes if it can do that without writing zeroes.
///
/// # Errors
/// Never because it cannot: that is `Ok(false)`.
pub fn make_zero(target: &Image, len: u64) -> Result<bool> {
    for extent in Extents::new(target.node(), 0..len, Want::Zeroes) {
        let extent = extent?;
        if extent.zero {
            continue;
        }
        let range = extent.start..extent.start + extent.len;
        let flags = ZeroFlags::MAY_UNMAP | ZeroFlags::NO_FALLBACK;
        match target.write_zeroes(range, flags) {
            Err(e) if e.kind() == crate::Kind::Unsupported => return Ok(false),
            done => done?,
        }
    }
    Ok(true)
}
