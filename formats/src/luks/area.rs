//! The place of a header: a range of a file (or of anything else with bytes) that begins with it.
//!
//! A LUKS file begins with its header; qcow2 keeps one in its middle. What is in a header counts from the header's
//! start, so everything that reads and writes one goes through [`Area`].

use block::{Child, Error, Kind, Level, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;

/// Bytes that are overwritten at once.
const WIPE_PIECE: usize = 1 << 20;

/// Where a header is.
#[derive(Debug, Clone)]
pub(crate) struct Area {
    child: Child,
    start: u64,
}

impl Area {
    /// The header that begins at `start` of `child`.
    pub(crate) fn new(child: Child, start: u64) -> Self {
        Area { child, start }
    }

    /// Bytes from the header's start to the end of what it is in.
    ///
    /// # Errors
    /// The layer's below.
    pub(super) fn len(&self) -> Result<u64> {
        Ok(self.child.len()?.saturating_sub(self.start))
    }

    /// Reads from `at` bytes behind the header's start; past the end are zeroes.
    ///
    /// # Errors
    /// The layer's below.
    pub(super) fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        self.child.read_exact(self.start + at, to)
    }

    /// Writes at `at` bytes behind the header's start.
    ///
    /// # Errors
    /// The layer's below.
    pub(super) fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        self.child.write_all(self.start + at, from)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The layer's below.
    pub(super) fn flush(&self) -> Result<()> {
        self.child.flush(Level::Disk)
    }

    /// Takes the advisory lock that cryptsetup takes while it changes a header; `None` where there is no file.
    ///
    /// # Errors
    /// Somebody else has it.
    pub(super) fn lock(&self) -> Result<Option<Flock<File>>> {
        let name = self.child.node().name();
        if name.driver != "file" {
            return Ok(None);
        }
        let Ok(file) = File::open(&name.filename) else { return Ok(None) };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(Error::new(Kind::Locked, "Another program is changing the header")
                    .with_hint("cryptsetup holds its lock only for a moment: try again."))
            }
            // Not every file system has locks.
            Err(_) => Ok(None),
        }
    }

    /// Overwrites a range with random bytes, and makes that durable.
    ///
    /// # Errors
    /// The layer's below, or the system has no random numbers.
    pub(super) fn wipe(&self, at: u64, len: usize) -> Result<()> {
        let mut noise = vec![0; len.min(WIPE_PIECE)];
        let mut done = 0;
        while done < len {
            let piece = &mut noise[..(len - done).min(WIPE_PIECE)];
            super::random(piece)?;
            self.write(at + done as u64, piece)?;
            done += piece.len();
        }
        self.flush()
    }
}
