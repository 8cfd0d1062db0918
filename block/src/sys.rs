//! The only unsafe code of the crate: requests to files and devices, descriptors known by number only, and forking, for
//! which no safe interface exists.

#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Attributes of a file beyond the usual ones: `struct fsxattr` of `<linux/fs.h>`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fsxattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// The extent size hint of [`Fsxattr`] counts (`FS_XFLAG_EXTSIZE`).
const EXTENT_SIZE: u32 = 0x800;

/// No copy-on-write for this file (`FS_NOCOW_FL`).
const NO_COW: libc::c_int = 0x0080_0000;

/// Ask for the alignment of direct I/O (`STATX_DIOALIGN`).
const DIRECT_ALIGN: u32 = 0x2000;

mod ioctls {
    // Request codes of <linux/fs.h>.
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), nix::libc::c_int);
    nix::ioctl_read!(fsgetxattr, b'X', 31, super::Fsxattr);
    nix::ioctl_write_ptr!(fssetxattr, b'X', 32, super::Fsxattr);
    // Declared with `long`, yet the kernel moves an int.
    const LONG: usize = size_of::<nix::libc::c_long>();
    nix::ioctl_read_bad!(getflags, nix::request_code_read!(b'f', 1, LONG), nix::libc::c_int);
    nix::ioctl_write_ptr_bad!(setflags, nix::request_code_write!(b'f', 2, LONG), nix::libc::c_int);
    // <linux/cdrom.h>: CDROM_DRIVE_STATUS.
    nix::ioctl_write_int_bad!(cdrom_drive_status, 0x5326);
}

/// Has the allocator map allocations from a megabyte up one by one, so that what is freed leaves the process. Left alone, it
/// learns from long buffers to keep them, and each of its arenas keeps some.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back_freed_memory() {
    // SAFETY: only sets a parameter, under the allocator's lock. Where it is refused, memory is used as before.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20) };
}

/// Other allocators give it back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back_freed_memory() {}

/// Logical sector size of a block device in bytes (`BLKSSZGET`).
pub(crate) fn device_sector(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one int to the pointer, which is valid for the call.
    unsafe { ioctls::blksszget(fd.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(|_| Errno::EINVAL)
}

/// Whether a block device refuses writes (`BLKROGET`).
pub(crate) fn device_is_read_only(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut flag = 0;
    // SAFETY: the kernel writes one int to the pointer, which is valid for the call.
    unsafe { ioctls::blkroget(fd.as_raw_fd(), &raw mut flag) }?;
    Ok(flag != 0)
}

/// Discards a range of a block device, in bytes (`BLKDISCARD`).
pub(crate) fn device_discard(fd: BorrowedFd<'_>, range: &Range<u64>) -> Result<(), Errno> {
    let span = [range.start, range.end - range.start];
    // SAFETY: the kernel reads two u64 from the pointer, which is valid for the call.
    unsafe { ioctls::blkdiscard(fd.as_raw_fd(), &raw const span) }.map(drop)
}

/// Whether this is a CD drive that answers (`CDROM_DRIVE_STATUS`).
pub(crate) fn is_cd_drive(fd: BorrowedFd<'_>) -> bool {
    /// The current disc of a changer (`CDSL_CURRENT`).
    const CURRENT: libc::c_int = libc::c_int::MAX;
    // SAFETY: the request takes an int by value and touches no memory of ours.
    unsafe { ioctls::cdrom_drive_status(fd.as_raw_fd(), CURRENT) }.is_ok()
}

/// The extent size hint of a file in bytes, 0 without one (`FS_IOC_FSGETXATTR`).
pub(crate) fn extent_size_hint(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    attributes(fd).map(|a| a.extent_size)
}

/// Sets the extent size hint of a file in bytes (`FS_IOC_FSSETXATTR`).
pub(crate) fn set_extent_size_hint(fd: BorrowedFd<'_>, bytes: u32) -> Result<(), Errno> {
    let old = attributes(fd)?;
    let new = Fsxattr { flags: old.flags | EXTENT_SIZE, extent_size: bytes, ..old };
    // SAFETY: the kernel reads one Fsxattr from the pointer, which is valid for the call.
    unsafe { ioctls::fssetxattr(fd.as_raw_fd(), &raw const new) }.map(drop)
}

fn attributes(fd: BorrowedFd<'_>) -> Result<Fsxattr, Errno> {
    let mut attributes = Fsxattr::default();
    // SAFETY: the kernel writes one Fsxattr to the pointer, which is valid for the call.
    unsafe { ioctls::fsgetxattr(fd.as_raw_fd(), &raw mut attributes) }?;
    Ok(attributes)
}

/// Turns copy-on-write off for an empty file (`FS_IOC_SETFLAGS`); only btrfs has that.
pub(crate) fn set_nocow(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut flags = 0;
    // SAFETY: the kernel writes one int to the pointer, which is valid for the call.
    unsafe { ioctls::getflags(fd.as_raw_fd(), &raw mut flags) }?;
    flags |= NO_COW;
    // SAFETY: the kernel reads one int from the pointer, which is valid for the call.
    unsafe { ioctls::setflags(fd.as_raw_fd(), &raw const flags) }.map(drop)
}

/// What direct I/O on a file must be aligned to: memory and offsets, in bytes. `None` where the file system does not
/// tell (before Linux 6.1 none does).
pub(crate) fn direct_alignment(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let mut status = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, which with AT_EMPTY_PATH means the descriptor itself; the kernel writes
    // one statx to the pointer, which is valid for the call.
    let result = unsafe {
        libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, DIRECT_ALIGN, status.as_mut_ptr())
    };
    Errno::result(result).ok()?;
    // SAFETY: all bytes are initialised (zeroed above), and statx consists of integers.
    let status = unsafe { status.assume_init() };
    let known = status.stx_mask & DIRECT_ALIGN != 0 && status.stx_dio_offset_align != 0;
    known.then_some((status.stx_dio_mem_align, status.stx_dio_offset_align))
}

/// Accepts a connection; nothing is assumed about the family of its address.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    use nix::sys::socket::{SockFlag, accept4};
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A descriptor of our own for the socket this process inherited under the number `raw`.
pub(crate) fn inherited_socket(raw: RawFd) -> Result<OwnedFd, Errno> {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::stat::{SFlag, fstat};
    if raw < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: borrowed for two calls only; a number that is no open descriptor makes them fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    if SFlag::from_bits_truncate(fstat(borrowed)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err(Errno::ENOTSOCK);
    }
    let own = fcntl(borrowed, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(own) })
}

/// Forks; refused (`EBUSY`) when this process has more than one thread, as the child would have only this one and every
/// lock the others held.
pub(crate) fn fork() -> Result<nix::unistd::ForkResult, Errno> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(Errno::EBUSY);
    }
    // SAFETY: there is no other thread, so the child is a whole process.
    unsafe { nix::unistd::fork() }
}

/// A time in seconds since 1970 in the local time zone: year, month, day, hour, minute, second.
pub(crate) fn local_time(seconds: u64) -> Option<[i32; 6]> {
    let seconds = libc::time_t::try_from(seconds).ok()?;
    let mut broken = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right types, and the result is used only where it was filled.
    let tm = unsafe {
        if libc::localtime_r(&raw const seconds, broken.as_mut_ptr()).is_null() {
            return None;
        }
        broken.assume_init()
    };
    Some([tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec])
}

/// What little of `<security/pam_appl.h>` is needed.
#[cfg(feature = "authz-pam")]
mod pam {
    use std::ffi::{c_char, c_int, c_void};

    pub(super) const SUCCESS: c_int = 0;
    pub(super) const PERM_DENIED: c_int = 6;
    pub(super) const AUTH_ERR: c_int = 7;
    pub(super) const USER_UNKNOWN: c_int = 10;
    pub(super) const NEW_AUTHTOK_REQD: c_int = 12;
    pub(super) const ACCT_EXPIRED: c_int = 13;
    pub(super) const CONV_ERR: c_int = 19;

    /// How a module talks to a user.
    #[repr(C)]
    pub(super) struct Conversation {
        pub(super) talk: extern "C" fn(c_int, *mut *const c_void, *mut *mut c_void, *mut c_void) -> c_int,
        pub(super) data: *mut c_void,
    }

    #[link(name = "pam")]
    unsafe extern "C" {
        pub(super) fn pam_start(
            service: *const c_char,
            user: *const c_char,
            conversation: *const Conversation,
            handle: *mut *mut c_void,
        ) -> c_int;
        pub(super) fn pam_acct_mgmt(handle: *mut c_void, flags: c_int) -> c_int;
        pub(super) fn pam_end(handle: *mut c_void, status: c_int) -> c_int;
        pub(super) fn pam_strerror(handle: *mut c_void, status: c_int) -> *const c_char;
    }

    /// Nobody is there to talk to.
    pub(super) extern "C" fn silence(
        _: c_int,
        _: *mut *const c_void,
        _: *mut *mut c_void,
        _: *mut c_void,
    ) -> c_int {
        CONV_ERR
    }
}

/// Whether the account management of a PAM service lets `account` in; the error is why it cannot be asked.
#[cfg(feature = "authz-pam")]
pub(crate) fn pam_account(service: &std::ffi::CStr, account: &std::ffi::CStr) -> Result<bool, String> {
    let conversation = pam::Conversation { talk: pam::silence, data: std::ptr::null_mut() };
    let mut handle = std::ptr::null_mut();
    // SAFETY: the strings end in NUL and, like the conversation, outlive the handle, which `pam_end` below takes back.
    let mut status = unsafe {
        pam::pam_start(service.as_ptr(), account.as_ptr(), &raw const conversation, &raw mut handle)
    };
    if handle.is_null() {
        return Err(format!("error {status}"));
    }
    if status == pam::SUCCESS {
        // SAFETY: the handle is one that `pam_start` made.
        status = unsafe { pam::pam_acct_mgmt(handle, 0) };
    }
    // SAFETY: the handle is valid, and the text is the library's own, of which a copy is made.
    let text =
        unsafe { std::ffi::CStr::from_ptr(pam::pam_strerror(handle, status)) }.to_string_lossy().into_owned();
    // SAFETY: the handle is valid and not used afterwards.
    unsafe { pam::pam_end(handle, status) };
    match status {
        pam::SUCCESS => Ok(true),
        pam::PERM_DENIED | pam::AUTH_ERR | pam::USER_UNKNOWN | pam::NEW_AUTHTOK_REQD | pam::ACCT_EXPIRED => {
            Ok(false)
        }
        _ => Err(text),
    }
}
