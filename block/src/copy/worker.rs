//! One worker: take a chunk, read it, write what is not zero.

use super::{CHUNK, CopyError, Job, Span, sparse};
use crate::buffer::Buffer;
use crate::{Error, IoVec, WriteFlags, ZeroFlags};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

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
            if self.job.observer.stop() {
                return Err(CopyError::Stopped);
            }
            let Some(span) = self.next()? else { return Ok(()) };
            self.wait_for_rate(span.len);
            if span.zero {
                self.write_zeroes(span.at, span.len).map_err(|e| CopyError::Write(span.at, e))?;
            } else {
                self.copy(&span)?;
            }
            self.job.observer.advance(span.len);
        }
        Ok(())
    }

    fn next(&self) -> Result<Option<Span<'j>>, CopyError> {
        let mut cursor = self.job.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        cursor.next().map_err(CopyError::Map)
    }

    fn wait_for_rate(&self, bytes: u64) {
        if let Some(throttle) = &self.job.throttle {
            let pause = throttle.lock().unwrap_or_else(PoisonError::into_inner).book(bytes);
            std::thread::sleep(pause);
        }
    }

    fn copy(&mut self, span: &Span<'_>) -> Result<(), CopyError> {
        if self.buffer.is_empty() {
            self.buffer = Buffer::zeroed(CHUNK as usize);
        }
        let len = span.len as usize;
        if let Err(e) = span.source.read(span.source_at, &mut self.buffer[..len]) {
            self.salvage(span, e)?;
        }
        self.write(span.at, len)
    }

    /// Reads again sector by sector; what still fails becomes zeroes.
    fn salvage(&mut self, span: &Span<'_>, error: Error) -> Result<(), CopyError> {
        if !self.job.options.salvage {
            return Err(CopyError::Read(span.at, error));
        }
        let len = span.len as usize;
        for (i, sector) in self.buffer[..len].chunks_mut(512).enumerate() {
            let skip = i as u64 * 512;
            if let Err(e) = span.source.read(span.source_at + skip, sector) {
                sector.fill(0);
                self.job.observer.salvaged(span.at + skip, &e);
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, len: usize) -> Result<(), CopyError> {
        let options = self.job.options;
        let bytes = &self.buffer[..len];
        let mut flags = WriteFlags::empty();
        flags.set(WriteFlags::COMPRESSED, options.compressed);
        if options.sparse == 0 {
            return self.write_data(at, bytes, flags);
        }
        for (range, zero) in sparse::runs(bytes, at, options.sparse, self.job.alignment) {
            let start = at + range.start as u64;
            if zero {
                let done = self.write_zeroes(start, range.len() as u64);
                done.map_err(|e| CopyError::Write(start, e))?;
            } else {
                self.write_data(start, &bytes[range], flags)?;
            }
        }
        Ok(())
    }

    fn write_data(&self, at: u64, bytes: &[u8], flags: WriteFlags) -> Result<(), CopyError> {
        self.job.target.writev(at, &IoVec::from(bytes), flags).map_err(|e| CopyError::Write(at, e))
    }

    fn write_zeroes(&self, at: u64, len: u64) -> Result<(), Error> {
        let options = self.job.options;
        if options.target_is_zero && options.sparse > 0 {
            return Ok(());
        }
        let mut flags = ZeroFlags::empty();
        flags.set(ZeroFlags::MAY_UNMAP, options.sparse > 0);
        self.job.target.write_zeroes(at..at + len, flags)
    }
}
