//! Image locking: which bytes of the file are locked so that a running QEMU and our tools exclude each other.
//!
//! Shared open-file-description locks on single bytes: a permission held is byte 100 + bit, a permission *not* shared
//! with others is byte 200 + bit. Whoever takes one then looks whether somebody holds the opposite byte, so of two that
//! come at once at least one sees the other.

use crate::{Context, Error, Kind, Perm, Perms, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::Deserialize;
use std::fs::File;
use std::sync::{Mutex, PoisonError};

/// First byte for permissions held.
const HELD: u64 = 100;
/// First byte for permissions not shared.
const UNSHARED: u64 = 200;

/// Wanting nothing and sharing everything: no locks.
pub(super) const NOTHING: Perms = Perms { own: Perm::empty(), shared: Perm::all() };

/// The `locking` option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Locking {
    /// Without locks, no image.
    On,
    /// No locks.
    Off,
    /// Locks where the file system has them.
    #[default]
    Auto,
}

/// The locks on one open file.
#[derive(Debug)]
pub(super) struct Locks {
    mode: Locking,
    held: Mutex<Perms>,
}

impl Locks {
    /// None held yet.
    pub(super) fn new(mode: Locking) -> Self {
        Locks { mode, held: Mutex::new(NOTHING) }
    }

    /// Moves the locks on `file` to those that stand for `new`. `path` is for messages.
    ///
    /// # Errors
    /// `Locked`, naming the permission that somebody else holds or does not share. The locks are then as before.
    pub(super) fn change(&self, file: &File, path: &str, new: Perms) -> Result<()> {
        if self.mode == Locking::Off {
            return Ok(());
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let old = *held;
        let taken = self.take(file, path, old, new);
        if taken.is_ok() {
            *held = new;
            unlock(file, old, new);
        } else {
            unlock(file, new, old);
        }
        taken
    }

    fn take(&self, file: &File, path: &str, old: Perms, new: Perms) -> Result<()> {
        for byte in bytes(new).filter(|b| !bytes(old).any(|o| o == *b)) {
            match set(file, libc::F_RDLCK, byte) {
                // A file system without locks: nothing to exclude anybody with.
                Err(Errno::ENOLCK | Errno::EOPNOTSUPP) if self.mode == Locking::Auto => return Ok(()),
                done => done.context(|| format!("Failed to lock byte {byte}"))?,
            }
        }
        check_all(file, path, new)
    }
}

fn unlock(file: &File, gone: Perms, kept: Perms) {
    for byte in bytes(gone).filter(|b| !bytes(kept).any(|k| k == *b)) {
        // A lock that stays costs others the access until the file is closed, and nobody any data.
        let _ = set(file, libc::F_UNLCK, byte);
    }
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
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(());
    }
    Err(Error::new(Kind::Locked, text())
        .with_errno(libc::EAGAIN)
        .with_hint(format!("Is another process using the image [{path}]?")))
}

fn bytes(perms: Perms) -> impl Iterator<Item = u64> {
    let of =
        |first: u64, perms: Perm| (0..8).filter(move |i| perms.bits() >> i & 1 == 1).map(move |i| first + i);
    of(HELD, perms.own).chain(of(UNSHARED, perms.shared.complement()))
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

#[expect(clippy::cast_possible_truncation, reason = "lock types are 0 to 2, bytes below 300")]
fn flock(kind: i32, byte: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}
