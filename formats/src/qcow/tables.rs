//! L1 and L2 tables in memory, and new room at the end of the file.
//!
//! **Order.** Data comes before the L2 entry that points at it, an L2 table before the L1 entry that does. So whatever is
//! dirty is written back in three steps with a barrier before each ([`Tables::write_back`]): flush the data; write L2
//! tables; flush; write L1. A cut between any two leaves entries that point at what is there already. Both kinds are
//! cached in slices, so that a header that claims a giant disk takes no memory.

use super::entry::Entry;
use super::header::{Geometry, Header};
use crate::mapped::{GuestOffset, HostOffset, Leases, Pins};
use block::{Child, Error, Event, Level, Resize, Result, ZeroFlags};
use std::collections::HashMap;

/// Bytes of the tables kept in memory.
const CACHE: usize = 16 << 20;

/// Bytes of the L1 table that are loaded at once.
const L1_SLICE: u64 = 4096;

/// A part of a table.
#[derive(Debug)]
struct Slice {
    bytes: Box<[u8]>,
    dirty: bool,
    /// When it was last used.
    used: u64,
}

/// The two kinds of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    L1,
    L2,
}

impl Kind {
    fn update(self) -> Event {
        Event(if self == Kind::L1 { "l1_update" } else { "l2_update" })
    }
}

/// Slices of one kind, by where they are in the file.
type Slices = HashMap<u64, Slice>;

/// The tables of an open image, and all else that the lock guards.
#[derive(Debug)]
pub(super) struct Tables {
    file: Child,
    geometry: Geometry,
    size: u64,
    l1_offset: u64,
    /// Where the header, the backing file's name and the L1 table end.
    head_end: u64,
    writable: bool,
    l1: Slices,
    l2: Slices,
    clock: u64,
    /// Where the next room is taken from: the end of the file, or beyond it when what was handed out is not written.
    end: u64,
    pub(super) leases: Leases,
    pub(super) pins: Pins,
}

/// Where an L2 entry is.
#[derive(Debug, Clone, Copy)]
struct L2Place {
    table: u64,
    index: usize,
}

impl Tables {
    /// The tables that `header` points at.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn new(file: Child, header: &Header, writable: bool) -> Result<Self> {
        let l1_end = header.l1_offset + header.geometry.l1_bytes(header.size);
        let name_end = match header.backing {
            (_, 0) => 0,
            (at, len) => at.saturating_add(len.into()),
        };
        Ok(Tables {
            geometry: header.geometry,
            size: header.size,
            l1_offset: header.l1_offset,
            head_end: l1_end.max(name_end),
            writable,
            l1: Slices::new(),
            l2: Slices::new(),
            clock: 0,
            end: file.len()?.max(l1_end),
            leases: Leases::default(),
            pins: Pins::default(),
            file,
        })
    }

    /// # Errors
    /// The image was opened read-only.
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.writable { Ok(()) } else { Err(Error::from_errno(nix::libc::EPERM)) }
    }

    fn slices(&mut self, kind: Kind) -> &mut Slices {
        if kind == Kind::L1 { &mut self.l1 } else { &mut self.l2 }
    }

    /// The slice of `len` bytes at `at`, loaded if need be.
    fn slice(&mut self, kind: Kind, at: u64, len: u64) -> Result<&mut Slice> {
        self.clock += 1;
        let used = self.clock;
        if !self.slices(kind).contains_key(&at) {
            self.make_room()?;
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)].into_boxed_slice();
            self.file.node().event(Event(if kind == Kind::L1 { "l1_load" } else { "l2_load" }));
            self.file.read_exact(at, &mut bytes)?;
            self.slices(kind).insert(at, Slice { bytes, dirty: false, used });
        }
        let slice = self.slices(kind).get_mut(&at).expect("it was there or has just been inserted");
        slice.used = used;
        Ok(slice)
    }

    /// Drops the slice that was not used for longest, if there are too many.
    fn make_room(&mut self) -> Result<()> {
        let most = |len: u64| CACHE / usize::try_from(len).unwrap_or(CACHE).max(1);
        for (kind, most) in [(Kind::L1, most(L1_SLICE)), (Kind::L2, most(self.geometry.l2_bytes()))] {
            if self.slices(kind).len() < most.max(2) {
                continue;
            }
            let oldest = self.slices(kind).iter().min_by_key(|(_, slice)| slice.used);
            let oldest = oldest.map(|(at, slice)| (*at, slice.dirty));
            if let Some((at, dirty)) = oldest {
                if dirty {
                    self.write_back()?;
                }
                self.slices(kind).remove(&at);
            }
        }
        Ok(())
    }

    /// The L1 entry for `at`: its slice of the L1 table, the byte in it, and how long the slice is.
    fn l1_place(&self, at: GuestOffset) -> (u64, usize, u64) {
        let byte = at.0 / self.geometry.l2_coverage() * 8;
        let start = byte - byte % L1_SLICE;
        let len = (self.geometry.l1_bytes(self.size) - start).min(L1_SLICE);
        (self.l1_offset + start, usize::try_from(byte - start).unwrap_or(usize::MAX), len)
    }

    /// The L2 table for `at`, where there is one.
    fn l2_table(&mut self, at: GuestOffset) -> Result<Option<u64>> {
        let (start, byte, len) = self.l1_place(at);
        let table = get(&self.slice(Kind::L1, start, len)?.bytes, byte);
        if table != 0 && (table > i64::MAX as u64 || self.is_metadata(table)) {
            return Err(self.corrupt("L2 table", table, at));
        }
        Ok(Some(table).filter(|table| *table != 0))
    }

    fn l2_place(&self, table: u64, at: GuestOffset) -> L2Place {
        let index = (at.0 % self.geometry.l2_coverage()) >> self.geometry.cluster_bits;
        L2Place { table, index: usize::try_from(index).unwrap_or(usize::MAX) }
    }

    /// Whether an offset is inside the header or the L1 table, where nothing else can be.
    fn is_metadata(&self, at: u64) -> bool {
        let l1 = self.l1_offset..self.l1_offset + self.geometry.l1_bytes(self.size);
        at < super::header::BYTES as u64 || l1.contains(&at)
    }

    fn corrupt(&self, what: &str, at: u64, guest: GuestOffset) -> Error {
        let text = format!("The {what} for guest offset {guest:#x} is at {at:#x}, where it cannot be");
        Error::corrupt(text).with_errno(nix::libc::EIO)
    }

    /// The entry for `at`, and of how many clusters, at most `max`, it begins a run in its L2 table; nothing without a table.
    ///
    /// # Errors
    /// An entry that cannot be, or the file's.
    pub(super) fn run(&mut self, at: GuestOffset, max: u64) -> Result<Option<(Entry, u64)>> {
        let Some(table) = self.l2_table(at)? else { return Ok(None) };
        let g = self.geometry;
        let place = self.l2_place(table, at);
        let slice = self.slice(Kind::L2, table, g.l2_bytes())?;
        let raw = slice.bytes[place.index * 8..].chunks_exact(8);
        let entries = raw.map(|raw| Entry::parse(get(raw, 0), g));
        let first = Entry::parse(get(&slice.bytes, place.index * 8), g);
        let alike = entries.skip(1).zip(1..max).take_while(|(entry, i)| first.onwards(*i, g) == Some(*entry));
        let clusters = 1 + alike.count() as u64;
        let host = match first {
            Entry::Absent => return Ok(Some((first, clusters))),
            Entry::Stored(host) | Entry::Compressed(host, _) => host,
        };
        let mut hosts = (0..clusters).map(|i| host.plus(i << g.cluster_bits).0);
        match hosts.find(|host| self.is_metadata(*host)) {
            Some(host) => Err(self.corrupt("cluster", host, at)),
            None => Ok(Some((first, clusters))),
        }
    }

    /// Makes the L2 table for `at`, if there is none.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn make_l2(&mut self, at: GuestOffset) -> Result<()> {
        if self.l2_table(at)?.is_some() {
            return Ok(());
        }
        let len = self.geometry.l2_bytes();
        let table = self.allocate(len)?;
        self.make_room()?;
        let bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)].into_boxed_slice();
        self.clock += 1;
        let used = self.clock;
        self.l2.insert(table.0, Slice { bytes, dirty: true, used });
        let (start, byte, len) = self.l1_place(at);
        let slice = self.slice(Kind::L1, start, len)?;
        put(&mut slice.bytes, byte, table.0);
        slice.dirty = true;
        Ok(())
    }

    /// Changes the entry for the cluster at `at`, whose table exists.
    ///
    /// # Errors
    /// `EFBIG` for what an entry cannot express, or the file's.
    pub(super) fn set_entry(&mut self, at: GuestOffset, entry: Entry) -> Result<()> {
        let g = self.geometry;
        let raw = entry.to_raw(g).ok_or_else(|| Error::from_errno(nix::libc::EFBIG))?;
        let table = self.l2_table(at)?.ok_or_else(|| Error::from_errno(nix::libc::EIO))?;
        let place = self.l2_place(table, at);
        let slice = self.slice(Kind::L2, place.table, g.l2_bytes())?;
        put(&mut slice.bytes, place.index * 8, raw);
        slice.dirty = true;
        Ok(())
    }

    /// Room for `len` bytes of clusters or a table, at the end of the file and at a cluster boundary.
    ///
    /// # Errors
    /// `EFBIG` past the largest file there can be.
    pub(super) fn allocate(&mut self, len: u64) -> Result<HostOffset> {
        self.end = self.end.next_multiple_of(self.geometry.cluster_size());
        self.allocate_bytes(len)
    }

    /// Room for `len` bytes at the very end of the file.
    ///
    /// # Errors
    /// As for [`Tables::allocate`].
    pub(super) fn allocate_bytes(&mut self, len: u64) -> Result<HostOffset> {
        let at = self.end;
        let end = at.checked_add(len).filter(|end| *end <= i64::MAX as u64);
        self.end = end.ok_or_else(|| Error::from_errno(nix::libc::EFBIG))?;
        self.file.node().event(Event("cluster_alloc"));
        Ok(HostOffset(at))
    }

    /// Whether nothing was ever written at or after `at`.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn is_blank(&self, at: HostOffset) -> Result<bool> {
        Ok(at.0 >= self.file.len()?)
    }

    /// Writes back what is dirty: see the module documentation.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn write_back(&mut self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        // Also what was handed out and never written, so that the next user of the file does not hand it out again.
        if self.file.len()? < self.end {
            self.file.truncate(Resize { exact: false, ..Resize::to(self.end) })?;
        }
        for kind in [Kind::L2, Kind::L1] {
            if self.slices(kind).values().any(|slice| slice.dirty) {
                // What it points at, on stable storage unless the cache mode says that nothing is.
                self.file.flush(Level::Disk)?;
                self.write_dirty(kind)?;
            }
        }
        Ok(())
    }

    /// Forgets all clusters and L2 tables: in the L1 table first, so that nothing points at what the file loses then.
    ///
    /// # Errors
    /// The image was opened read-only, or the file's.
    pub(super) fn make_empty(&mut self) -> Result<()> {
        self.check_writable()?;
        self.l1.clear();
        self.l2.clear();
        let l1 = self.l1_offset..self.l1_offset + self.geometry.l1_bytes(self.size);
        self.file.node().event(Kind::L1.update());
        self.file.write_zeroes(l1, ZeroFlags::empty())?;
        self.file.flush(Level::Disk)?;
        self.end = self.head_end;
        self.file.truncate(Resize { exact: false, ..Resize::to(self.head_end) })
    }

    fn write_dirty(&mut self, kind: Kind) -> Result<()> {
        let file = self.file.clone();
        let mut dirty: Vec<_> = self.slices(kind).iter_mut().filter(|(_, slice)| slice.dirty).collect();
        dirty.sort_by_key(|(at, _)| **at);
        for (at, slice) in dirty {
            file.node().event(kind.update());
            file.write_all(*at, &slice.bytes)?;
            slice.dirty = false;
        }
        Ok(())
    }
}

fn get(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}
