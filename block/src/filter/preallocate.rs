//! `preallocate`: room behind the end of a file that grows is allocated ahead, in large pieces.
//!
//! What was allocated ahead is no part of the contents: the length is where the data ends, and the file is cut there when
//! the node is closed or opened otherwise. Where the host cannot allocate, the file grows as it would without.

use super::pass::{Filter, Filtered};
use crate::graph::{DriverKind, DriverRow, OpenCtx, Perm, Perms, ReopenCtx};
use crate::{Child, Driver, Error, IoVec, Resize, Result, SECTOR, WriteFlags, ZeroFlags};
use secret::options::Size;
use serde::Deserialize;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The `preallocate` driver.
pub static ROW: DriverRow =
    DriverRow { children: &["file"], ..DriverRow::new("preallocate", DriverKind::Filter, open) };

/// What is allocated ends at a multiple of this, in bytes, unless options say otherwise.
const ALIGN: u64 = 1 << 20;
/// How much is allocated ahead, in bytes, unless options say otherwise.
const SIZE: u64 = 128 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PreallocateOptions {
    prealloc_align: Option<Size>,
    prealloc_size: Option<Size>,
}

#[derive(Debug)]
struct Preallocate {
    file: Child,
    align: u64,
    size: u64,
    /// `None` where the file may not grow.
    ends: Option<Mutex<Ends>>,
}

/// Where data and file end. Held while room is made, so that nobody writes where zeroes are on their way.
#[derive(Debug)]
struct Ends {
    data: u64,
    file: u64,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let options: PreallocateOptions = ctx.options()?;
    let perms = ctx.perms;
    let file = ctx.child("file", perms)?;
    Ok(Box::new(Filtered(Preallocate::new(file, &options, perms)?)))
}

impl Preallocate {
    fn new(file: Child, options: &PreallocateOptions, perms: Perms) -> Result<Self> {
        let align = options.prealloc_align.as_ref().map_or(ALIGN, |size| size.0);
        if !align.is_multiple_of(SECTOR) {
            return Err(Error::invalid(format!(
                "prealloc-align parameter of preallocate filter is not aligned to {SECTOR}"
            )));
        }
        let size = options.prealloc_size.as_ref().map_or(SIZE, |size| size.0);
        let len = file.len()?;
        let ends = perms.own.contains(Perm::WRITE | Perm::RESIZE).then_some(Ends { data: len, file: len });
        Ok(Preallocate { file, align: align.max(1), size, ends: ends.map(Mutex::new) })
    }

    fn ends(&self) -> Option<MutexGuard<'_, Ends>> {
        Some(self.ends.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes room for data up to `end`, and more.
    fn make_room(&self, ends: &mut Ends, end: u64) {
        if end <= ends.file {
            return;
        }
        let goal = end.checked_add(self.size).and_then(|end| end.checked_next_multiple_of(self.align));
        let Some(goal) = goal.filter(|goal| *goal <= i64::MAX as u64) else { return };
        if self.file.write_zeroes(ends.file..goal, ZeroFlags::NO_FALLBACK).is_ok() {
            ends.file = goal;
        }
    }

    fn note_written(&self, end: u64) {
        if let Some(mut ends) = self.ends() {
            ends.data = ends.data.max(end);
            ends.file = ends.file.max(end);
        }
    }

    /// Gives back what was allocated ahead.
    fn cut(&self) -> Result<()> {
        let Some(mut ends) = self.ends() else { return Ok(()) };
        if ends.file > ends.data {
            self.file.truncate(Resize::to(ends.data))?;
            ends.file = ends.data;
        }
        Ok(())
    }
}

impl Filter for Preallocate {
    fn below(&self) -> &Child {
        &self.file
    }

    fn len(&self) -> Result<u64> {
        self.ends().map_or_else(|| self.file.len(), |ends| Ok(ends.data))
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        let end = at.saturating_add(from.len() as u64);
        if let Some(mut ends) = self.ends() {
            self.make_room(&mut ends, end);
        }
        self.file.write(at, from, flags)?;
        self.note_written(end);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let end = range.end;
        let is_zero = self.ends().is_some_and(|mut ends| {
            self.make_room(&mut ends, end);
            range.start >= ends.data && end <= ends.file
        });
        if !is_zero {
            self.file.write_zeroes(range, flags)?;
        }
        self.note_written(end);
        Ok(())
    }

    fn truncate(&self, to: Resize) -> Result<()> {
        let ends = self.ends();
        self.file.node().truncate(to)?;
        if let Some(mut ends) = ends {
            let len = self.file.len()?;
            *ends = Ends { data: len, file: len };
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.cut()
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        let options: PreallocateOptions = ctx.options(&["prealloc-align", "prealloc-size"])?;
        self.cut()?;
        let perms = ctx.perms;
        let file = ctx.child("file", perms)?;
        Ok(Box::new(Filtered(Preallocate::new(file, &options, perms)?)))
    }
}
