//! LUKS images: encrypted payload behind (or beside) a header whose key slots hold the key.
//!
//! To users there is one driver, `luks`. A [`container`] is a header of either version; [`header`] and [`v1`] are version
//! 1, [`v2`] is version 2. Common to both are how a slot hides a key ([`keyslot`], [`derive`], [`calibrate`]), how the one
//! that a passphrase opens is found ([`search`]), how slots are changed ([`keys`]) and a saved header is
//! put back ([`restore`]), where passphrases come from ([`secret`]), [`options`] and [`payload`].

mod area;
mod calibrate;
mod container;
mod create;
pub(crate) mod derive;
pub(crate) mod embedded;
mod head;
mod header;
mod info;
pub(crate) mod keys;
mod keyslot;
mod lint;
mod open;
mod options;
mod payload;
mod restore;
mod search;
mod secret;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

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
