//! Where the file has data and where holes.
//!
//! The last run of data is remembered: an extent is asked about more than once, by each layer above. Only data is, and
//! that is what makes it safe: a hole that counts as data still reads as zeroes.

use super::{FileDriver, FileKind};
use crate::{Mapping, Result};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use std::ops::Range;
use std::sync::{MutexGuard, PoisonError};

impl FileDriver {
    /// What the run at `at` is, at most `max` bytes.
    pub(super) fn runs(&self, at: u64, max: u64) -> Result<Mapping> {
        let end = self.end();
        if at >= end {
            return Ok(Mapping::zero(max).at(None, at));
        }
        let max = max.min(end - at);
        if self.kind != FileKind::Regular {
            return Ok(Mapping::data(max).at(None, at));
        }
        let seen = self.seen().clone();
        if seen.contains(&at) {
            return Ok(Mapping::data(max.min(seen.end - at)).at(None, at));
        }
        Ok(self.look(at, max, end)?.at(None, at))
    }

    fn look(&self, at: u64, max: u64, end: u64) -> Result<Mapping> {
        match self.seek(at, Whence::SeekData) {
            Ok(Some(data)) if data > at => Ok(Mapping::zero(max.min(data - at))),
            Ok(Some(_)) => {
                let hole = self.seek(at, Whence::SeekHole)?.unwrap_or(end).max(at + 1);
                *self.seen() = at..hole;
                Ok(Mapping::data(max.min(hole - at)))
            }
            Ok(None) => Ok(Mapping::zero(max)),
            // A file system that cannot tell: all is data.
            Err(_) => Ok(Mapping::data(max)),
        }
    }

    /// Forgets what was seen: part of it may have become a hole.
    pub(super) fn forget_runs(&self) {
        *self.seen() = 0..0;
    }

    fn seen(&self) -> MutexGuard<'_, Range<u64>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seek(&self, at: u64, whence: Whence) -> Result<Option<u64>, Errno> {
        match lseek64(&self.file, i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?, whence) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            // Nothing of the kind between here and the end.
            Err(Errno::ENXIO) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
