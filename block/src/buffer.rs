//! Bounce buffers: page-aligned (so that O_DIRECT takes them) and reused, so that hot paths do not allocate.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// The alignment of every [`Buffer`], in bytes: enough for O_DIRECT on any device.
pub const ALIGN: usize = 4096;

/// How many idle buffers a [`Pool`] keeps.
const IDLE: usize = 16;

/// The longest buffer a [`Pool`] keeps, in bytes: one request that was long must not cost its memory for ever.
const KEPT: usize = (2 << 20) + ALIGN;

/// A page-aligned run of bytes, zeroed when made.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let memory = vec![0; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Buffer { memory, start, len }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Buffers that come back for reuse when dropped. Their contents are whatever the last user left.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Vec<Buffer>>,
}

impl Pool {
    /// An empty pool.
    pub const fn new() -> Self {
        Pool { idle: Mutex::new(Vec::new()) }
    }

    /// A buffer of `len` bytes with unspecified contents.
    pub fn take(&self, len: usize) -> Pooled<'_> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = idle.iter().position(|b| b.memory.len() >= len + ALIGN);
        let buffer = match fit.map(|i| idle.swap_remove(i)) {
            Some(buffer) => Buffer { len, ..buffer },
            None => Buffer::zeroed(len),
        };
        Pooled { buffer, pool: self }
    }
}

/// A [`Buffer`] that goes back to its [`Pool`].
#[derive(Debug)]
pub struct Pooled<'a> {
    buffer: Buffer,
    pool: &'a Pool,
}

impl Deref for Pooled<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buffer
    }
}

impl DerefMut for Pooled<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE && self.buffer.memory.len() <= KEPT {
            idle.push(std::mem::take(&mut self.buffer));
        }
    }
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole cache lines first: the inner loop becomes vector code, and data that is not zero ends it at once.
    let (lines, rest) = bytes.as_chunks::<64>();
    lines.iter().all(|line| line.iter().fold(0, |acc, b| acc | b) == 0) && rest.iter().all(|&b| b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        let pool = Pool::new();
        let first = pool.take(8192);
        let address = first.as_ptr();
        assert!(first.as_ptr().addr().is_multiple_of(ALIGN));
        drop(first);
        assert_eq!(pool.take(512).as_ptr(), address);
    }

    #[test]
    fn long_buffers_are_not_kept() {
        let pool = Pool::new();
        drop(pool.take(KEPT));
        assert!(pool.idle.lock().unwrap().is_empty());
    }

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        let mut bytes = vec![0; 1000];
        assert!(is_zero(&bytes));
        for i in [0, 63, 64, 959, 960, 999] {
            bytes[i] = 0x80;
            assert!(!is_zero(&bytes));
            bytes[i] = 0;
        }
    }
}
