//! The only unsafe code of the crate: requests to block devices for which no safe interface exists.

#![allow(unsafe_code)]

use nix::errno::Errno;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

mod ioctls {
    // Request codes of <linux/fs.h>.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
}

/// Size of a block device in bytes (`BLKGETSIZE64`).
pub(crate) fn device_size(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one u64 to the pointer, which is valid for the call.
    unsafe { ioctls::blkgetsize64(fd.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// Logical sector size of a block device in bytes (`BLKSSZGET`).
pub(crate) fn device_sector(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one int to the pointer, which is valid for the call.
    unsafe { ioctls::blksszget(fd.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(|_| Errno::EINVAL)
}

/// Discards a range of a block device, in bytes (`BLKDISCARD`).
pub(crate) fn device_discard(fd: BorrowedFd<'_>, range: &Range<u64>) -> Result<(), Errno> {
    let span = [range.start, range.end - range.start];
    // SAFETY: the kernel reads two u64 from the pointer, which is valid for the call.
    unsafe { ioctls::blkdiscard(fd.as_raw_fd(), &raw const span) }.map(drop)
}

/// Zeroes a range of a block device, in bytes (`BLKZEROOUT`).
pub(crate) fn device_zero(fd: BorrowedFd<'_>, range: &Range<u64>) -> Result<(), Errno> {
    let span = [range.start, range.end - range.start];
    // SAFETY: the kernel reads two u64 from the pointer, which is valid for the call.
    unsafe { ioctls::blkzeroout(fd.as_raw_fd(), &raw const span) }.map(drop)
}
