//! Software emulation: QEMU's `qemu-system-x86_64`, with the disks attached through our own NBD server.

use crate::machine::{Machine, Outcome};
use block::{Error, Result};

/// Runs the machine to its end.
///
/// # Errors
/// It cannot be started.
pub(crate) fn run(_machine: &Machine) -> Result<Outcome> {
    Err(Error::unsupported("--accel tcg is not supported by this build"))
}
