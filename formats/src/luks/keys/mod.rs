//! Changes of key slots: one engine over both versions of the format, wherever the header is.
//!
//! [`KeyStore`] is what a version of the format must be able to do with single slots; [`amend`] has QEMU's rules about
//! what may be done, [`ops`] those of `img key`. Order is what keeps data safe, and it is the same everywhere: a new slot is written, made durable
//! and proven to open before an old one is touched; the material of an old slot is overwritten, durably, before the
//! header says that the slot is free. So after a power cut at any point some slot opens, unless the user forced it.

pub(crate) mod amend;
pub(crate) mod ops;
#[cfg(test)]
pub(super) mod tests;

use super::derive::Variant;
use super::keyslot::{KeySlot, VolumeKey};
use super::search::{Found, Search};
use super::secret::{check_all_tried, wrong};
use block::Result;
use std::num::NonZeroU32;

/// What a new slot is to cost.
#[derive(Debug, Clone)]
pub(crate) struct NewKey {
    /// Milliseconds its derivation is to take.
    pub(crate) iter_time: u64,
    /// Iterations (of Argon2: passes), instead of what `iter_time` comes to.
    pub(crate) iterations: Option<NonZeroU32>,
    /// The derivation, where there is a choice.
    pub(crate) derivation: Option<Kind>,
    /// KiB of memory at most.
    pub(crate) memory: Option<u32>,
    /// Lanes at most.
    pub(crate) parallel: Option<u32>,
}

/// A kind of key derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// RFC 8018.
    Pbkdf2,
    /// RFC 9106.
    Argon2(Variant),
}

/// Milliseconds that opening takes, unless the user says otherwise.
pub(crate) const ITER_TIME: u64 = 2000;

impl Default for NewKey {
    fn default() -> Self {
        NewKey { iter_time: ITER_TIME, iterations: None, derivation: None, memory: None, parallel: None }
    }
}

/// The key slots of one header, to be changed. Slots are numbered below [`KeyStore::slots`].
///
/// # Errors
/// Every method fails with what the layer below says, or for want of memory or random numbers.
pub(crate) trait KeyStore {
    /// How many slots there can be.
    fn slots(&self) -> usize;

    /// The slots in use.
    fn used(&self) -> Vec<usize>;

    /// Those of them that open the payload.
    fn active(&self) -> Vec<usize>;

    /// The first slot that is not in use.
    fn free(&self) -> Option<usize>;

    /// Whether there is room to write a slot that is to be overwritten somewhere else first.
    fn has_spare(&self) -> bool;

    /// Whether slots may be changed at all; the error says why not.
    fn check_writable(&self) -> Result<()>;

    /// The slots to try, in the order in which they are tried: `all`, or none that is only tried when it is named.
    fn key_slots(&self, all: bool) -> Vec<KeySlot>;

    /// A search in `slots`.
    fn search(&self, slots: Vec<KeySlot>) -> Result<Search<'_>>;

    /// Puts `key` under `passphrase` into a slot. When it returns the slot is durable, and was seen to open. What was in
    /// the slot before is lost, at the latest when this returns.
    fn fill(&mut self, slot: usize, key: &VolumeKey, passphrase: &[u8], new: &NewKey) -> Result<()>;

    /// Overwrites a slot's material, then marks it free.
    fn erase(&mut self, slot: usize) -> Result<()>;
}

/// The volume key, in the first slot that `passphrase` opens.
///
/// # Errors
/// It opens none; or what [`KeyStore`] says.
pub(crate) fn open(keys: &dyn KeyStore, passphrase: &[u8]) -> Result<Found> {
    let search = keys.search(keys.key_slots(false))?;
    search.run(passphrase)?.ok_or_else(|| wrong(&search))
}

/// Every slot that `passphrase` opens, in order of their numbers.
///
/// # Errors
/// A slot costs too much to be tried, so that it is not known; or what [`KeyStore`] says.
pub(crate) fn matching(keys: &dyn KeyStore, passphrase: &[u8]) -> Result<Vec<Found>> {
    let search = keys.search(keys.key_slots(true))?;
    check_all_tried(&search)?;
    search.run_all(passphrase)
}

/// Whether `passphrase` opens this slot.
///
/// # Errors
/// As for [`matching`].
pub(crate) fn holds(keys: &dyn KeyStore, slot: usize, passphrase: &[u8]) -> Result<bool> {
    let mut slots = keys.key_slots(true);
    slots.retain(|candidate| candidate.number == slot);
    let search = keys.search(slots)?;
    check_all_tried(&search)?;
    Ok(search.run(passphrase)?.is_some())
}
