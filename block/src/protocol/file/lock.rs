//! Image locking: which bytes of the file are locked so that a running QEMU and our tools exclude each other.
//!
//! Shared open-file-description locks on single bytes: a permission held is byte 100 + bit, a permission *not* shared
//! with others is byte 200 + bit. Whoever takes one then looks whether somebody holds the opposite byte.

use crate::{Error, Kind, Perm, Perms, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::File;

/// First byte for permissions held.
const HELD: u64 = 100;
/// First byte for permissions not shared.
const UNSHARED: u64 = 200;

/// Moves the locks on `file` from those of `old` to those of `new`.
///
/// # Errors
/// `Locked`, naming the permission that somebody else holds or does not share. The locks are then those of `old`.
pub(super) fn change(file: &File, path: &str, old: Perms, new: Perms) -> Result<()> {
    let result = lock_all(file, new, old).and_then(|()| check_all(file, path, new));
    match result {
        Ok(()) => unlock_all(file, old, new),
        Err(e) => {
            unlock_all(file, new, old)?;
            Err(e)
        }
    }
}

fn lock_all(file: &File, new: Perms, old: Perms) -> Result<()> {
    for byte in bytes(new).filter(|b| !bytes(old).any(|o| o == *b)) {
        match set(file, libc::F_RDLCK, byte) {
            // File systems without locks: nothing to exclude anybody with.
            Err(Errno::ENOLCK | Errno::EOPNOTSUPP) => return Ok(()),
            done => done?,
        }
    }
    Ok(())
}

fn unlock_all(file: &File, gone: Perms, kept: Perms) -> Result<()> {
    for byte in bytes(gone).filter(|b| !bytes(kept).any(|k| k == *b)) {
        set(file, libc::F_UNLCK, byte)?;
    }
    Ok(())
}

fn check_all(file: &File, path: &str, perms: Perms) -> Result<()> {
    for perm in perms.own.iter() {
        check(file, path, UNSHARED + bit(perm), || format!("Failed to get \"{}\" lock", name(perm)))?;
    }
    for perm in perms.shared.complement().iter() {
        check(file, path, HELD + bit(perm), || format!("Failed to get shared \"{}\" lock", name(perm)))?;
    }
    Ok(())
}

fn check(file: &File, path: &str, byte: u64, text: impl FnOnce() -> String) -> Result<()> {
    let mut lock = flock(libc::F_WRLCK, byte);
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) if i32::from(lock.l_type) == libc::F_UNLCK => Ok(()),
        Ok(_) => Err(Error::new(Kind::Locked, text())
            .with_errno(libc::EAGAIN)
            .with_hint(format!("Is another process using the image [{path}]?"))),
        Err(Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn bytes(perms: Perms) -> impl Iterator<Item = u64> {
    let held = perms.own.iter().map(|p| HELD + bit(p)).collect::<Vec<_>>();
    let unshared = perms.shared.complement().iter().map(|p| UNSHARED + bit(p)).collect::<Vec<_>>();
    held.into_iter().chain(unshared)
}

fn bit(perm: Perm) -> u64 {
    u64::from(perm.bits().trailing_zeros())
}

fn name(perm: Perm) -> &'static str {
    match perm {
        Perm::READ => "consistent read",
        Perm::WRITE => "write",
        Perm::WRITE_UNCHANGED => "write unchanged",
        _ => "resize",
    }
}

fn set(file: &File, kind: i32, byte: u64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&flock(kind, byte))).map(drop)
}

fn flock(kind: i32, byte: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}
