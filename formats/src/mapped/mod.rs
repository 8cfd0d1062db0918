//! The driver that all cluster-mapped formats share.
//!
//! A format says where bytes are; it does not copy them. It implements [`MappedFormat`] — `lookup`, `reserve`, `commit`
//! and what changes tables only — and [`Mapped`] turns that into a [`Driver`](block::Driver): it reads from the file,
//! the backing chain or a decompressor, copies what surrounds a write into a new cluster, and encrypts.
//!
//! The invariant: no lock of the format is held while guest data moves. What keeps the data in place meanwhile is a
//! [`Pin`] (the host range is not reused) and, where an entry is going to change, a lease (nobody else touches the
//! guest cluster until it is committed or given back).

mod address;
mod driver;
mod lease;
mod pins;
mod read;
mod write;

pub use address::{ClusterIndex, GuestOffset, HostOffset};
pub use driver::Mapped;
pub(crate) use lease::Leases;
pub use pins::{Pin, Pins};

use block::amend::Amend;
use block::bitmap::Bitmaps;
use block::check::Check;
use block::graph::ReopenCtx;
use block::overlay::{Emptying, Overlay};
use block::snapshot::Snapshots;
use block::{Child, FormatInfo, Level, Limits, Quiesced, Resize, Result, ZeroFlags};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that are encrypted or decrypted at once: well below the size of a second-level cache.
const CRYPT_PIECE: usize = 128 << 10;

/// Where a run of guest bytes is.
#[derive(Debug)]
pub enum Place {
    /// Stored as they are (encrypted, where the image is) at this offset of the file for data.
    Stored(HostOffset),
    /// Reads as zeroes. With an offset, a cluster is allocated for them.
    Zero(Option<HostOffset>),
    /// Not in this image. With an offset, a cluster is allocated for them.
    Absent(Option<HostOffset>),
    /// The whole guest cluster is compressed in this many bytes (at most) of the image file.
    Compressed(HostOffset, u64),
}

/// The answer of [`MappedFormat::lookup`].
#[derive(Debug)]
pub struct Found {
    /// Length of the run in bytes; at least 1. A compressed run ends with its cluster.
    pub len: u64,
    /// Where it is.
    pub place: Place,
    /// Keeps it there.
    pub pin: Option<Pin>,
}

/// Who looks something up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A request: waits while somebody else has a lease on the cluster.
    Request,
    /// The holder of the lease, who reads what surrounds its write.
    LeaseHolder,
}

/// A stretch of a write for which there is room: write there, then commit.
#[derive(Debug)]
pub struct Reservation<L> {
    /// Bytes of the request it covers.
    pub len: u64,
    /// Where the first of them goes.
    pub host: HostOffset,
    /// Keeps the room.
    pub pin: Pin,
    /// What to do beyond writing in place; `None` where nothing has to change.
    pub lease: Option<Lease<L>>,
}

/// The right to change the entries of some guest clusters.
#[derive(Debug)]
pub struct Lease<L> {
    /// What the new entries will claim: at least the request, and what has to be copied around it.
    pub covers: Range<u64>,
    /// The room was never written: the file reads as zeroes there.
    pub blank: bool,
    /// The format's own part.
    pub token: L,
}

/// Encrypts guest data on its way to the file.
pub trait PayloadCipher: Send + Sync + fmt::Debug {
    /// Encrypts whole sectors in place.
    ///
    /// # Errors
    /// The cipher's.
    fn encrypt(&self, guest: GuestOffset, host: HostOffset, sectors: &mut [u8]) -> Result<()>;

    /// Decrypts whole sectors in place.
    ///
    /// # Errors
    /// The cipher's.
    fn decrypt(&self, guest: GuestOffset, host: HostOffset, sectors: &mut [u8]) -> Result<()>;
}

/// What the author of a cluster-mapped format writes: see the module documentation.
///
/// # Errors
/// Every method fails with the file's error or with what is wrong in the image.
pub trait MappedFormat: Send + Sync + fmt::Debug + 'static {
    /// What goes with a lease.
    type Token: Send + fmt::Debug;

    /// Virtual size in bytes.
    fn len(&self) -> u64;

    /// What the driver can do.
    fn limits(&self) -> Limits;

    /// Bytes in a cluster.
    fn cluster_size(&self) -> u64;

    /// The file that holds the image.
    fn file(&self) -> &Child;

    /// Where guest data is: the image's file, or an external data file.
    fn data(&self) -> &Child;

    /// The backing file.
    fn backing(&self) -> Option<&Child>;

    /// All nodes below.
    fn children(&self) -> Arc<[Child]>;

    /// How guest data is encrypted.
    fn cipher(&self) -> Option<&dyn PayloadCipher>;

    /// Where the run at `at` is; the answer covers at most `max` bytes.
    fn lookup(&self, at: GuestOffset, max: u64, who: Reader) -> Result<Found>;

    /// Finds room for a write of `len` bytes at `at`, or for the beginning of it. `after` is where the previous
    /// stretch of the same request ended.
    fn reserve(
        &self,
        at: GuestOffset,
        len: u64,
        after: Option<HostOffset>,
    ) -> Result<Reservation<Self::Token>>;

    /// Makes what was written under a lease visible.
    fn commit(&self, lease: Lease<Self::Token>) -> Result<()>;

    /// Gives a lease back; nothing was changed.
    fn abandon(&self, lease: Lease<Self::Token>);

    /// Compresses one guest cluster (zeroes behind its end at the end of the image); `None` when that saves nothing.
    fn compress(&self, cluster: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Whether clusters can be stored compressed at all, in this image.
    fn can_compress(&self) -> bool {
        true
    }

    /// Stores what [`MappedFormat::compress`] gave for the cluster at `at`.
    fn store_compressed(&self, at: GuestOffset, bytes: &[u8]) -> Result<()>;

    /// The inverse of [`MappedFormat::compress`]: fills `cluster` from `bytes`, which may be followed by others.
    fn decompress(&self, bytes: &[u8], cluster: &mut [u8]) -> Result<()>;

    /// Makes a range read as zeroes; whole units of the granularity it names in its limits, or the end of the image.
    fn zero(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()>;

    /// Gives whole clusters up.
    fn discard(&self, range: Range<u64>) -> Result<()>;

    /// Writes metadata back.
    fn flush(&self, level: Level) -> Result<()>;

    /// What has to be written with zeroes before the size is changed, so that the disk does not end in the middle of
    /// something that would show.
    fn stale_tail(&self, to: Resize) -> Result<Range<u64>> {
        let _ = to;
        Ok(0..0)
    }

    /// Changes the virtual size.
    fn truncate(&self, q: &Quiesced<'_>, to: Resize) -> Result<()>;

    /// Ends writing.
    fn close(&self) -> Result<()>;

    /// What `info` prints.
    fn info(&self) -> FormatInfo;

    /// The consistency check, for formats that have one.
    fn check(&self) -> Option<&dyn Check> {
        None
    }

    /// The key slots, of images that have any.
    fn keys(&self) -> Option<&dyn block::keys::Keys> {
        None
    }

    /// The format that takes this one's place, open as `ctx` says; see [`block::Driver::reopen`].
    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Self>
    where
        Self: Sized,
    {
        Err(ctx.unsupported())
    }

    /// What a format given by [`MappedFormat::reopen`] does first.
    fn start(&self) -> Result<()> {
        Ok(())
    }

    /// The way to another backing file, for formats that can change theirs.
    fn overlay(&self) -> Option<&dyn Overlay> {
        None
    }

    /// The way to give up all contents, for formats that can.
    fn emptying(&self) -> Option<&dyn Emptying> {
        None
    }

    /// Changes of the format's own options, for formats that can be changed in place.
    fn amend(&self) -> Option<&dyn Amend> {
        None
    }

    /// The snapshots inside the image, for formats that have them.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// The dirty bitmaps kept in the image, for formats that have them.
    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        None
    }

    /// Notes that a range of the guest's disk was written, or may have been.
    fn written(&self, range: &Range<u64>) {
        let _ = range;
    }

    /// Where the room for the state of a machine begins, in guest bytes; it is read and written as if the disk went on
    /// there. `None` in formats without.
    fn vmstate_offset(&self) -> Option<u64> {
        None
    }
}
