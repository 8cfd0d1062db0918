//! [`Qcow`]: an open image. Takes the lock, waits for leases, and leaves the rest to [`Tables`].

use super::entry::Entry;
use super::header::{Geometry, Header};
use super::tables::Tables;
use crate::deflate;
use crate::mapped::{
    Found, GuestOffset, HostOffset, Lease, MappedFormat, PayloadCipher, Place, Reader, Reservation,
};
use block::graph::ReopenCtx;
use block::overlay::Emptying;
use block::{
    Child, Error, FormatInfo, Level, Limits, Quiesced, Resize, Result, SECTOR, WriteFlags, ZeroFlags,
};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What an image is opened with.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) header: Header,
    pub(super) file: Child,
    pub(super) backing: Option<Child>,
    /// The backing file's name as stored.
    pub(super) backing_file: Option<String>,
    pub(super) cipher: Option<Arc<dyn PayloadCipher>>,
    pub(super) writable: bool,
}

/// An open qcow image.
#[derive(Debug)]
pub(super) struct Qcow {
    tables: Mutex<Tables>,
    /// A lease ended.
    changed: Condvar,
    geometry: Geometry,
    size: u64,
    pub(super) encrypted: bool,
    file: Child,
    backing: Option<Child>,
    pub(super) backing_file: Option<String>,
    children: Arc<[Child]>,
    pub(super) cipher: Option<Arc<dyn PayloadCipher>>,
}

/// What goes with a lease: its number, the guest clusters, and where the first of them is going to be.
#[derive(Debug)]
pub(super) struct Token {
    id: u64,
    guest: Range<u64>,
    host: HostOffset,
}

impl Qcow {
    /// An image over its parts.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn new(parts: Parts) -> Result<Self> {
        let Parts { header, file, backing, backing_file, cipher, writable } = parts;
        Ok(Qcow {
            tables: Mutex::new(Tables::new(file.clone(), &header, writable)?),
            changed: Condvar::new(),
            geometry: header.geometry,
            size: header.size - header.size % SECTOR,
            encrypted: header.encrypted,
            children: [Some(file.clone()), backing.clone()].into_iter().flatten().collect::<Vec<_>>().into(),
            file,
            backing,
            backing_file,
            cipher,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock when the cluster at `at` is not leased; gives how many of the `len` bytes come before the next
    /// lease.
    fn ready(&self, at: GuestOffset, len: u64, who: Reader) -> (MutexGuard<'_, Tables>, u64) {
        let mut tables = self.lock();
        loop {
            let clear = match who {
                Reader::Request => tables.leases.clear_bytes(at.0, len),
                Reader::LeaseHolder => len,
            };
            if clear > 0 {
                return (tables, clear);
            }
            tables = self.changed.wait(tables).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn within(&self, at: u64) -> u64 {
        at % self.geometry.cluster_size()
    }

    /// Clusters that `len` bytes at `at` touch.
    fn clusters(&self, at: GuestOffset, len: u64) -> u64 {
        (self.within(at.0) + len).div_ceil(self.geometry.cluster_size())
    }

    /// Bytes from `at` to the end of the `clusters`th cluster, at most `max`.
    fn bytes(&self, at: GuestOffset, clusters: u64, max: u64) -> u64 {
        ((clusters << self.geometry.cluster_bits) - self.within(at.0)).min(max)
    }

    /// The room for a write into clusters that are not stored yet.
    fn reserve_fresh(&self, tables: &mut Tables, at: GuestOffset, len: u64) -> Result<Reservation<Token>> {
        let size = self.geometry.cluster_size();
        let clusters = self.clusters(at, len);
        let host = tables.allocate(clusters * size)?;
        let blank = tables.is_blank(host)?;
        let start = at.0 - self.within(at.0);
        let guest = start..start + clusters * size;
        let id = tables.leases.take(guest.clone());
        let pin = tables.pins.pin(host, clusters * size);
        let token = Token { id, guest: guest.clone(), host };
        let lease = Some(Lease { covers: guest, blank, token });
        Ok(Reservation { len, host: host.plus(self.within(at.0)), pin, lease })
    }

    fn end_lease(&self, tables: &mut Tables, id: u64) {
        tables.leases.give_back(id);
        self.changed.notify_all();
    }
}

impl MappedFormat for Qcow {
    type Token = Token;

    fn len(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits {
            request_align: SECTOR as u32,
            zero_init: true,
            cluster_size: u32::try_from(self.geometry.cluster_size()).ok(),
            write_flags: WriteFlags::COMPRESSED,
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
        &self.file
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
        let (mut tables, clear) = self.ready(at, max, who);
        let wanted = self.clusters(at, clear);
        let Some((entry, clusters)) = tables.run(at, wanted)? else {
            let to_end = self.geometry.l2_coverage() - at.0 % self.geometry.l2_coverage();
            return Ok(Found { len: clear.min(to_end), place: Place::Absent(None), pin: None });
        };
        let place = match entry {
            Entry::Absent => Place::Absent(None),
            Entry::Compressed(host, len) => Place::Compressed(host, len),
            Entry::Stored(host) => Place::Stored(host.plus(self.within(at.0))),
        };
        Ok(Found { len: self.bytes(at, clusters, clear), place, pin: None })
    }

    fn reserve(&self, at: GuestOffset, len: u64, _after: Option<HostOffset>) -> Result<Reservation<Token>> {
        let (mut tables, clear) = self.ready(at, len, Reader::Request);
        tables.check_writable()?;
        tables.make_l2(at)?;
        let (entry, clusters) = tables.run(at, self.clusters(at, clear))?.unwrap_or((Entry::Absent, 1));
        let len = self.bytes(at, clusters, clear);
        let Entry::Stored(host) = entry else { return self.reserve_fresh(&mut tables, at, len) };
        let host = host.plus(self.within(at.0));
        let pin = tables.pins.pin(host, len);
        Ok(Reservation { len, host, pin, lease: None })
    }

    fn commit(&self, lease: Lease<Token>) -> Result<()> {
        let Token { id, guest, host } = lease.token;
        let mut tables = self.lock();
        let size = self.geometry.cluster_size();
        let clusters = 0..(guest.end - guest.start) / size;
        let mut done = Ok(());
        for offset in clusters.map(|i| i * size) {
            let entry = Entry::Stored(host.plus(offset));
            done = done.and_then(|()| tables.set_entry(GuestOffset(guest.start + offset), entry));
        }
        self.end_lease(&mut tables, id);
        done
    }

    fn abandon(&self, lease: Lease<Token>) {
        let mut tables = self.lock();
        self.end_lease(&mut tables, lease.token.id);
    }

    fn compress(&self, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(deflate::deflate(cluster))
    }

    fn store_compressed(&self, at: GuestOffset, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        let (mut tables, _) = self.ready(at, 1, Reader::Request);
        tables.check_writable()?;
        tables.make_l2(at)?;
        let host = tables.allocate_bytes(len)?;
        let id = tables.leases.take(at.0..at.0 + self.geometry.cluster_size());
        drop(tables);
        let written = self.file.write_all(host.0, bytes);
        let mut tables = self.lock();
        self.end_lease(&mut tables, id);
        written.and_then(|()| tables.set_entry(at, Entry::Compressed(host, len)))
    }

    fn decompress(&self, bytes: &[u8], cluster: &mut [u8]) -> Result<()> {
        match deflate::inflate(bytes, cluster) {
            true => Ok(()),
            false => Err(Error::corrupt(Error::from_errno(nix::libc::EIO).strerror())),
        }
    }

    fn zero(&self, _range: Range<u64>, _flags: ZeroFlags) -> Result<()> {
        // The format has no way to say that a cluster reads as zeroes.
        Err(Error::from_errno(nix::libc::ENOTSUP))
    }

    fn discard(&self, _range: Range<u64>) -> Result<()> {
        Err(Error::from_errno(nix::libc::ENOTSUP))
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.lock().write_back()?;
        self.file.flush(level)
    }

    fn truncate(&self, _q: &Quiesced<'_>, _to: Resize) -> Result<()> {
        Err(Error::unsupported("Image format driver does not support resize"))
    }

    fn close(&self) -> Result<()> {
        self.lock().write_back()
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Self> {
        self.reopened(ctx)
    }

    fn emptying(&self) -> Option<&dyn Emptying> {
        Some(self)
    }

    fn info(&self) -> FormatInfo {
        FormatInfo {
            encrypted: self.encrypted,
            backing_file: self.backing_file.clone(),
            ..FormatInfo::default()
        }
    }
}

impl Emptying for Qcow {
    fn make_empty(&self, _q: &Quiesced<'_>) -> Result<()> {
        self.lock().make_empty()
    }
}
