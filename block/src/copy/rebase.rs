//! Making an image independent of what its backing files hold, as far as another backing file does not hold the same.
//!
//! Only what the image itself does not store is looked at. There the old and the new backing file are compared unit by
//! unit, and where they differ the image gets what the old one has.

use super::Observer;
use crate::buffer::{Buffer, is_zero};
use crate::extents::{Extent, Extents};
use crate::{Error, Image, IoVec, IoVecMut, Node, Result, Want, WriteFlags, ZeroFlags};
use std::ops::Range;
use std::sync::Arc;

/// How much is compared at once, in bytes; at least one cluster of any format.
const PIECE: u64 = 2 << 20;

/// What the backing files are, and how differences are stored.
#[derive(Debug, Clone, Copy)]
pub struct Rebase<'a> {
    /// The image, which still stands on its old backing file.
    pub top: &'a Image,
    /// The old backing file; none reads as zeroes.
    pub old: Option<&'a Arc<Node>>,
    /// The new one.
    pub new: Option<&'a Arc<Node>>,
    /// How many layers below the image the new backing file is found in the old chain, if it is there: what comes from
    /// that layer or those below it is the same.
    pub shared_from: Option<u32>,
    /// Store compressed clusters.
    pub compressed: bool,
}

/// Which side of a rebase failed.
#[derive(Debug)]
pub enum RebaseError {
    /// Finding out what is stored.
    Status(u64, Error),
    /// Reading the old backing file.
    Old(Error),
    /// Reading the new backing file.
    New(Error),
    /// Writing the image.
    Write(Error),
}

/// A stretch that the image itself does not store.
struct Missing {
    range: Range<u64>,
    /// It reads as zeroes from the old backing file.
    zero: bool,
}

impl Missing {
    /// Whether what follows is dealt with together with this. Short stretches of zeroes are: what differs is stored in
    /// one run there, zeroes among data as data, as by QEMU. Long ones are kept apart because nobody needs to read them.
    fn joins(&self, next: &Extent, unit: u64) -> bool {
        let short = |len: u64| len < PIECE;
        let alike = match (self.zero, next.zero) {
            (true, false) => short(self.range.end - self.range.start),
            (false, true) => short(next.len),
            _ => true,
        };
        alike || !self.range.end.is_multiple_of(unit)
    }
}

impl Rebase<'_> {
    /// Copies what differs.
    ///
    /// # Errors
    /// The first failure.
    pub fn run(&self, observer: &dyn Observer) -> Result<(), RebaseError> {
        let len = self.top.len().map_err(|e| RebaseError::Status(0, e))?;
        let unit = self.unit();
        let mut buffers = [Buffer::default(), Buffer::default()];
        let mut pending: Option<Missing> = None;
        let mut at = 0;
        for extent in Extents::new(self.top.node(), 0..len, Want::Zeroes) {
            let extent = extent.map_err(|e| RebaseError::Status(at, e))?;
            at = extent.start + extent.len;
            let here = extent.present && extent.depth == 0;
            let same = here || self.shared_from.is_some_and(|from| extent.depth >= from);
            let joins = pending.as_ref().is_some_and(|p| p.joins(&extent, unit));
            if (!joins || same)
                && let Some(missing) = pending.take()
            {
                self.bring(&missing, &mut buffers, observer)?;
            }
            match &mut pending {
                _ if same => observer.advance(extent.len),
                Some(missing) => {
                    missing.range.end = at;
                    missing.zero &= extent.zero;
                }
                None => pending = Some(Missing { range: extent.start..at, zero: extent.zero }),
            }
        }
        pending.map_or(Ok(()), |missing| self.bring(&missing, &mut buffers, observer))
    }

    /// In which multiples differences are stored: what the image allocates at once.
    fn unit(&self) -> u64 {
        let limits = self.top.limits();
        let unit = match self.compressed {
            true => limits.cluster_size.unwrap_or(1),
            false => limits.zero_granularity,
        };
        u64::from(unit.max(limits.request_align)).max(crate::SECTOR)
    }

    /// Stores what differs in a stretch the image does not have.
    fn bring(
        &self,
        missing: &Missing,
        buffers: &mut [Buffer; 2],
        observer: &dyn Observer,
    ) -> Result<(), RebaseError> {
        // What is stored at all is stored in whole units.
        let unit = self.unit();
        let len = self.top.len().map_err(|e| RebaseError::Status(missing.range.start, e))?;
        let end = missing.range.end.next_multiple_of(unit).min(len);
        let mut at = missing.range.start - missing.range.start % unit;
        while at < end {
            let skip = if missing.zero { self.zeroes_from(at, end)? } else { 0 };
            if skip > 0 {
                observer.advance(skip);
                at += skip;
                continue;
            }
            let stop = end.min((at / PIECE + 1) * PIECE);
            self.bring_piece(at..stop, buffers)?;
            observer.advance(stop - at);
            at = stop;
        }
        Ok(())
    }

    /// How many bytes from `at` on are zeroes in the new backing file, in whole units.
    fn zeroes_from(&self, at: u64, end: u64) -> Result<u64, RebaseError> {
        let Some(new) = self.new else { return Ok(end - at) };
        let len = new.len().map_err(RebaseError::New)?;
        let stop = match Extents::new(new, at..end.min(len), Want::Zeroes).next() {
            None => end,
            Some(Err(e)) => return Err(RebaseError::Status(at, e)),
            Some(Ok(extent)) if !extent.zero => at,
            Some(Ok(extent)) if extent.start + extent.len >= len => end,
            Some(Ok(extent)) => extent.start + extent.len,
        };
        Ok(if stop >= end { end - at } else { (stop - stop % self.unit()).saturating_sub(at) })
    }

    fn bring_piece(&self, range: Range<u64>, buffers: &mut [Buffer; 2]) -> Result<(), RebaseError> {
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        for buffer in buffers.iter_mut().filter(|b| b.is_empty()) {
            *buffer = Buffer::zeroed(PIECE as usize);
        }
        let [old, new] = buffers;
        let (old, new) = (&mut old[..len], &mut new[..len]);
        read(self.old, range.start, old).map_err(RebaseError::Old)?;
        read(self.new, range.start, new).map_err(RebaseError::New)?;
        for run in differences(old, new, range.start, self.unit()) {
            self.store(range.start + run.start as u64, &old[run]).map_err(RebaseError::Write)?;
        }
        Ok(())
    }

    fn store(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if is_zero(bytes) {
            return self.top.write_zeroes(at..at + bytes.len() as u64, ZeroFlags::empty());
        }
        let mut flags = WriteFlags::empty();
        flags.set(WriteFlags::COMPRESSED, self.compressed);
        self.top.writev(at, &IoVec::from(bytes), flags)
    }
}

fn read(node: Option<&Arc<Node>>, at: u64, to: &mut [u8]) -> Result<()> {
    match node {
        Some(node) => node.read(at, &mut IoVecMut::from(to)),
        None => {
            to.fill(0);
            Ok(())
        }
    }
}

/// The runs of units in which `a` and `b` differ. `at` is the offset of both in the image.
fn differences(a: &[u8], b: &[u8], at: u64, unit: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    while start < a.len() {
        let end = a.len().min(start + (unit - (at + start as u64) % unit) as usize);
        if a[start..end] != b[start..end] {
            match runs.last_mut() {
                Some(run) if run.end == start => run.end = end,
                _ => runs.push(start..end),
            }
        }
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_whole_units() {
        let mut old = vec![0; 8192];
        let mut new = vec![0; 8192];
        old[10] = 1;
        old[5000] = 1;
        new[2100] = 1;
        assert_eq!(differences(&old, &new, 0, 1024), [0..1024, 2048..3072, 4096..5120]);
        assert_eq!(differences(&old, &new, 512, 2048), [Range { start: 0, end: 5632 }]);
        assert!(differences(&old, &old, 0, 1024).is_empty());
    }
}
