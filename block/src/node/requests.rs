//! What a node is asked to do, which the trace hears of together with what became of it.

use super::Node;
use crate::trace::{self, Operation};
use crate::{IoVec, IoVecMut, Level, Mapping, Resize, Result, Want, WriteFlags, ZeroFlags};
use std::ops::Range;
use std::sync::Arc;

impl Node {
    /// Reads `to.len()` bytes; what lies past the end reads as zeroes.
    ///
    /// # Errors
    /// The driver's.
    pub fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let len = to.len() as u64;
        self.traced(Operation::Read, at..at.saturating_add(len), self.serve_read(at, to))
    }

    /// Writes `from`.
    ///
    /// # Errors
    /// The driver's.
    pub fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.traced(Operation::Write, at..at + from.len() as u64, self.serve_write(at, from, flags))
    }

    /// Writes `from`, and may call `placed` before the end, as for [`Driver::write_placed`](crate::Driver::write_placed).
    ///
    /// # Errors
    /// The driver's.
    pub fn write_placed(&self, at: u64, from: &IoVec<'_>, placed: &dyn Fn()) -> Result<()> {
        self.traced(Operation::Write, at..at + from.len() as u64, self.serve_placed(at, from, placed))
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// `Unsupported` when [`ZeroFlags::NO_FALLBACK`] is set and the driver has nothing better than writing zeroes.
    pub fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.traced(Operation::WriteZeroes, range.clone(), self.serve_zeroes(range, flags))
    }

    /// Copies bytes of another node without taking them through memory; that node's are those of a protocol.
    ///
    /// # Errors
    /// As for [`Driver::copy_in`](crate::Driver::copy_in).
    pub fn copy_in(&self, at: u64, from: &Node, from_at: u64, len: u64) -> Result<()> {
        self.traced(Operation::Copy, at..at + len, self.serve_copy(at, from, from_at, len))
    }

    /// Gives a range up, if discards are passed on at all; what is not a whole unit stays, unless the driver takes parts.
    ///
    /// # Errors
    /// The driver's; a driver that cannot discard is no error.
    pub fn discard(&self, range: Range<u64>) -> Result<()> {
        self.traced(Operation::Discard, range.clone(), self.serve_discard(range))
    }

    /// Flushes every write completed before.
    ///
    /// # Errors
    /// The driver's.
    pub fn flush(&self, level: Level) -> Result<()> {
        self.traced_whole(Operation::Flush, self.serve_flush(level))
    }

    /// What the run at `at` is in this layer; past the end, zeroes.
    ///
    /// # Errors
    /// The driver's.
    pub fn map(self: &Arc<Self>, at: u64, max: u64, want: Want) -> Result<Mapping> {
        self.traced(Operation::Map, at..at.saturating_add(max), self.serve_map(at, max, want))
    }

    /// Changes the length, with nothing else in flight.
    ///
    /// # Errors
    /// The driver's.
    pub fn truncate(&self, to: Resize) -> Result<()> {
        self.traced(Operation::Truncate, to.size..to.size, self.serve_truncate(to))
    }

    /// Closes this node and those below, parents first. Every node is closed even when one fails.
    ///
    /// # Errors
    /// The first failure.
    pub fn close(&self) -> Result<()> {
        self.traced_whole(Operation::Close, self.serve_close())
    }

    /// Tells the trace what became of a request for a range.
    fn traced<T>(&self, operation: Operation, range: Range<u64>, done: Result<T>) -> Result<T> {
        let place = || format!(" offset {} bytes {}{}", range.start, range.end - range.start, outcome(&done));
        trace::tell(operation, &self.name, place);
        done
    }

    /// Tells the trace what became of a request that is about all of the node.
    fn traced_whole<T>(&self, operation: Operation, done: Result<T>) -> Result<T> {
        trace::tell(operation, &self.name, || outcome(&done));
        done
    }
}

/// What became of a request, as the end of a line.
fn outcome<T>(done: &Result<T>) -> String {
    done.as_ref().map_or_else(|e| format!(": {e}"), |_| ": ok".to_owned())
}
