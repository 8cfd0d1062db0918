//! One worker: take a chunk, read it, write what is not zero.

use super::cursor::{Span, SpanKind};
use super::{CopyError, CopyOptions, Job, Order, sparse};
use crate::buffer::{Buffer, is_zero};
use crate::compressed::Packed;
use crate::{Error, IoVec, WriteFlags, ZeroFlags};
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Span<'_> {
    /// How many of its bytes have to be read or written as data.
    pub(super) fn work(&self, options: &CopyOptions) -> u64 {
        match self.kind {
            SpanKind::Data | SpanKind::Plain => self.len,
            SpanKind::Zero if options.sparse == 0 => self.len,
            SpanKind::Zero | SpanKind::Backed => 0,
        }
    }
}

/// A worker and its buffer.
pub(super) struct Worker<'a, 'j> {
    job: &'a Job<'j>,
    buffer: Buffer,
    /// What is in the buffer, compressed, where the target lets that be done ahead.
    packed: Option<Packed>,
}

impl<'a, 'j> Worker<'a, 'j> {
    pub(super) fn new(job: &'a Job<'j>) -> Self {
        Worker { job, buffer: Buffer::default(), packed: None }
    }

    /// Works until there is nothing left or somebody failed.
    pub(super) fn run(&mut self) -> Result<(), CopyError> {
        while !self.job.failed.load(Ordering::Acquire) {
            let Some((number, span)) = self.next()? else { return Ok(()) };
            let work = span.work(self.job.options);
            self.wait_for_rate(work);
            let offload = span.stored.is_some() && self.job.offloads.load(Ordering::Relaxed);
            if work > 0 && !offload {
                self.fill(&span)?;
                self.pack(&span)?;
            }
            let in_turn = self.job.options.order == Order::Sequential;
            if in_turn && !self.job.turns.wait(number) {
                return Ok(());
            }
            // What comes next is placed behind it from then on, whenever the bytes of either arrive.
            let placed = || {
                if in_turn {
                    self.job.turns.end(number);
                }
            };
            match offload {
                true => self.offload(&span)?,
                false => self.write(&span, &placed)?,
            }
            placed();
            self.job.observer.advance(work);
        }
        Ok(())
    }

    fn next(&self) -> Result<Option<(u64, Span<'j>)>, CopyError> {
        let mut cursor = self.job.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let span = cursor.1.next()?;
        let number = cursor.0;
        cursor.0 += 1;
        Ok(span.map(|span| (number, span)))
    }

    fn wait_for_rate(&self, bytes: u64) {
        if let Some(throttle) = &self.job.throttle {
            let pause = throttle.lock().unwrap_or_else(PoisonError::into_inner).book(Instant::now(), bytes);
            std::thread::sleep(pause);
        }
    }

    /// Fills the buffer with what is to be written.
    fn fill(&mut self, span: &Span<'_>) -> Result<(), CopyError> {
        if self.buffer.is_empty() {
            self.buffer = Buffer::zeroed(self.job.chunk as usize);
        }
        let bytes = &mut self.buffer[..span.len as usize];
        if span.kind == SpanKind::Zero {
            bytes.fill(0);
            return Ok(());
        }
        match read(self.job, span, 0, bytes) {
            Err(e) if !self.job.options.salvage => Err(CopyError::Read(span.at, e)),
            Err(_) => {
                self.salvage(span);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Compresses what is in the buffer, on this worker's own core, before its turn to write comes.
    fn pack(&mut self, span: &Span<'_>) -> Result<(), CopyError> {
        self.packed = None;
        if self.is_whole(span.at, span.len) {
            let bytes = &self.buffer[..span.len as usize];
            let left_out = |bytes: &[u8]| self.job.options.sparse > 0 && is_zero(bytes);
            let packed = self.job.target.node().pack(bytes, left_out);
            self.packed = packed.map_err(|e| CopyError::Write(span.at, e))?;
        }
        Ok(())
    }

    /// Whether a range is to be stored as whole compressed clusters, the last of which the end of the image may cut.
    fn is_whole(&self, at: u64, len: u64) -> bool {
        let Some(unit) = self.job.options.compressed else { return false };
        let end = at + len;
        let last = || self.job.target.len().is_ok_and(|len| len == end);
        at.is_multiple_of(unit) && (end.is_multiple_of(unit) || last())
    }

    /// Reads again sector by sector; what still fails becomes zeroes.
    fn salvage(&mut self, span: &Span<'_>) {
        let sector = crate::SECTOR as usize;
        for (i, bytes) in self.buffer[..span.len as usize].chunks_mut(sector).enumerate() {
            let skip = (i * sector) as u64;
            if let Err(e) = read(self.job, span, skip, bytes) {
                bytes.fill(0);
                self.job.observer.read_failed(span.at + skip, &e);
            }
        }
    }

    /// Lets the host copy a chunk; where it cannot, copies it, and asks no more.
    fn offload(&mut self, span: &Span<'_>) -> Result<(), CopyError> {
        let (node, offset) = span.stored.as_ref().expect("only what is stored somewhere is offloaded");
        if self.job.target.copy_in(span.at, node, *offset, span.len).is_ok() {
            return Ok(());
        }
        self.job.offloads.store(false, Ordering::Relaxed);
        self.fill(span)?;
        self.write(span, &|| ())
    }

    /// Writes a chunk; calls `placed` as soon as the last of it has its place, if that is before the end.
    fn write(&self, span: &Span<'_>, placed: &dyn Fn()) -> Result<(), CopyError> {
        match span.kind {
            SpanKind::Backed => Ok(()),
            SpanKind::Zero if self.job.options.sparse > 0 => self.write_zeroes(span.at, span.len),
            SpanKind::Plain => self.write_data(span.at, 0..span.len as usize, placed),
            SpanKind::Data | SpanKind::Zero => self.write_buffer(span.at, span.len as usize, placed),
        }
    }

    /// Writes the first `len` bytes of the buffer, leaving out zeroes.
    fn write_buffer(&self, at: u64, len: usize, placed: &dyn Fn()) -> Result<(), CopyError> {
        let options = self.job.options;
        if options.sparse == 0 {
            return self.write_data(at, 0..len, placed);
        }
        // Of compressed clusters each that is zero is left out.
        let min = if options.compressed.is_some() { 0 } else { options.sparse };
        for (range, zero) in sparse::runs(&self.buffer[..len], at, min, self.job.unit) {
            match zero {
                true => self.write_zeroes(at + range.start as u64, range.len() as u64)?,
                false if range.end == len => self.write_data(at, range, placed)?,
                false => self.write_data(at, range, &|| ())?,
            }
        }
        Ok(())
    }

    /// Writes `range` of the buffer, which begins at `at` of the target.
    fn write_data(&self, at: u64, range: Range<usize>, placed: &dyn Fn()) -> Result<(), CopyError> {
        let start = at + range.start as u64;
        let bytes = &self.buffer[range.clone()];
        let target = self.job.target;
        let written = match &self.packed {
            Some(packed) => target.node().write_packed(start, bytes, packed.from(range.start)),
            None if self.is_whole(start, bytes.len() as u64) => {
                target.writev(start, &IoVec::from(bytes), WriteFlags::COMPRESSED)
            }
            None => target.write_placed(start, bytes, placed),
        };
        written.map_err(|e| CopyError::Write(start, e))
    }

    fn write_zeroes(&self, at: u64, len: u64) -> Result<(), CopyError> {
        let options = self.job.options;
        if options.target_is_zero && at >= options.backing.unwrap_or(0) {
            return Ok(());
        }
        let done = self.job.target.write_zeroes(at..at + len, ZeroFlags::MAY_UNMAP);
        done.map_err(|e: Error| CopyError::Write(at, e))
    }
}

/// Reads what is `skip` bytes into a chunk.
fn read(job: &Job<'_>, span: &Span<'_>, skip: u64, bytes: &mut [u8]) -> crate::Result<()> {
    match job.options.compressed {
        // A cluster may begin in one source and end in the next.
        Some(_) => job.read(span.at + skip, bytes),
        None => span.source.read(span.source_at + skip, bytes),
    }
}
