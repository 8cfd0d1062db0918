//! `--list`: the exports of another server.

use block::channel::Address;
use block::tool::Out;
use block::{Error, Result};
use std::process::ExitCode;

/// Connects and prints what there is.
///
/// # Errors
/// No server there, or one that does not tell.
pub(crate) fn run(address: &Address, _out: &Out) -> Result<ExitCode> {
    let _socket = address.connect()?;
    Err(Error::unsupported("Not yet"))
}
