//! Growing disks of the Bochs emulator, read-only: a catalog of extents, each a bitmap of its sectors and the sectors.
//!
//! The layout is that of the Bochs documentation's section on redologs. What the catalog or a bitmap does not have reads
//! as zeroes.

use block::graph::{DriverKind, DriverRow, OpenCtx, Probe};
use block::{
    Child, Driver, Error, IoVec, IoVecMut, Kind, Level, Limits, Mapping, Perm, Perms, Result, SECTOR, Want,
    WriteFlags,
};
use std::sync::Arc;

/// What a growing disk begins with: three texts of 32, 16 and 16 bytes, padded with zeroes.
const TEXTS: [(usize, &[u8]); 3] = [(0, b"Bochs Virtual HD Image\0"), (32, b"Redolog\0"), (48, b"Growing\0")];

/// Bytes of the header that are used.
const HEADER: usize = 96;
/// The two versions there are, of which the second has a time stamp before the size.
const VERSIONS: [u32; 2] = [0x10000, 0x20000];
/// The most entries a catalog may have: 4 MiB of them.
const MAX_CATALOG: u32 = 0x10_0000;
/// The largest extent, in bytes.
const MAX_EXTENT: u32 = 0x80_0000;
/// A catalog entry that stands for no extent.
const ABSENT: u32 = u32::MAX;

/// The `bochs` driver.
pub static ROW: DriverRow =
    DriverRow { probe, children: &["file"], ..DriverRow::new("bochs", DriverKind::Format, open) };

fn probe(probe: &Probe<'_>) -> u8 {
    let is = |(at, text): (usize, &[u8])| probe.head.get(at..at + text.len()) == Some(text);
    if TEXTS.into_iter().all(is) { 100 } else { 0 }
}

/// An open image.
#[derive(Debug)]
struct Bochs {
    file: Child,
    children: Arc<[Child]>,
    /// Where each extent is, counted in extents from `data`.
    catalog: Vec<u32>,
    /// Where the first extent is, in bytes.
    data: u64,
    /// Bytes of the bitmap before each extent.
    bitmap: u64,
    /// Bytes of an extent.
    extent: u64,
    /// Bytes of the disk.
    size: u64,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let file = ctx.child("file", Perms { own: ctx.perms.own & Perm::READ, shared: Perm::all() })?;
    if ctx.flags.writable {
        return Err(Error::new(Kind::ReadOnly, "bochs images are read-only").with_errno(nix::libc::EACCES));
    }
    let mut head = [0; HEADER];
    file.read_exact(0, &mut head)?;
    Ok(Box::new(Bochs::parse(file, &head)?))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

impl Bochs {
    fn parse(file: Child, head: &[u8; HEADER]) -> Result<Self> {
        let version = le32(head, 64);
        if probe(&Probe { head }) == 0 || !VERSIONS.contains(&version) {
            return Err(Error::invalid("Image not in Bochs format"));
        }
        let size_at = if version == VERSIONS[0] { 84 } else { 88 };
        let size = u64::from(le32(head, size_at)) | u64::from(le32(head, size_at + 4)) << 32;
        let (header, entries) = (u64::from(le32(head, 68)), le32(head, 72));
        let (bitmap, extent) = (le32(head, 76), le32(head, 80));
        if entries > MAX_CATALOG {
            return Err(Error::invalid("Catalog size is too large").with_errno(nix::libc::EFBIG));
        }
        if u64::from(extent) < SECTOR {
            return Err(Error::invalid("Extent size must be at least 512"));
        }
        if !extent.is_power_of_two() {
            return Err(Error::invalid(format!("Extent size {extent} is not a power of two")));
        }
        if extent > MAX_EXTENT {
            return Err(Error::invalid(format!("Extent size {extent} is too large")));
        }
        if u64::from(bitmap) * 8 < u64::from(extent) / SECTOR {
            return Err(Error::invalid(format!("Bitmap of {bitmap} bytes is too small for its extent")));
        }
        if u64::from(entries) < size.div_ceil(extent.into()) {
            return Err(Error::invalid("Catalog size is too small for this disk size"));
        }
        let mut bytes = vec![0; entries as usize * 4];
        if !bytes.is_empty() {
            file.read_exact(header, &mut bytes)?;
        }
        Ok(Bochs {
            children: Arc::from([file.clone()]),
            file,
            catalog: bytes.chunks_exact(4).map(|entry| le32(entry, 0)).collect(),
            data: header + u64::from(entries) * 4,
            bitmap: u64::from(bitmap).next_multiple_of(SECTOR),
            extent: extent.into(),
            size,
        })
    }

    /// Where the sector at `at` is in the file, if it is stored.
    fn sector(&self, at: u64) -> Result<Option<u64>> {
        let index = usize::try_from(at / self.extent).unwrap_or(usize::MAX);
        let place = self.catalog.get(index).copied().unwrap_or(ABSENT);
        if place == ABSENT {
            return Ok(None);
        }
        let start = self.data + u64::from(place) * (self.bitmap + self.extent);
        let sector = at % self.extent / SECTOR;
        let mut bits = [0];
        self.file.read_exact(start + sector / 8, &mut bits)?;
        let stored = bits[0] >> (sector % 8) & 1 != 0;
        Ok(stored.then_some(start + self.bitmap + sector * SECTOR))
    }
}

impl Driver for Bochs {
    fn len(&self) -> Result<u64> {
        Ok(self.size)
    }

    fn limits(&self) -> Limits {
        Limits { request_align: SECTOR as u32, ..Limits::default() }
    }

    fn children(&self) -> Arc<[Child]> {
        Arc::clone(&self.children)
    }

    fn map(&self, _at: u64, max: u64, _want: Want) -> Result<Mapping> {
        Ok(Mapping::data(max))
    }

    fn read(&self, mut at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        while !to.is_empty() {
            let mut sector = to.split_to(SECTOR as usize);
            match self.sector(at)? {
                Some(host) => self.file.read(host, &mut sector)?,
                None => sector.fill(0),
            }
            at += SECTOR;
        }
        Ok(())
    }

    fn write(&self, _at: u64, _from: &IoVec<'_>, _flags: WriteFlags) -> Result<()> {
        Err(Error::from_errno(nix::libc::EROFS))
    }

    fn flush(&self, _level: Level) -> Result<()> {
        Ok(())
    }
}
