//! Requests on a file.

use super::{FileDriver, FileKind, FileOptions};
use crate::graph::ReopenCtx;
use crate::{
    Driver, Error, FormatInfo, IoVec, IoVecMut, Level, Limits, Mapping, Node, Perms, Quiesced, Resize,
    Result, SECTOR, Want, WriteFlags, ZeroFlags,
};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::libc;
use nix::sys::uio::{preadv, pwritev};
use serde_json::json;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

/// The most buffers one system call takes (`IOV_MAX`).
const MAX_BUFFERS: usize = 1024;

const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

impl FileDriver {
    pub(super) fn end(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn grown_to(&self, end: u64) {
        self.len.fetch_max(end, Ordering::AcqRel);
    }

    fn fallocate(&self, mode: FallocateFlags, range: &Range<u64>) -> Result<()> {
        let len = offset(range.end - range.start)?;
        let start = offset(range.start)?;
        match retry(|| fallocate(&self.file, mode, start, len)) {
            // Not in these units, not on this kind of file: the same as not at all.
            Err(Errno::EINVAL | Errno::ENODEV) => Err(Error::from_errno(libc::ENOTSUP)),
            done => Ok(done?),
        }
    }

    fn zero(&self, range: &Range<u64>, may_unmap: bool) -> Result<()> {
        // A hole that ends in the last sector does not make that sector whole.
        let inside = range.end <= self.end().next_multiple_of(SECTOR);
        if may_unmap && inside && self.fallocate(PUNCH, range).is_ok() {
            return Ok(());
        }
        if self.kind == FileKind::BlockDevice {
            let keep = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            return self.fallocate(keep, range);
        }
        self.zero_range(range)?;
        self.grown_to(range.end);
        Ok(())
    }

    fn zero_range(&self, range: &Range<u64>) -> Result<()> {
        if !self.no_zero_range.load(Ordering::Relaxed) {
            match self.fallocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, range) {
                Err(e) if e.kind() == crate::Kind::Unsupported => {
                    self.no_zero_range.store(true, Ordering::Relaxed);
                }
                done => return done,
            }
        }
        self.zero_by_punching(range)
    }

    /// Where there is no zero-range operation (tmpfs): a hole, then allocation again.
    fn zero_by_punching(&self, range: &Range<u64>) -> Result<()> {
        let inside = range.start..range.end.min(self.end());
        if !inside.is_empty() {
            self.fallocate(PUNCH, &inside)?;
        }
        self.fallocate(FallocateFlags::empty(), range)
    }

    /// Whole sectors only: the kernel refuses the rest.
    fn discard_sectors(&self, range: &Range<u64>) -> Result<()> {
        let sector = u64::from(self.sector);
        let whole = range.start.next_multiple_of(sector)..range.end - range.end % sector;
        if whole.is_empty() {
            return Ok(());
        }
        Ok(retry(|| crate::sys::device_discard(self.file.as_fd(), &whole))?)
    }

    fn finish_fua(&self, wanted: bool) -> Result<()> {
        if wanted { self.flush(Level::Disk) } else { Ok(()) }
    }

    fn is_device(&self) -> bool {
        self.kind != FileKind::Regular
    }

    fn resize_device(&self, to: Resize) -> Result<()> {
        let end = self.end();
        if to.prealloc != crate::Prealloc::Off {
            let mode = to.prealloc.name();
            let text = format!("Preallocation mode '{mode}' unsupported for this non-regular file");
            return Err(Error::unsupported(text));
        }
        if to.exact && to.size != end {
            return Err(Error::unsupported("Cannot resize device files"));
        }
        if to.size > end { Err(Error::invalid("Cannot grow device files")) } else { Ok(()) }
    }
}

fn offset(at: u64) -> Result<i64> {
    i64::try_from(at).map_err(|_| Error::from_errno(libc::EFBIG))
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
        if self.no_medium { Err(Error::from_errno(libc::ENOMEDIUM)) } else { Ok(self.end()) }
    }

    fn limits(&self) -> Limits {
        Limits {
            request_align: self.align.request,
            memory_align: self.align.memory,
            max_transfer: Some(0x7fff_0000),
            discard_granularity: self.sector,
            discards_parts: !self.is_device(),
            write_flags: WriteFlags::FUA,
            zero_init: !self.is_device(),
            ..Limits::default()
        }
    }

    fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
        self.runs(at, max)
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let mut done = 0;
        while done < to.len() {
            let start = at + done as u64;
            let position = offset(start)?;
            let n = retry(|| {
                let mut buffers = to.io_slices(done);
                let count = buffers.len().min(MAX_BUFFERS);
                preadv(&self.file, &mut buffers[..count], position)
            })?;
            done += n;
            // Nothing, or with O_DIRECT less than a unit: past the end, or a file that somebody made shorter.
            if n == 0 || !(at + done as u64).is_multiple_of(u64::from(self.align.request)) {
                let mut rest = to.reborrow();
                rest.split_to(done);
                rest.fill(0);
                return Ok(());
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        let mut done = 0;
        while done < from.len() {
            let start = offset(at + done as u64)?;
            let buffers = from.io_slices(done);
            let count = buffers.len().min(MAX_BUFFERS);
            let n = retry(|| pwritev(&self.file, &buffers[..count], start))?;
            if n == 0 {
                return Err(Error::from_errno(libc::ENOSPC));
            }
            done += n;
        }
        self.grown_to(at + done as u64);
        self.finish_fua(flags.contains(WriteFlags::FUA))
    }

    fn host_file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn copy_in(&self, at: u64, from: &Node, from_at: u64, len: u64) -> Result<()> {
        let state = from.state();
        let source = state.driver.host_file().ok_or_else(|| Error::from_errno(libc::ENOTSUP))?;
        let (mut at, mut from_at) = (offset(at)?, offset(from_at)?);
        let end = at.checked_add(offset(len)?).ok_or_else(|| Error::from_errno(libc::EFBIG))?;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            // The kernel moves both offsets.
            match retry(|| copy_file_range(source, Some(&mut from_at), &self.file, Some(&mut at), left))? {
                // The source's file ends here.
                0 => return Err(Error::from_errno(libc::ENOTSUP)),
                _ => self.grown_to(u64::try_from(at).unwrap_or(0)),
            }
        }
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let result = self.zero(&range, flags.contains(ZeroFlags::MAY_UNMAP));
        self.forget_runs();
        result?;
        self.finish_fua(flags.contains(ZeroFlags::FUA))
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        let result = match self.kind {
            FileKind::BlockDevice => self.discard_sectors(&range),
            _ => self.fallocate(PUNCH, &range),
        };
        self.forget_runs();
        result
    }

    fn flush(&self, level: Level) -> Result<()> {
        if level == Level::Os || self.kind == FileKind::CharDevice {
            return Ok(());
        }
        let result = if self.flush_failed.load(Ordering::Acquire) {
            Err(Error::from_errno(libc::EIO))
        } else {
            self.file.sync_data().map_err(Error::from)
        };
        if result.is_err() {
            self.flush_failed.store(true, Ordering::Release);
        }
        result
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        if self.is_device() {
            return self.resize_device(to);
        }
        super::create::resize(&self.file, self.end(), to)?;
        self.len.store(to.size, Ordering::Release);
        self.forget_runs();
        Ok(())
    }

    fn allocated(&self) -> Option<u64> {
        self.file.metadata().ok().map(|m| m.blocks() * 512)
    }

    fn permit(&self, perms: Perms) -> Result<()> {
        self.locks.change(&self.locked, &self.path, perms)
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        let options: FileOptions = ctx.options(&[])?;
        options.check(ctx.flags)?;
        Ok(Box::new(self.reopened(ctx.flags)?))
    }

    fn info(&self) -> FormatInfo {
        let hint = crate::sys::extent_size_hint(self.file.as_fd()).unwrap_or(0);
        let data = if hint > 0 { json!({"extent-size-hint": hint}) } else { json!({}) };
        FormatInfo { specific: Some(("file", data)), ..FormatInfo::default() }
    }
}
