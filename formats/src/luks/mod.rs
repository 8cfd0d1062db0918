//! LUKS images: encrypted payload behind (or beside) a header whose key slots hold the key.
//!
//! To users there is one driver, `luks`. What is common to both versions of the format is [`payload`], [`options`] and
//! [`secret`]; of version 1 are [`header`] and the key derivation in [`keyslot`]. Version 2 is recognised, and refused by
//! name.

mod area;
mod calibrate;
mod container;
mod create;
mod derive;
mod header;
mod info;
pub(crate) mod keys;
mod keyslot;
mod open;
mod options;
mod payload;
mod secret;
#[cfg(test)]
mod tests;
mod v1;

use block::graph::{DriverKind, DriverRow, Probe};
use block::{Error, Kind, Result};
use rand::TryRng;
use rand::rngs::SysRng;

/// The `luks` driver.
pub static ROW: DriverRow = DriverRow {
    probe,
    children: &["file", "header"],
    strong_options: &["key-secret"],
    create: Some(&create::ROW),
    amend: &keys::amend::OPTIONS,
    ..DriverRow::new("luks", DriverKind::Format, open::open)
};

/// A file that claims to be LUKS is, in whatever version; it must never pass for a raw image.
fn probe(probe: &Probe<'_>) -> u8 {
    if header::version(probe.head).is_some() { 100 } else { 0 }
}

/// Fills `bytes` from the system's random numbers.
fn random(bytes: &mut [u8]) -> Result<()> {
    SysRng
        .try_fill_bytes(bytes)
        .map_err(|e| Error::new(Kind::Io, format!("The system gives no random numbers: {e}")))
}
