//! [`Qcow2`]: an open image. Takes the lock, waits for leases, loads tables ahead, and leaves the rest to [`Meta`].

use super::bitmap::Kept;
use super::compress;
use super::crypt::Luks;
use super::entry::{Cluster, L2Entry};
use super::features::Incompatible;
use super::geometry::Geometry;
use super::header::Compression;
use super::meta::{FreedBy, Meta};
use super::order::Tables;
use super::reserve::Token;
use super::zero::DiscardTo;
use crate::mapped::{
    Found, GuestOffset, HostOffset, Lease, MappedFormat, PayloadCipher, Reader, Reservation,
};
use block::amend::Amend;
use block::bitmap::Bitmaps;
use block::check::Check;
use block::graph::ReopenCtx;
use block::overlay::{Emptying, Overlay};
use block::snapshot::Snapshots;
use block::{
    Child, Error, Event, FormatInfo, Level, Limits, Quiesced, Resize, Result, WriteFlags, ZeroFlags,
};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

/// An open qcow2 image.
#[derive(Debug)]
pub struct Qcow2 {
    pub(super) meta: Mutex<Meta>,
    /// A lease ended or a table was loaded.
    pub(super) changed: Condvar,
    pub(super) geometry: Geometry,
    /// Virtual size in bytes.
    pub(super) len: AtomicU64,
    pub(super) file: Child,
    pub(super) data_file: Option<Child>,
    pub(super) backing: Option<Child>,
    pub(super) children: Arc<[Child]>,
    pub(super) compression: Compression,
    /// Whether the image, if it has just been created, reads as zeroes.
    pub(super) zero_init: bool,
    pub(super) cipher: Option<Arc<dyn PayloadCipher>>,
    /// The bitmaps, taken inside the lock of the metadata where both are.
    pub(super) bitmaps: RwLock<Vec<Kept>>,
    /// Some bitmap may want to know of writes.
    pub(super) recording: AtomicBool,
    /// The bitmaps in the file are not what they ought to be when the image is closed.
    pub(super) unsaved: AtomicBool,
    /// The LUKS header, where there is one.
    pub(super) luks: Option<Arc<Luks>>,
}

impl Qcow2 {
    /// Takes the one lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, meta: MutexGuard<'a, Meta>) -> MutexGuard<'a, Meta> {
        self.changed.wait(meta).unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn data_child(&self) -> &Child {
        self.data_file.as_ref().unwrap_or(&self.file)
    }

    pub(super) fn has_backing(&self) -> bool {
        self.backing.is_some()
    }

    /// Whether the data file must be a raw image by itself.
    pub(super) fn raw_data_file(&self) -> bool {
        self.data_file.is_some() && self.lock().header.raw_data_file()
    }

    /// Takes the lock when the first cluster at `at` is not leased and its L2 slice is loaded; gives how many of the
    /// `len` bytes come before the next lease.
    pub(super) fn ready(
        &self,
        at: GuestOffset,
        len: u64,
        who: Reader,
    ) -> Result<(MutexGuard<'_, Meta>, u64)> {
        let mut meta = self.lock();
        loop {
            let clear = match who {
                Reader::Request => meta.leases.clear_bytes(at.0, len),
                Reader::LeaseHolder => len,
            };
            if clear == 0 {
                meta = self.wait(meta);
                continue;
            }
            match meta.l2_place(at)? {
                Some(place) if !meta.caches.tables(Tables::L2).contains(place.slice) => {
                    meta = self.load_ahead(meta, place.slice)?;
                }
                _ => return Ok((meta, clear)),
            }
        }
    }

    /// Loads an L2 slice with the lock released, or waits for whoever is loading it.
    fn load_ahead<'a>(
        &'a self,
        mut meta: MutexGuard<'a, Meta>,
        slice: HostOffset,
    ) -> Result<MutexGuard<'a, Meta>> {
        let Some(ticket) = meta.caches.tables(Tables::L2).begin_load(slice) else {
            return Ok(self.wait(meta));
        };
        let mut bytes = vec![0; meta.caches.tables(Tables::L2).table_len()].into_boxed_slice();
        drop(meta);
        self.file.node().event(Event("l2_load"));
        let read = self.file.read_exact(slice.0, &mut bytes);
        let mut meta = self.lock();
        let valid = meta.caches.tables(Tables::L2).end_load(slice, ticket);
        self.changed.notify_all();
        read?;
        if valid {
            meta.caches.insert(Tables::L2, slice, bytes)?;
        }
        Ok(meta)
    }

    fn write_compressed(&self, at: GuestOffset, bytes: &[u8]) -> Result<()> {
        let g = self.geometry;
        let len = bytes.len() as u64;
        let (mut meta, _) = self.ready(at, 1, Reader::Request)?;
        meta.check_writable()?;
        // Compression does not overwrite: callers that write anew what is there compressed are mistaken.
        if meta.l2_entry(at)?.cluster(g) != Cluster::None {
            return Err(Error::from_errno(nix::libc::EIO));
        }
        meta.writable_l2(at)?;
        meta.begin_lazy()?;
        let host = meta.allocate_bytes(len)?;
        if host.0 == 0 {
            return Err(meta.corrupt("Preventing invalid allocation of compressed cluster at offset 0"));
        }
        let id = meta.leases.take(g.round_down(at.0)..g.round_up(at.0 + 1));
        drop(meta);
        let written = self.file.write(host.0, &bytes.into(), WriteFlags::empty());
        let mut meta = self.lock();
        meta.leases.give_back(id);
        self.changed.notify_all();
        if let Err(e) = written {
            meta.free_later(host, len, FreedBy::Overwrite)?;
            return Err(e);
        }
        meta.caches.data_written();
        meta.set_l2_entry(at, L2Entry::compressed(host, len, g))
    }

    /// Writes everything back that is not in the file yet.
    pub(super) fn write_back(&self, meta: &mut Meta) -> Result<()> {
        meta.caches.write_all_back()?;
        let end = meta.file_end;
        // Data was written up to there in effect; past the end of the file, zeroes need not be sent.
        if meta.writable && self.file.len()? < end {
            self.file.truncate(Resize::to(end))?;
        }
        meta.file_end = 0;
        Ok(())
    }
}

impl MappedFormat for Qcow2 {
    type Token = Token;

    fn len(&self) -> u64 {
        self.size()
    }

    fn limits(&self) -> Limits {
        let cluster = u32::try_from(self.geometry.cluster_size()).unwrap_or(u32::MAX);
        let unit = u32::try_from(self.geometry.subcluster_size()).unwrap_or(u32::MAX);
        let can_compress = self.data_file.is_none();
        Limits {
            request_align: if self.cipher.is_some() { 512 } else { 1 },
            zero_granularity: unit,
            discard_granularity: cluster,
            zero_init: self.zero_init,
            cluster_size: Some(cluster),
            write_flags: if can_compress { WriteFlags::COMPRESSED } else { WriteFlags::empty() },
            ..Limits::default()
        }
    }

    fn cluster_size(&self) -> u64 {
        self.geometry.cluster_size()
    }

    fn file(&self) -> &Child {
        &self.file
    }

    fn data(&self) -> &Child {
        self.data_child()
    }

    fn backing(&self) -> Option<&Child> {
        self.backing.as_ref()
    }

    fn children(&self) -> Arc<[Child]> {
        Arc::clone(&self.children)
    }

    fn cipher(&self) -> Option<&dyn PayloadCipher> {
        self.cipher.as_deref()
    }

    fn lookup(&self, at: GuestOffset, max: u64, who: Reader) -> Result<Found> {
        let (mut meta, clear) = self.ready(at, max, who)?;
        meta.find_run(at, clear)
    }

    fn reserve(&self, at: GuestOffset, len: u64, after: Option<HostOffset>) -> Result<Reservation<Token>> {
        let (mut meta, clear) = self.ready(at, len, Reader::Request)?;
        meta.reserve(at, clear, after)
    }

    fn commit(&self, lease: Lease<Token>) -> Result<()> {
        let mut meta = self.lock();
        let done = meta.commit(&lease);
        if done.is_err() {
            meta.abandon(&lease);
        }
        self.changed.notify_all();
        done
    }

    fn abandon(&self, lease: Lease<Token>) {
        self.lock().abandon(&lease);
        self.changed.notify_all();
    }

    fn can_compress(&self) -> bool {
        self.data_file.is_none()
    }

    fn compress(&self, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.data_file.is_some() {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        compress::compress(self.compression, cluster)
    }

    fn store_compressed(&self, at: GuestOffset, bytes: &[u8]) -> Result<()> {
        self.write_compressed(at, bytes)
    }

    fn decompress(&self, bytes: &[u8], cluster: &mut [u8]) -> Result<()> {
        compress::decompress(self.compression, bytes, cluster)
    }

    fn zero(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.zero_range(range, flags)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.discard_range(range, DiscardTo::Zero, FreedBy::Request)
    }

    fn flush(&self, level: Level) -> Result<()> {
        let mut meta = self.lock();
        if level == Level::Disk && !meta.header.has(Incompatible::DIRTY) {
            meta.release_pending()?;
        }
        self.write_back(&mut meta)?;
        drop(meta);
        if let Some(data) = &self.data_file {
            data.flush(level)?;
        }
        self.file.flush(level)
    }

    fn stale_tail(&self, to: Resize) -> Result<Range<u64>> {
        self.tail_to_zero(to)
    }

    fn truncate(&self, q: &Quiesced<'_>, to: Resize) -> Result<()> {
        self.resize(q, to)
    }

    fn close(&self) -> Result<()> {
        let mut meta = self.lock();
        if !meta.writable {
            return Ok(());
        }
        meta.flush_for_good()?;
        self.write_back(&mut meta)?;
        meta.end_lazy()
    }

    fn info(&self) -> FormatInfo {
        self.format_info()
    }

    fn check(&self) -> Option<&dyn Check> {
        Some(self)
    }

    fn keys(&self) -> Option<&dyn block::keys::Keys> {
        self.luks.as_ref().and_then(|luks| luks.keys())
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Self> {
        self.reopened(ctx)
    }

    fn start(&self) -> Result<()> {
        self.begin_use(false)
    }

    fn overlay(&self) -> Option<&dyn Overlay> {
        Some(self)
    }

    fn emptying(&self) -> Option<&dyn Emptying> {
        Some(self)
    }

    fn amend(&self) -> Option<&dyn Amend> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        Some(self)
    }

    fn written(&self, range: &Range<u64>) {
        self.record(range);
    }

    fn vmstate_offset(&self) -> Option<u64> {
        Some(self.geometry.l1_entries(self.size()) * self.geometry.l2_coverage())
    }
}
