//! From what the user typed to a graph of nodes.
//!
//! [`Source`] is a file name (plain, `json:{…}`, or with a protocol prefix) or an option string. [`open()`] resolves it to
//! one tree of options, opens the protocol first, probes the format where none was named, and then opens the format,
//! which asks through its [`OpenCtx`] for the children it needs.

mod context;
mod create;
mod name;
mod open;
mod reopen;
mod table;

pub use context::OpenCtx;
pub use create::{
    CreateCtx, CreateKind, CreateOption, CreateOptions, CreateRow, Measure, MeasureFn, create, file_path,
    options_for, prealloc,
};
pub use name::{has_protocol, hash_order, json_name, json_string, resolve};
pub use open::{Source, open, open_node, open_tree, open_unnamed};
pub(crate) use reopen::Opened;
pub use reopen::{Reopen, ReopenCtx, reopen};
pub use table::{DriverKind, DriverRow, DriverTable, Probe};

use crate::{DetectZeroes, Error, NodeFlags, Result, WriteCache};
use bitflags::bitflags;
use serde::de::DeserializeOwned;

/// What everything that opens or creates images needs: the drivers there are and the objects the user made.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    /// The drivers of this program.
    pub drivers: DriverTable,
    /// The objects made by `--object`.
    pub objects: &'a secret::Registry,
}

bitflags! {
    /// What may be done with a node. The bit numbers are those of QEMU's image locking bytes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Perm: u8 {
        /// Reads that are consistent.
        const READ = 1 << 0;
        /// Writes.
        const WRITE = 1 << 1;
        /// Writes that do not change what is read.
        const WRITE_UNCHANGED = 1 << 2;
        /// Changes of the length.
        const RESIZE = 1 << 3;
        /// Whatever changes what is read.
        const CHANGES = Self::WRITE.bits() | Self::RESIZE.bits();
    }
}

impl Perm {
    /// How messages call them.
    fn names(self) -> String {
        let all = [
            (Perm::READ, "consistent read"),
            (Perm::WRITE, "write"),
            (Perm::WRITE_UNCHANGED, "write unchanged"),
            (Perm::RESIZE, "resize"),
        ];
        all.into_iter()
            .filter(|(perm, _)| self.contains(*perm))
            .map(|(_, name)| name)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// What the parent of a node wants to do with it, and what it lets others do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Perms {
    /// What the parent does itself.
    pub own: Perm,
    /// What others may do.
    pub shared: Perm,
}

/// The cache mode, as its three independent switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheMode {
    /// Bypass the host's page cache (O_DIRECT).
    pub direct: bool,
    /// Ignore flushes.
    pub no_flush: bool,
    /// When writes count as done.
    pub write: WriteCache,
}

impl CacheMode {
    /// The mode of the given name, as `-t` takes it.
    pub fn parse(name: &str) -> Option<Self> {
        let (direct, no_flush, write) = match name {
            "none" | "off" => (true, false, WriteCache::Back),
            "writeback" => (false, false, WriteCache::Back),
            "writethrough" => (false, false, WriteCache::Through),
            "directsync" => (true, false, WriteCache::Through),
            "unsafe" => (false, true, WriteCache::Back),
            _ => return None,
        };
        Some(CacheMode { direct, no_flush, write })
    }
}

/// How a graph is opened. Children inherit it.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenFlags {
    /// With the right to write.
    pub writable: bool,
    /// With the right to change the length.
    pub resize: bool,
    /// The cache mode.
    pub cache: CacheMode,
    /// Pass discards on.
    pub discard: bool,
    /// What to do with zeroes that are written.
    pub detect_zeroes: DetectZeroes,
    /// Keep in the image what is read from its backing file.
    pub copy_on_read: bool,
    /// Requests are to reach the kernel by its own queue, which takes direct ones only.
    pub native_aio: bool,
    /// Others may do anything to the file meanwhile.
    pub force_share: bool,
    /// What others may not do with the image meanwhile.
    pub withheld: Perm,
    /// Only metadata is wanted: a format that needs a key opens without.
    pub no_io: bool,
    /// Backing files are not opened.
    pub no_backing: bool,
    /// Read from its beginning to its end, once: there is no use in keeping much of its tables.
    pub one_pass: bool,
    /// Open what is marked broken, in order to repair it.
    pub repair: bool,
    /// The longest that unlocking may take, all key slots together, in seconds (0: the default of 60).
    pub max_kdf_seconds: u32,
    /// The most memory that unlocking may take, in KiB (0: what the machine has, at most 4 GiB).
    pub max_kdf_memory: u64,
}

impl OpenFlags {
    /// The part that a node keeps.
    fn for_node(&self) -> NodeFlags {
        NodeFlags {
            read_only: !self.writable,
            guessed: false,
            force_share: self.force_share,
            discard: self.discard,
            detect_zeroes: self.detect_zeroes,
            copy_on_read: self.copy_on_read,
            no_flush: self.cache.no_flush,
        }
    }

    /// What the user of the opened image needs, letting others do anything that does not conflict.
    fn perms(&self) -> Perms {
        let mut own = if self.no_io { Perm::empty() } else { Perm::READ };
        own.set(Perm::WRITE, self.writable);
        own.set(Perm::RESIZE, self.writable && self.resize);
        Perms { own, shared: Perm::all() - self.withheld }
    }
}

/// The value of an enum that `text` names, with the words of the options that are older than typed ones.
///
/// # Errors
/// No such name.
pub(crate) fn name_in<T: DeserializeOwned>(text: &str) -> Result<T> {
    let value = serde_json::Value::from(text);
    serde_json::from_value(value).map_err(|_| Error::invalid(format!("invalid parameter value: {text}")))
}
