//! The machine on KVM.

use crate::console::Console;
use crate::machine::{Machine, Outcome};
use block::{Error, Image, Result};

/// Runs the machine to its end.
///
/// # Errors
/// It cannot be started.
pub(crate) fn run(_machine: &Machine, _disks: Vec<Image>, _console: Console) -> Result<Outcome> {
    Err(Error::unsupported("--accel kvm is not supported by this build"))
}
