//! Requests on a file.

use super::{FileDriver, FileKind, lock};
use crate::buffer::{ALIGN, Buffer};
use crate::{
    Driver, Error, FormatInfo, IoVec, IoVecMut, Level, Limits, Mapping, Perms, Quiesced, Resize, Result,
    Want, WriteFlags, ZeroFlags,
};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::uio::{preadv, pwritev};
use nix::unistd::{Whence, lseek64};
use serde_json::json;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// The alignment O_DIRECT asks for on this file, in bytes: the smallest that a read is accepted with.
pub(super) fn direct_align(file: &File, kind: FileKind) -> u32 {
    if kind == FileKind::BlockDevice
        && let Ok(sector) = crate::sys::device_sector(file.as_fd())
    {
        return sector;
    }
    let empty = file.metadata().map_or(0, |m| m.size()) == 0;
    let mut buffer = Buffer::zeroed(ALIGN);
    // An empty file accepts anything and proves nothing.
    let accepted = |n: &u32| !empty && file.read_at(&mut buffer[..*n as usize], 0).is_ok();
    [1, 512, 1024, 2048].into_iter().find(accepted).unwrap_or(4096)
}

impl FileDriver {
    fn end(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn grown_to(&self, end: u64) {
        self.len.fetch_max(end, Ordering::AcqRel);
    }

    fn punch(&self, range: &Range<u64>) -> Result<()> {
        if self.kind == FileKind::BlockDevice {
            return Ok(crate::sys::device_discard(self.file.as_fd(), range)?);
        }
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        self.fallocate(mode, range)
    }

    fn fallocate(&self, mode: FallocateFlags, range: &Range<u64>) -> Result<()> {
        let offset = offset(range.start)?;
        let len = i64::try_from(range.end - range.start).map_err(|_| Error::from_errno(nix::libc::EFBIG))?;
        Ok(retry(|| fallocate(&self.file, mode, offset, len))?)
    }

    fn zero(&self, range: &Range<u64>, may_unmap: bool) -> Result<()> {
        if self.kind == FileKind::BlockDevice {
            return Ok(crate::sys::device_zero(self.file.as_fd(), range)?);
        }
        if may_unmap && range.end <= self.end() && self.punch(range).is_ok() {
            return Ok(());
        }
        match self.fallocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, range) {
            Err(e) if e.kind() == crate::Kind::Unsupported => self.zero_by_punching(range),
            done => done,
        }
    }

    /// Where there is no zero-range operation (tmpfs): a hole, then allocation again.
    fn zero_by_punching(&self, range: &Range<u64>) -> Result<()> {
        let inside = range.start..range.end.min(self.end());
        if !inside.is_empty() {
            self.punch(&inside)?;
        }
        self.fallocate(FallocateFlags::empty(), range)
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

fn offset(at: u64) -> Result<i64> {
    i64::try_from(at).map_err(|_| Error::from_errno(nix::libc::EFBIG))
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

impl Driver for FileDriver {
    fn len(&self) -> Result<u64> {
        Ok(self.end())
    }

    fn limits(&self) -> Limits {
        Limits {
            request_align: self.align,
            memory_align: self.align,
            max_transfer: Some(0x7fff_0000),
            zero_init: self.kind == FileKind::Regular,
            ..Limits::default()
        }
    }

    fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
        let end = self.end().max(at);
        let max = max.min(end - at).max(1);
        let here = |mapping: Mapping| mapping.at(None, at);
        if self.kind != FileKind::Regular {
            return Ok(here(Mapping::data(max)));
        }
        match self.seek(at, Whence::SeekData) {
            Ok(Some(data)) if data > at => Ok(here(Mapping::zero(max.min(data - at)))),
            Ok(Some(_)) => {
                let hole = self.seek(at, Whence::SeekHole)?.unwrap_or(end);
                Ok(here(Mapping::data(max.min(hole.saturating_sub(at).max(1)))))
            }
            Ok(None) => Ok(here(Mapping::zero(max))),
            // A file system that cannot tell: all is data.
            Err(_) => Ok(here(Mapping::data(max))),
        }
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let mut done = 0;
        while done < to.len() {
            let start = offset(at + done as u64)?;
            let n = retry(|| preadv(&self.file, &mut to.io_slices(done), start))?;
            if n == 0 {
                // Past the end, or a file that somebody made shorter.
                let mut rest = to.reborrow();
                rest.split_to(done);
                rest.fill(0);
                return Ok(());
            }
            done += n;
        }
        Ok(())
    }

    fn write(&self, at: u64, from: &IoVec<'_>, _flags: WriteFlags) -> Result<()> {
        let mut done = 0;
        while done < from.len() {
            let start = offset(at + done as u64)?;
            let n = retry(|| pwritev(&self.file, &from.io_slices(done), start))?;
            if n == 0 {
                return Err(Error::from_errno(nix::libc::ENOSPC));
            }
            done += n;
        }
        self.grown_to(at + done as u64);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.zero(&range, flags.contains(ZeroFlags::MAY_UNMAP))?;
        self.grown_to(range.end);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.punch(&range)
    }

    fn flush(&self, level: Level) -> Result<()> {
        if level == Level::Os || self.no_flush {
            return Ok(());
        }
        let result = if self.flush_failed.load(Ordering::Acquire) {
            Err(Error::from_errno(nix::libc::EIO))
        } else {
            self.file.sync_data().map_err(Error::from)
        };
        if result.is_err() {
            self.flush_failed.store(true, Ordering::Release);
        }
        result
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        if self.kind != FileKind::Regular {
            let end = self.end();
            return match to.size {
                size if size == end => Ok(()),
                size if size > end => Err(Error::invalid("Cannot grow device files")),
                _ => Err(Error::unsupported("Cannot resize device files")),
            };
        }
        super::create::resize(&self.file, self.end(), to)?;
        self.len.store(to.size, Ordering::Release);
        Ok(())
    }

    fn allocated(&self) -> Option<u64> {
        self.file.metadata().ok().map(|m| m.blocks() * 512)
    }

    fn permit(&self, perms: Perms) -> Result<()> {
        let Some(locks) = &self.locks else { return Ok(()) };
        let mut held = locks.lock().unwrap_or_else(PoisonError::into_inner);
        lock::change(&self.file, &self.path, *held, perms)?;
        *held = perms;
        Ok(())
    }

    fn info(&self) -> FormatInfo {
        let specific = (self.kind == FileKind::Regular).then(|| ("file", json!({})));
        FormatInfo { specific, ..FormatInfo::default() }
    }
}
