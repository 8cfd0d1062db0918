//! [`Filter`]: what all filters share. Everything one does not override is done by the node below, whose contents are
//! its own.

use crate::graph::ReopenCtx;
use crate::{
    Child, Driver, Error, IoVec, IoVecMut, Level, Limits, Mapping, Quiesced, Resize, Result, Want,
    WriteFlags, ZeroFlags,
};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What a filter may do otherwise than the node below; the methods are those of [`Driver`].
pub(super) trait Filter: Send + Sync + fmt::Debug {
    /// The node whose contents are this one's.
    fn below(&self) -> &Child;

    fn len(&self) -> Result<u64> {
        self.below().len()
    }

    fn children(&self) -> Arc<[Child]> {
        Arc::from([self.below().clone()])
    }

    fn limits(&self) -> Limits {
        pass_limits(self.below())
    }

    fn map(&self, at: u64, max: u64, want: Want) -> Result<Mapping> {
        self.below().map(at, max, want)
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.below().read(at, to)
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.below().write(at, from, flags)
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.below().write_zeroes(range, flags)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.below().discard(range)
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.below().flush(level)
    }

    fn truncate(&self, to: Resize) -> Result<()> {
        self.below().node().truncate(to)
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        Err(ctx.unsupported())
    }
}

/// The limits of a filter over `below` that is concerned with none of them.
pub(super) fn pass_limits(below: &Child) -> Limits {
    Limits { request_align: 1, ..below.node().limits() }
}

/// A filter as a driver.
#[derive(Debug)]
pub(super) struct Filtered<F>(pub(super) F);

impl<F: Filter> Driver for Filtered<F> {
    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn children(&self) -> Arc<[Child]> {
        self.0.children()
    }

    fn filtered(&self) -> Option<&Child> {
        Some(self.0.below())
    }

    fn map(&self, at: u64, max: u64, want: Want) -> Result<Mapping> {
        self.0.map(at, max, want)
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.0.read(at, to)
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.0.write(at, from, flags)
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.0.write_zeroes(range, flags)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.0.discard(range)
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.0.flush(level)
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        self.0.truncate(to)
    }

    fn close(&self) -> Result<()> {
        self.0.close()
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        self.0.reopen(ctx)
    }
}

/// Fails where a filter that always writes is opened without the right to.
pub(super) fn must_write(writable: bool) -> Result<()> {
    match writable {
        true => Ok(()),
        false => {
            Err(Error::new(crate::Kind::ReadOnly, "Block node is read-only").with_errno(nix::libc::EPERM))
        }
    }
}
