//! What the author of a protocol, filter or format writes: the [`Driver`] trait and the values it speaks in.
//!
//! A driver may take for granted what [`Node`] guarantees: requests are aligned to its [`Limits`], not longer than its
//! maximum transfer, inside the image where it does not grow, and never empty.

use crate::graph::ReopenCtx;
use crate::{Child, IoVec, IoVecMut, Node, Result};
use bitflags::bitflags;
use serde_json::Value;
use std::{fmt, ops::Range, sync::Arc};

bitflags! {
    /// How a write is to be done.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct WriteFlags: u8 {
        /// Force unit access: the data is on stable storage when the write returns.
        const FUA = 1;
        /// Store it compressed.
        const COMPRESSED = 2;
    }
}

bitflags! {
    /// How a write of zeroes is to be done.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct ZeroFlags: u8 {
        /// The range may be deallocated if it then reads as zeroes.
        const MAY_UNMAP = 1;
        /// Fail rather than write buffers of zeroes.
        const NO_FALLBACK = 2;
        /// Force unit access, as for a write.
        const FUA = 4;
    }
}

/// How far a flush goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Driver caches are written back to the layer below; another reader of the file sees them.
    Os,
    /// Also on stable storage.
    Disk,
}

/// What a driver can do, and how it wants to be asked.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests start and end at multiples of this many bytes (a power of two).
    pub request_align: u32,
    /// Buffers start at multiples of this many bytes in memory (a power of two).
    pub memory_align: u32,
    /// The longest request, in bytes; none when `None`.
    pub max_transfer: Option<u64>,
    /// Writes of zeroes are best aligned to this many bytes.
    pub zero_granularity: u32,
    /// Discards smaller than this many bytes have no effect.
    pub discard_granularity: u32,
    /// Discards need not consist of whole requests: any bytes can be given up.
    pub discards_parts: bool,
    /// The longest write of zeroes, in bytes; none when `None`.
    pub max_zero: Option<u64>,
    /// The longest discard, in bytes; none when `None`.
    pub max_discard: Option<u64>,
    /// Write flags the driver honours by itself; [`Node`] emulates the others.
    pub write_flags: WriteFlags,
    /// Whether an image just created with this driver reads as zeroes everywhere.
    pub zero_init: bool,
    /// The allocation unit of the format, in bytes.
    pub cluster_size: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_align: 1,
            memory_align: 1,
            max_transfer: None,
            zero_granularity: 1,
            discard_granularity: 1,
            discards_parts: false,
            max_zero: None,
            max_discard: None,
            write_flags: WriteFlags::empty(),
            zero_init: false,
            cluster_size: None,
        }
    }
}

/// What [`Driver::map`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Anything that makes a copy cheaper; coarse answers are fine.
    Zeroes,
    /// Everything, host offsets included.
    Exact,
}

/// What a range is, in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapKind {
    /// Bytes stored in this layer.
    Data,
    /// Reads as zeroes without stored bytes.
    Zero,
    /// Bytes stored in this layer that are all zero.
    ZeroData,
    /// Nothing is stored, and nobody says what it reads as.
    Hole,
    /// Not in this layer: the backing layer decides.
    Absent,
}

/// Where bytes are stored.
#[derive(Debug, Clone)]
pub struct Host {
    /// The node that stores them; `None` stands for the node that was asked.
    pub node: Option<Arc<Node>>,
    /// Offset in that node, in bytes.
    pub offset: u64,
}

/// The answer of [`Driver::map`]: the longest run from the offset asked that is all of one kind.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Length of the run in bytes; at least 1.
    pub len: u64,
    /// What it is.
    pub kind: MapKind,
    /// Where it is stored, if anywhere in particular.
    pub host: Option<Host>,
    /// The bytes at `host` are the guest's bytes: neither compressed nor encrypted.
    pub plain: bool,
    /// Stored compressed.
    pub compressed: bool,
    /// The run ends at the end of the image.
    pub eof: bool,
}

impl Mapping {
    /// A run of stored bytes without a host offset.
    pub fn data(len: u64) -> Self {
        Mapping { len, kind: MapKind::Data, host: None, plain: false, compressed: false, eof: false }
    }

    /// A run that reads as zeroes.
    pub fn zero(len: u64) -> Self {
        Mapping { kind: MapKind::Zero, ..Self::data(len) }
    }

    /// The same run, stored as it is at `offset` of `node` (`None`: of the node that was asked).
    #[must_use]
    pub fn at(self, node: Option<Arc<Node>>, offset: u64) -> Self {
        Mapping { host: Some(Host { node, offset }), plain: true, ..self }
    }
}

/// How new space is to be allocated when an image is created or grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prealloc {
    /// Not at all.
    #[default]
    Off,
    /// The tables, but not the data.
    Metadata,
    /// Space reserved without writing it.
    Falloc,
    /// Space written with zeroes.
    Full,
}

impl Prealloc {
    /// The name of the mode, as `preallocation=` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Prealloc::Off => "off",
            Prealloc::Metadata => "metadata",
            Prealloc::Falloc => "falloc",
            Prealloc::Full => "full",
        }
    }
}

/// A change of size.
#[derive(Debug, Clone, Copy)]
pub struct Resize {
    /// The new size in bytes.
    pub size: u64,
    /// How to allocate what is added.
    pub prealloc: Prealloc,
    /// Fail where the length cannot become just that; otherwise a device may stay longer.
    pub exact: bool,
}

impl Resize {
    /// To exactly `size` bytes, without allocation.
    pub fn to(size: u64) -> Self {
        Resize { size, prealloc: Prealloc::Off, exact: true }
    }
}

/// Proof that no request is in flight on a node and none can start: see [`Node::drain`].
#[derive(Debug)]
pub struct Quiesced<'a> {
    pub(crate) _gate: crate::inflight::Drained<'a>,
}

/// Debug events, as `blkdebug` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event(pub &'static str);

/// What a format tells about itself for `info`.
#[derive(Debug, Clone, Default)]
pub struct FormatInfo {
    /// Whether the contents are encrypted.
    pub encrypted: bool,
    /// Whether the image is marked as not cleanly closed.
    pub dirty: bool,
    /// The backing file's name as stored.
    pub backing_file: Option<String>,
    /// The backing file's format as stored.
    pub backing_format: Option<String>,
    /// Members of `format-specific` (`type` and `data`), for formats that have any.
    pub specific: Option<(&'static str, Value)>,
}

/// Room beside the guest's bytes, in which snapshots keep the state of a machine.
///
/// # Errors
/// As for the [`Driver`] methods of the same names.
pub trait VmState {
    /// Where it begins, counted from the start of the guest's bytes.
    fn offset(&self) -> u64;

    /// Reads all of `to`, from `at` bytes into it.
    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()>;

    /// Writes all of `from`, growing the room as needed.
    fn write(&self, at: u64, from: &IoVec<'_>) -> Result<()>;
}

/// Where a driver's messages about stopped requests go, each a line.
pub type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// Points at which requests stop until they are resumed, so that tests can hold one while others run.
///
/// # Errors
/// `ENOENT` where there is no such event, breakpoint or stopped request.
pub trait Breakpoints {
    /// Stops the next request that meets `event`, and calls it `tag`.
    fn set(&self, event: &str, tag: &str, tell: Tell) -> Result<()>;

    /// Takes breakpoints called `tag` back and resumes the requests they stopped.
    fn remove(&self, tag: &str) -> Result<()>;

    /// Lets one stopped request go on.
    fn resume(&self, tag: &str) -> Result<()>;

    /// Waits until a request called `tag` has stopped.
    fn wait(&self, tag: &str);
}

/// A protocol, filter or format. Synchronous, positioned, usable from any thread.
///
/// # Errors
/// Every method fails with the error of the layer below or with what is wrong in the image; it does not name the
/// file, which whoever opened the graph adds.
pub trait Driver: Send + Sync + fmt::Debug {
    /// Length of the contents in bytes.
    fn len(&self) -> Result<u64>;

    /// What this driver can do.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// The nodes below, with their role names.
    fn children(&self) -> Arc<[Child]> {
        Arc::default()
    }

    /// The node whose contents are this one's, in filters.
    fn filtered(&self) -> Option<&Child> {
        None
    }

    /// Whether [`Driver::map`] takes any range, because it only asks the node below.
    fn maps_below(&self) -> bool {
        self.filtered().is_some()
    }

    /// What the run at `at` is, in this layer only; the answer covers at most `max` bytes.
    fn map(&self, at: u64, max: u64, want: Want) -> Result<Mapping>;

    /// Reads all of `to`; past the end of the contents, where at most the rest of the last request unit (or sector) is
    /// asked for, are zeroes.
    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()>;

    /// Writes all of `from`.
    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()>;

    /// Writes all of `from` and calls `placed` when whatever has to be allocated for it has its place, where that is before
    /// the end: what is written then comes behind it in the image, even if it arrives earlier.
    fn write_placed(&self, at: u64, from: &IoVec<'_>, placed: &dyn Fn()) -> Result<()> {
        let _ = placed;
        self.write(at, from, WriteFlags::empty())
    }

    /// Makes a range read as zeroes without sending zeroes; `Unsupported` asks the caller to send them.
    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let _ = (range, flags);
        Err(crate::Error::from_errno(nix::libc::ENOTSUP))
    }

    /// Gives a range up; what it reads as afterwards is unspecified. `Unsupported` is no failure.
    fn discard(&self, range: Range<u64>) -> Result<()> {
        let _ = range;
        Err(crate::Error::from_errno(nix::libc::ENOTSUP))
    }

    /// Covers every write completed before it began.
    fn flush(&self, level: Level) -> Result<()>;

    /// The file of the host that holds the contents, byte for byte from its beginning.
    fn host_file(&self) -> Option<&std::fs::File> {
        None
    }

    /// Copies `len` bytes from `from`, at its offset `from_at`, without taking them through memory.
    ///
    /// # Errors
    /// `ENOTSUP` where that is not possible, or whatever went wrong: nothing is known then about the bytes from `at` on.
    fn copy_in(&self, at: u64, from: &Node, from_at: u64, len: u64) -> Result<()> {
        let _ = (at, from, from_at, len);
        Err(crate::Error::from_errno(nix::libc::ENOTSUP))
    }

    /// Changes the length of the contents.
    fn truncate(&self, q: &Quiesced<'_>, to: Resize) -> Result<()> {
        let _ = (q, to);
        Err(crate::Error::unsupported("Image format driver does not support resize"))
    }

    /// Writes back what must be on disk in an image that is closed properly.
    fn close(&self) -> Result<()> {
        Ok(())
    }

    /// A driver that takes this one's place, open as `ctx` says; it may share what stays as it is. Nothing is in flight,
    /// and what was written has been flushed. If something else fails, this driver stays in place.
    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        Err(ctx.unsupported())
    }

    /// What is to be done first by a driver that [`Driver::reopen`] gave, when all nodes have been reopened.
    fn start(&self) -> Result<()> {
        Ok(())
    }

    /// A point that fault injection may be waiting for. It is meant for the node it is announced to: nobody passes it on.
    fn event(&self, event: Event) {
        let _ = event;
    }

    /// Space used on disk in bytes, where that can be known.
    fn allocated(&self) -> Option<u64> {
        None
    }

    /// Takes and checks the permissions the parent wants. Only protocols that other processes can reach have anything
    /// to do; a format asked for its children's permissions when it opened them.
    fn permit(&self, perms: crate::Perms) -> Result<()> {
        let _ = perms;
        Ok(())
    }

    /// The way to a consistency check, for formats that have one.
    fn check(&self) -> Option<&dyn crate::check::Check> {
        None
    }

    /// The way to changes of the format's own options, for formats that can be changed in place.
    fn amend(&self) -> Option<&dyn crate::amend::Amend> {
        None
    }

    /// The key slots, of encrypted formats that have any.
    fn keys(&self) -> Option<&dyn crate::keys::Keys> {
        None
    }

    /// The way to store compressed clusters, for formats that have them.
    fn compressor(&self) -> Option<&dyn crate::compressed::Compressor> {
        None
    }

    /// The way to another backing file, for formats that can change theirs.
    fn overlay(&self) -> Option<&dyn crate::overlay::Overlay> {
        None
    }

    /// The way to give up all contents, for formats that can.
    fn emptying(&self) -> Option<&dyn crate::overlay::Emptying> {
        None
    }

    /// The points at which it stops requests, in drivers made for that.
    fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        None
    }

    /// The room for the state of a machine, in formats that have it.
    fn vmstate(&self) -> Option<&dyn VmState> {
        None
    }

    /// The snapshots inside the image, in formats that have them.
    fn snapshots(&self) -> Option<&dyn crate::snapshot::Snapshots> {
        None
    }

    /// The dirty bitmaps kept in the image, in formats that have them.
    fn bitmaps(&self) -> Option<&dyn crate::bitmap::Bitmaps> {
        None
    }

    /// What `info` prints.
    fn info(&self) -> FormatInfo {
        FormatInfo::default()
    }
}
