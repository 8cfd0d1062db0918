//! Virtio devices (Virtual I/O Device, OASIS, version 1.2): their registers ([`Mmio`]) and what they do ([`Device`]).
//!
//! The guest is not trusted: what it puts into registers and rings is checked when it is used, and every access to its
//! memory is bounded by `vm_memory`.

mod block;
mod mmio;
mod rng;
#[cfg(test)]
mod tests;

pub(super) use block::Block;
pub(super) use mmio::Mmio;
pub(super) use rng::Rng;

use ::block::{Error, Result};
use std::fmt;
use virtio_queue::{Reader, Writer};

/// A device with one queue.
pub(super) trait Device: Send + fmt::Debug {
    /// Its name, for messages.
    fn name(&self) -> String;

    /// What kind it is (section 5).
    fn id(&self) -> u32;

    /// The features it offers, besides those of the transport.
    fn features(&self) -> u64;

    /// Its configuration.
    fn config(&self) -> &[u8];

    /// Does what a chain of buffers asks: `from` is what the guest wrote, `to` where answers go. Gives the number of bytes
    /// written.
    ///
    /// # Errors
    /// Buffers that no driver would make. What the request itself asks wrongly is the device's to answer.
    fn serve(&mut self, from: Reader<'_>, to: Writer<'_>) -> Result<u32>;
}

/// Something no driver does.
fn broken(what: impl fmt::Display) -> Error {
    Error::invalid(what.to_string())
}
