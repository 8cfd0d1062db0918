//! [`Mapped`]: a cluster-mapped format as a driver.

use super::{GuestOffset, MappedFormat, Place, Reader};
use block::amend::Amend;
use block::bitmap::Bitmaps;
use block::buffer::Pool;
use block::check::Check;
use block::compressed::Compressor;
use block::graph::ReopenCtx;
use block::overlay::{Emptying, Overlay};
use block::snapshot::Snapshots;
use block::{
    Child, Driver, Error, Event, FormatInfo, Host, IoVec, IoVecMut, Level, Limits, MapKind, Mapping, Node,
    Prealloc, Quiesced, Resize, Result, VmState, Want, WriteFlags, ZeroFlags,
};
use std::ops::Range;
use std::sync::Arc;

/// A cluster-mapped format as a driver.
#[derive(Debug)]
pub struct Mapped<F> {
    pub(super) format: F,
    /// Buffers in which guest data is encrypted.
    pub(super) pool: Pool,
}

impl<F: MappedFormat> Mapped<F> {
    /// A driver over `format`.
    pub fn new(format: F) -> Self {
        Mapped { format, pool: Pool::new() }
    }

    /// The format itself.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// Tells the file what is about to be done.
    pub(super) fn announce(&self, event: &'static str) {
        self.format.file().node().event(Event(event));
    }

    /// Widens a range that is not whole units to whole units, where the rest of them reads as zeroes already.
    fn widen(&self, range: Range<u64>) -> Result<Range<u64>> {
        let unit = u64::from(self.format.limits().zero_granularity);
        let end = self.format.len();
        let wide = range.start - range.start % unit..range.end.next_multiple_of(unit).min(end);
        // What cannot be found out is not zero; whoever writes it instead meets the error.
        let zero = |part| self.reads_zero(part).unwrap_or(false);
        let zero = zero(wide.start..range.start) && zero(range.end..wide.end);
        if zero { Ok(wide) } else { Err(Error::from_errno(nix::libc::ENOTSUP)) }
    }
}

impl<F: MappedFormat> Driver for Mapped<F> {
    fn len(&self) -> Result<u64> {
        Ok(self.format.len())
    }

    fn limits(&self) -> Limits {
        self.format.limits()
    }

    fn children(&self) -> Arc<[Child]> {
        self.format.children()
    }

    fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
        let found = self.format.lookup(GuestOffset(at), max, Reader::Request)?;
        let kind = match found.place {
            Place::Stored(_) | Place::Compressed(..) => MapKind::Data,
            Place::Zero(_) => MapKind::Zero,
            Place::Absent(_) => MapKind::Absent,
        };
        let mapping = Mapping {
            kind,
            compressed: matches!(found.place, Place::Compressed(..)),
            ..Mapping::data(found.len)
        };
        let encrypted = self.format.cipher().is_some();
        let host = match found.place {
            Place::Stored(host) | Place::Zero(Some(host)) | Place::Absent(Some(host)) if !encrypted => host,
            _ => return Ok(mapping),
        };
        let node = Some(Arc::clone(self.format.data().node()));
        Ok(Mapping { host: Some(Host { node, offset: host.0 }), plain: kind == MapKind::Data, ..mapping })
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.read_at(GuestOffset(at), to, Reader::Request)
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        let done = match flags.contains(WriteFlags::COMPRESSED) {
            true => self.write_compressed(GuestOffset(at), from),
            false => self.write_at(GuestOffset(at), from),
        };
        self.format.written(&(at..at + from.len() as u64));
        done
    }

    fn write_placed(&self, at: u64, from: &IoVec<'_>, placed: &dyn Fn()) -> Result<()> {
        let done = self.write_placing(GuestOffset(at), from, placed);
        self.format.written(&(at..at + from.len() as u64));
        done
    }

    fn copy_in(&self, at: u64, from: &Node, from_at: u64, len: u64) -> Result<()> {
        let done = self.copy_at(GuestOffset(at), from, from_at, len);
        self.format.written(&(at..at + len));
        done
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let range = self.widen(range)?;
        self.format.written(&range);
        self.format.zero(range, flags)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.format.written(&range);
        self.format.discard(range)
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.format.flush(level)
    }

    fn truncate(&self, q: &Quiesced<'_>, to: Resize) -> Result<()> {
        let tail = self.format.stale_tail(to)?;
        let zeroes = vec![0; usize::try_from(tail.end - tail.start).unwrap_or(usize::MAX)];
        let clear = || match tail.is_empty() {
            true => Ok(()),
            false => self.write_at(GuestOffset(tail.start), &IoVec::from(&*zeroes)),
        };
        // Room for data is found before room for that, as in QEMU.
        match to.prealloc {
            Prealloc::Falloc | Prealloc::Full => self.format.truncate(q, to).and_then(|()| clear()),
            _ => clear().and_then(|()| self.format.truncate(q, to)),
        }
    }

    fn close(&self) -> Result<()> {
        self.format.close()
    }

    fn info(&self) -> FormatInfo {
        self.format.info()
    }

    fn check(&self) -> Option<&dyn Check> {
        self.format.check()
    }

    fn keys(&self) -> Option<&dyn block::keys::Keys> {
        self.format.keys()
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        Ok(Box::new(Mapped::new(self.format.reopen(ctx)?)))
    }

    fn start(&self) -> Result<()> {
        self.format.start()
    }

    fn compressor(&self) -> Option<&dyn Compressor> {
        self.format.can_compress().then_some(self)
    }

    fn overlay(&self) -> Option<&dyn Overlay> {
        self.format.overlay()
    }

    fn emptying(&self) -> Option<&dyn Emptying> {
        self.format.emptying()
    }

    fn amend(&self) -> Option<&dyn Amend> {
        self.format.amend()
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.format.snapshots()
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        self.format.bitmaps()
    }

    fn vmstate(&self) -> Option<&dyn VmState> {
        self.format.vmstate_offset().map(|_| self as &dyn VmState)
    }
}

impl<F: MappedFormat> VmState for Mapped<F> {
    fn offset(&self) -> u64 {
        self.format.vmstate_offset().unwrap_or(0)
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.read_at(GuestOffset(VmState::offset(self) + at), to, Reader::Request)
    }

    fn write(&self, at: u64, from: &IoVec<'_>) -> Result<()> {
        self.write_at(GuestOffset(VmState::offset(self) + at), from)
    }
}

impl<F: MappedFormat> Compressor for Mapped<F> {
    fn cluster_size(&self) -> u64 {
        self.format.cluster_size()
    }

    fn compress(&self, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
        self.format.compress(cluster)
    }

    fn store(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.announce("write_compressed");
        self.format.store_compressed(GuestOffset(at), bytes)
    }
}
