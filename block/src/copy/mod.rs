//! The copy engine behind `convert` and `dd`: several workers, one cursor.
//!
//! Workers take chunks from a shared cursor over the extents of the sources, read, look for zeroes and write, each on
//! its own core; decryption and encryption happen inside the drivers' read and write, so they scale with the workers.
//! Memory is one buffer per worker.

mod cursor;
pub mod rebase;
mod sparse;
#[cfg(test)]
mod tests;
mod turn;
mod worker;

use crate::{Error, Image, Node};
use cursor::Cursor;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use turn::Turns;

/// The longest chunk a worker takes at once, in bytes, unless longer runs of zeroes are looked for.
pub const CHUNK: u64 = 1 << 20;

/// Where the bytes of the target come from: a part of an image.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The image.
    pub image: Image,
    /// The part of it, in bytes.
    pub range: Range<u64>,
}

/// In which order chunks are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One after the other, as far as they are allocated: a target is filled from front to back. What has its place may be
    /// written as it is ready.
    Sequential,
    /// As they are ready.
    Any,
}

/// How to copy.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions {
    /// How many workers at most.
    pub workers: usize,
    /// In which order they write.
    pub order: Order,
    /// The shortest run of zeroes that is worth leaving out, in bytes; 0 writes everything.
    pub sparse: u64,
    /// The target reads as zeroes already.
    pub target_is_zero: bool,
    /// The target has a backing file of this many bytes that holds what the lower layers of the source hold.
    pub backing: Option<u64>,
    /// How many layers down the source the lower layers begin which that backing file holds.
    pub backing_depth: u32,
    /// At most this many bytes a second.
    pub rate: Option<u64>,
    /// What cannot be read becomes zeroes.
    pub salvage: bool,
    /// Write compressed clusters of this many bytes.
    pub compressed: Option<u64>,
    /// What is stored as it is stays stored: the host copies it where it can, and nobody looks at it.
    pub offload: bool,
}

/// What a copy tells while it runs. Called from all workers.
pub trait Observer: Sync {
    /// `bytes` more of what [`work`] counts are dealt with.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// When salvaging: whether there is data at this byte could not be found out.
    fn status_failed(&self, at: u64, error: &Error) {
        let _ = (at, error);
    }

    /// When salvaging: a sector could not be read and becomes zeroes.
    fn read_failed(&self, at: u64, error: &Error) {
        let _ = (at, error);
    }
}

/// An observer that is not interested.
#[derive(Debug)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// Why a copy ended before its end. The offsets are bytes of the sources as a whole, which are those of the target.
#[derive(Debug)]
pub enum CopyError {
    /// Finding out what the source is made of failed.
    Status(u64, Error),
    /// A read failed.
    Read(u64, Error),
    /// A write failed.
    Write(u64, Error),
}

/// How many bytes a copy will have to read or write: all but zeroes that are left out.
///
/// # Errors
/// Finding out what the source is made of failed.
pub fn work(sources: &[Segment], options: &CopyOptions, observer: &dyn Observer) -> Result<u64, CopyError> {
    let mut cursor = Cursor::new(sources, options, observer, chunk(options));
    let mut bytes = 0;
    while let Some(span) = cursor.next()? {
        bytes += span.work(options);
    }
    Ok(bytes)
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
    copy_at(sources, target, 0, options, observer)
}

/// Copies `sources`, one after the other, to `target` from `start` on.
///
/// # Errors
/// As for [`copy`].
pub fn copy_at(
    sources: &[Segment],
    target: &Image,
    start: u64,
    options: &CopyOptions,
    observer: &dyn Observer,
) -> Result<(), CopyError> {
    let chunk = chunk(options);
    let job = Job {
        cursor: Mutex::new((0, Cursor::new(sources, options, observer, chunk).starting_at(start))),
        chunk,
        sources,
        turns: Turns::default(),
        target,
        options,
        observer,
        failed: AtomicBool::new(false),
        offloads: AtomicBool::new(options.offload && !sources.iter().any(|s| is_filtered(s.image.node()))),
        unit: unit(target, options),
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

/// Whether a filter has to see every request to this image.
fn is_filtered(node: &Arc<Node>) -> bool {
    node.state().driver.filtered().is_some() || node.children().iter().any(|child| is_filtered(child.node()))
}

/// What the workers share.
struct Job<'a> {
    /// The cursor and how many chunks it has handed out.
    cursor: Mutex<(u64, Cursor<'a>)>,
    /// The longest chunk that is read or written, in bytes.
    chunk: u64,
    sources: &'a [Segment],
    turns: Turns,
    target: &'a Image,
    options: &'a CopyOptions,
    observer: &'a dyn Observer,
    failed: AtomicBool,
    /// The host has copied everything it was asked to.
    offloads: AtomicBool,
    /// Data and zeroes meet at multiples of this, in bytes.
    unit: u64,
    throttle: Option<Mutex<Throttle>>,
}

impl Job<'_> {
    /// Reads what belongs at `at` of the target, from as many sources as that is in.
    fn read(&self, at: u64, mut bytes: &mut [u8]) -> crate::Result<()> {
        let (mut at, mut start) = (at, 0);
        for Segment { image, range } in self.sources {
            let len = range.end - range.start;
            if (start..start + len).contains(&at) && !bytes.is_empty() {
                let here = usize::try_from(start + len - at).unwrap_or(usize::MAX).min(bytes.len());
                let (head, rest) = std::mem::take(&mut bytes).split_at_mut(here);
                image.read(range.start + at - start, head)?;
                (bytes, at) = (rest, at + here as u64);
            }
            start += len;
        }
        Ok(())
    }

    fn run(&self) -> Result<(), CopyError> {
        let result = worker::Worker::new(self).run();
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
            self.turns.abandon();
        }
        result
    }
}

/// The shortest run of zeroes that is worth leaving out, rounded up so that chunks are whole runs.
fn shortest_run(options: &CopyOptions) -> u64 {
    options.sparse.checked_next_power_of_two().unwrap_or(CHUNK)
}

/// The longest chunk a worker takes at once, in bytes: runs of zeroes of the length asked for must fit, and compressed
/// clusters are whole.
fn chunk(options: &CopyOptions) -> u64 {
    match options.compressed {
        // Each of them takes long enough, and what it is compressed to is kept as well.
        Some(cluster) => (CHUNK / 8).max(shortest_run(options)).next_multiple_of(cluster),
        None => CHUNK.max(shortest_run(options)),
    }
}

/// The unit in which zeroes are looked for: what the target allocates at once, but no finer than the runs of zeroes that
/// are worth leaving out, as a power of two. Compressed clusters are left out one by one.
fn unit(target: &Image, options: &CopyOptions) -> u64 {
    let limits = target.limits();
    let wanted = options.sparse.checked_ilog2().map_or(1, |log| 1 << log);
    let unit = limits.cluster_size.map_or(1, u64::from).max(limits.request_align.into());
    if options.compressed.is_some() { unit } else { unit.max(wanted) }
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

    /// Books `bytes` at the time `now` and gives how long to wait first.
    fn book(&mut self, now: Instant, bytes: u64) -> Duration {
        let start = self.next.max(now);
        self.next = start + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        start - now
    }
}
