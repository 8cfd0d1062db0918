//! One worker: take a chunk, read it, write what is not zero.

use super::cursor::{Span, SpanKind};
use super::{CopyError, CopyOptions, Job, Order, sparse};
use crate::buffer::Buffer;
use crate::{Error, IoVec, WriteFlags, ZeroFlags};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Span<'_> {
    /// How many of its bytes have to be read or written as data.
    pub(super) fn work(&self, options: &CopyOptions) -> u64 {
        match self.kind {
            SpanKind::Data => self.len,
            SpanKind::Zero if options.sparse == 0 => self.len,
            SpanKind::Zero | SpanKind::Backed => 0,
        }
    }
}

/// A worker and its buffer.
pub(super) struct Worker<'a, 'j> {
    job: &'a Job<'j>,
    buffer: Buffer,
}

impl<'a, 'j> Worker<'a, 'j> {
    pub(super) fn new(job: &'a Job<'j>) -> Self {
        Worker { job, buffer: Buffer::default() }
    }

    /// Works until there is nothing left or somebody failed.
    pub(super) fn run(&mut self) -> Result<(), CopyError> {
        while !self.job.failed.load(Ordering::Acquire) {
            let Some((number, span)) = self.next()? else { return Ok(()) };
            let work = span.work(self.job.options);
            self.wait_for_rate(work);
            if work > 0 {
                self.fill(&span)?;
            }
            let in_turn = self.job.options.order == Order::Sequential;
            if in_turn && !self.job.turns.wait(number) {
                return Ok(());
            }
            self.write(&span)?;
            if in_turn {
                self.job.turns.end(number);
            }
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
        if span.kind != SpanKind::Data {
            bytes.fill(0);
            return Ok(());
        }
        match span.source.read(span.source_at, bytes) {
            Err(e) if !self.job.options.salvage => Err(CopyError::Read(span.at, e)),
            Err(_) => {
                self.salvage(span);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Reads again sector by sector; what still fails becomes zeroes.
    fn salvage(&mut self, span: &Span<'_>) {
        let sector = crate::SECTOR as usize;
        for (i, bytes) in self.buffer[..span.len as usize].chunks_mut(sector).enumerate() {
            let skip = (i * sector) as u64;
            if let Err(e) = span.source.read(span.source_at + skip, bytes) {
                bytes.fill(0);
                self.job.observer.read_failed(span.at + skip, &e);
            }
        }
    }

    fn write(&self, span: &Span<'_>) -> Result<(), CopyError> {
        match span.kind {
            SpanKind::Backed => Ok(()),
            SpanKind::Zero if self.job.options.sparse > 0 => self.write_zeroes(span.at, span.len),
            SpanKind::Data | SpanKind::Zero => self.write_buffer(span.at, span.len as usize),
        }
    }

    /// Writes the first `len` bytes of the buffer, leaving out zeroes.
    fn write_buffer(&self, at: u64, len: usize) -> Result<(), CopyError> {
        let options = self.job.options;
        let bytes = &self.buffer[..len];
        if options.sparse == 0 {
            return self.write_data(at, bytes);
        }
        for (range, zero) in sparse::runs(bytes, at, options.sparse, self.job.unit) {
            let start = at + range.start as u64;
            match zero {
                true => self.write_zeroes(start, range.len() as u64)?,
                false => self.write_data(start, &bytes[range])?,
            }
        }
        Ok(())
    }

    fn write_data(&self, at: u64, bytes: &[u8]) -> Result<(), CopyError> {
        let mut flags = WriteFlags::empty();
        flags.set(WriteFlags::COMPRESSED, self.job.options.compressed);
        self.job.target.writev(at, &IoVec::from(bytes), flags).map_err(|e| CopyError::Write(at, e))
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
