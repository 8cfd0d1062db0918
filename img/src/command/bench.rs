//! `img bench`.

use super::Tool;
use crate::cli::{Input, Objects, Run, Share};
use block::buffer::Buffer;
use block::graph::{self, CacheMode, OpenFlags};
use block::{Error, Image, Result};
use clap::Args;
use secret::options::size::{self, SizeError};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Instant;

/// The largest number most options take.
const MAX: u64 = i32::MAX.unsigned_abs() as u64;

/// More requests than this are never in the drivers at once: each takes a thread.
const MAX_WORKERS: u64 = 256;

/// Options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    /// Accepted for the sake of scripts; the report is what the command is for
    #[arg(short, long)]
    quiet: bool,
    /// How many requests
    #[arg(short = 'c', long, value_name = "COUNT")]
    count: Option<String>,
    /// How many requests at once
    #[arg(short = 'd', long, value_name = "DEPTH")]
    depth: Option<String>,
    /// Bytes of a request
    #[arg(short = 's', long, value_name = "SIZE")]
    buffer_size: Option<String>,
    /// From the start of a request to that of the next; the size of a request unless given
    #[arg(short = 'S', long, value_name = "SIZE")]
    step_size: Option<String>,
    /// Where the first request starts
    #[arg(short = 'o', long, value_name = "OFFSET")]
    offset: Option<String>,
    /// Write instead of reading
    #[arg(short, long)]
    write: bool,
    /// The byte that is written
    #[arg(long, value_name = "BYTE")]
    pattern: Option<String>,
    /// Flush after this many writes
    #[arg(long, value_name = "COUNT")]
    flush_interval: Option<String>,
    /// Let requests go on while a flush is under way
    #[arg(long)]
    no_drain: bool,
    /// Cache mode
    #[arg(short = 't', long, value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// How requests reach the kernel: threads, native or io_uring
    #[arg(short = 'i', long, value_name = "AIO")]
    aio: Option<String>,
    /// The same as -i native
    #[arg(short = 'n', long)]
    native: bool,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
struct Plan {
    count: u64,
    depth: u64,
    /// Bytes of a request.
    size: u64,
    step: u64,
    start: u64,
    /// The byte to write; reads when `None`.
    write: Option<u8>,
    /// Requests between flushes; 0 for none.
    flush_interval: u64,
    drain: bool,
}

impl Run for BenchArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let plan = self.plan()?;
        let cache = CacheMode::parse(&self.cache).ok_or_else(|| Error::invalid("Invalid cache mode"))?;
        let native_aio = self.native_aio()?;
        let words = std::mem::take(&mut self.words);
        if words.len() + self.input.sources.len() != 1 {
            return Err(tool.usage_error("Expecting one image file name"));
        }
        let source = self.input.source(tool, words)?;
        let flags = OpenFlags {
            writable: self.write,
            cache,
            native_aio,
            force_share: self.share.force_share,
            ..self.input.flags()
        };
        let image = graph::open(tool.env(), &source, self.input.format.as_deref(), flags)?;
        plan.announce(tool);
        let begin = Instant::now();
        plan.run(&image)?;
        let seconds = begin.elapsed().as_secs_f64();
        tool.out.line(format_args!("Run completed in {seconds:.3} seconds."));
        image.close()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl BenchArgs {
    fn plan(&self) -> Result<Plan> {
        let count = number(&self.count, 75_000, 1..=MAX, "request count")?;
        let depth = number(&self.depth, 64, 1..=MAX, "queue depth")?;
        let start = number(&self.offset, 0, 0..=i64::MAX.unsigned_abs(), "offset")?;
        let size = number(&self.buffer_size, 4096, 1..=MAX, "buffer size")?;
        let step = number(&self.step_size, 0, 0..=MAX, "step size")?;
        let pattern = number(&self.pattern, 0, 0..=0xff, "pattern byte")?;
        let flush_interval = number(&self.flush_interval, 0, 0..=MAX, "flush interval")?;
        if flush_interval > 0 && !self.write {
            return Err(Error::invalid("--flush-interval is only available in write tests"));
        }
        if flush_interval > 0 && flush_interval < depth {
            return Err(Error::invalid("Flush interval can't be smaller than depth"));
        }
        Ok(Plan {
            count,
            depth,
            size,
            step: if step == 0 { size } else { step },
            start,
            write: self.write.then(|| u8::try_from(pattern).unwrap_or(0)),
            flush_interval,
            drain: !self.no_drain,
        })
    }

    fn native_aio(&self) -> Result<bool> {
        match self.aio.as_deref() {
            Some("native") => Ok(true),
            Some("threads" | "io_uring") => Ok(false),
            Some(name) => Err(Error::invalid(format!("Invalid aio option: {name}"))),
            None => Ok(self.native),
        }
    }
}

/// The number an option takes, or `default`.
fn number(
    text: &Option<String>,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
    what: &str,
) -> Result<u64> {
    let Some(text) = text else { return Ok(default) };
    match size::parse(text) {
        Ok(value) if range.contains(&value) => Ok(value),
        Err(SizeError::Malformed) => Err(Error::invalid(format!("Invalid {what} specified: '{text}'."))),
        _ => Err(Error::invalid(format!(
            "Invalid {what} specified. Must be between {} and {}.",
            range.start(),
            range.end()
        ))),
    }
}

impl Plan {
    fn announce(&self, tool: &Tool<'_>) {
        let Plan { count, depth, size, step, start, .. } = self;
        let kind = if self.write.is_some() { "write" } else { "read" };
        tool.out.line(format_args!(
            "Sending {count} {kind} requests, {size} bytes each, {depth} in parallel (starting at offset {start}, \
             step size {step})"
        ));
        if self.flush_interval > 0 {
            tool.out.line(format_args!("Sending flush every {} requests", self.flush_interval));
        }
    }

    /// Where request `index` starts, in an image of `len` bytes.
    fn offset(&self, index: u64, len: u64) -> u64 {
        let at = u128::from(self.start) + u128::from(index) * u128::from(self.step);
        // The first goes where it was asked for, so that an offset past the end fails.
        let at = if index == 0 || len == 0 { at } else { at % u128::from(len) };
        u64::try_from(at).unwrap_or(u64::MAX)
    }

    /// Does all requests, as many at once as asked for.
    fn run(&self, image: &Image) -> Result<()> {
        let job = Job {
            plan: *self,
            image,
            len: image.len()?,
            next: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            gate: RwLock::new(()),
            error: Mutex::new(None),
        };
        let workers = self.depth.min(self.count).min(MAX_WORKERS);
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|| job.work());
            }
            job.work();
        });
        match job.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }
}

/// What the workers share.
struct Job<'a> {
    plan: Plan,
    image: &'a Image,
    len: u64,
    next: AtomicU64,
    failed: AtomicBool,
    /// Held for reading by requests in flight, for writing by a flush that waits for them.
    gate: RwLock<()>,
    error: Mutex<Option<Error>>,
}

impl Job<'_> {
    fn work(&self) {
        let mut buffer = Buffer::zeroed(usize::try_from(self.plan.size).unwrap_or(usize::MAX));
        if let Some(byte) = self.plan.write.filter(|byte| *byte != 0) {
            buffer.fill(byte);
        }
        while !self.failed.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.plan.count {
                return;
            }
            if let Err(e) = self.request(index, &mut buffer).and_then(|()| self.flush_after(index)) {
                self.failed.store(true, Ordering::Relaxed);
                let text = format!("Failed request: {}", e.strerror());
                let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                error.get_or_insert_with(|| Error::new(e.kind(), text));
                return;
            }
        }
    }

    fn request(&self, index: u64, buffer: &mut [u8]) -> Result<()> {
        let drains = self.plan.flush_interval > 0 && self.plan.drain;
        let _gate = drains.then(|| self.gate.read().unwrap_or_else(PoisonError::into_inner));
        let at = self.plan.offset(index, self.len);
        match self.plan.write {
            Some(_) => self.image.write(at, buffer),
            None => self.image.read(at, buffer),
        }
    }

    fn flush_after(&self, index: u64) -> Result<()> {
        let interval = self.plan.flush_interval;
        if interval == 0 || !(index + 1).is_multiple_of(interval) {
            return Ok(());
        }
        let _gate = self.plan.drain.then(|| self.gate.write().unwrap_or_else(PoisonError::into_inner));
        self.image.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_start_over_at_the_end_of_the_image() {
        let plan = Plan {
            count: 9,
            depth: 1,
            size: 4,
            step: 10,
            start: 5,
            write: None,
            flush_interval: 0,
            drain: true,
        };
        let offsets: Vec<_> = (0..4).map(|index| plan.offset(index, 16)).collect();
        assert_eq!(offsets, [5, 15, 9, 3]);
        assert_eq!(Plan { start: 40, ..plan }.offset(0, 16), 40);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let parse = |text: &str| number(&Some(text.to_owned()), 7, 1..=MAX, "queue depth");
        assert_eq!(parse("1k").unwrap(), 1024);
        assert_eq!(number(&None, 7, 1..=MAX, "queue depth").unwrap(), 7);
        assert_eq!(parse("x").unwrap_err().to_string(), "Invalid queue depth specified: 'x'.");
        let text = "Invalid queue depth specified. Must be between 1 and 2147483647.";
        assert_eq!(parse("0").unwrap_err().to_string(), text);
    }
}
