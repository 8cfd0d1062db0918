//! Key slots as a capability of encrypted formats: what `img key` asks for, and what is answered.
//!
//! Slots are numbered; each hides the key of the contents under a passphrase. Which rules keep a user from locking
//! himself out lives with the formats, so that every way to change keys has the same ones.

use crate::{Quiesced, Result};
use secret::Secret;
use serde_json::Value;

/// What a new key slot is to cost; what is not given is chosen for this machine.
#[derive(Debug, Clone, Default)]
pub struct KeyCost {
    /// Milliseconds that a derivation is to take.
    pub iter_time: Option<u64>,
    /// The kind of derivation, by its name in the format.
    pub pbkdf: Option<String>,
    /// Iterations, instead of a time.
    pub iterations: Option<u32>,
    /// KiB of memory.
    pub memory: Option<u32>,
    /// Lanes.
    pub parallel: Option<u32>,
}

/// A change of key slots.
#[derive(Debug)]
pub enum KeyChange<'a> {
    /// A passphrase more.
    Add {
        /// One that opens the image.
        opens: &'a Secret,
        /// The new one.
        new: &'a Secret,
        /// The slot it is to go to.
        slot: Option<u64>,
        /// What it is to cost.
        cost: &'a KeyCost,
    },
    /// Another passphrase for the slot that one opens; where it opens more, those are freed.
    Change {
        /// The one that is to be good for nothing.
        old: &'a Secret,
        /// The new one.
        new: &'a Secret,
        /// What it is to cost.
        cost: &'a KeyCost,
    },
    /// A slot less.
    RemoveSlot(u64),
    /// Every slot less that this passphrase opens.
    RemoveSecret(&'a Secret),
    /// No slots any more.
    Erase,
}

/// What a key slot may cost before `lint` complains.
#[derive(Debug, Clone, Copy)]
pub struct LintBounds {
    /// Iterations of PBKDF2, at least.
    pub min_iterations: u64,
    /// KiB of memory for Argon2, at least.
    pub min_memory: u64,
    /// Passes of Argon2, at least.
    pub min_time_cost: u64,
    /// Seconds that a derivation may take here, at most.
    pub max_seconds: u64,
    /// KiB of memory that a derivation may take, at most.
    pub max_memory: u64,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The image cannot be used, or not safely.
    Error,
    /// It can be used, and could be better.
    Warning,
}

/// Something that `lint` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, for programs.
    pub code: &'static str,
    /// The slot it is about.
    pub slot: Option<usize>,
    /// What it is, for people.
    pub text: String,
}

/// An encrypted format whose keys can be changed; see [`Driver::keys`](crate::Driver::keys).
///
/// # Errors
/// What the rules refuse, or what the layer below says.
pub trait Keys {
    /// What the container is, in one word: `luks1`, `luks2`.
    fn kind(&self) -> &'static str;

    /// The slots, as `key list` prints them.
    fn list(&self) -> Value;

    /// The slot that `secret` opens; with `slot`, only that one is tried.
    fn test(&self, secret: &Secret, slot: Option<u64>) -> Result<usize>;

    /// Changes slots. With `force` also where that loses the contents, or may lose them in a power cut. Gives the
    /// slots that were changed.
    fn change(&self, q: &Quiesced<'_>, change: &KeyChange<'_>, force: bool) -> Result<Vec<usize>>;

    /// The header with all key slots, byte for byte.
    fn backup(&self) -> Result<Vec<u8>>;

    /// Puts a backup in the place of the header.
    fn restore(&self, q: &Quiesced<'_>, backup: &[u8], force: bool) -> Result<()>;

    /// What is wrong with header and key slots, or could be better.
    fn lint(&self, bounds: &LintBounds) -> Result<Vec<Finding>>;
}
