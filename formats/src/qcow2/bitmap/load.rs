//! Reading bitmaps: the directory when the image is opened, the bits when they are needed.

use super::directory::{BitmapEntry, BitmapFlags};
use super::keep::Kept;
use crate::qcow2::entry::OFFSET;
use crate::qcow2::geometry::Geometry;
use crate::qcow2::header::{Table, be64};
use crate::qcow2::meta::Meta;
use block::bitmap::{BitmapShape, Bits, DirtyBitmap, bits_for};
use block::{Child, Context, Error, Result};
use std::collections::HashSet;

/// How many bytes the bits of one bitmap may take in memory: those of 64 TiB with a bit for each 64 KiB.
const MAX_MEMORY: u64 = 128 << 20;

/// Bit 0 of a table entry without a cluster: all bits are set.
const ALL_ONES: u64 = 1;

impl Meta {
    /// The bitmaps of an image that has just been opened.
    ///
    /// # Errors
    /// An entry of the directory that breaks the rules, by name.
    pub(in crate::qcow2) fn open_bitmaps(&self) -> Result<Vec<Kept>> {
        let (g, size) = (self.geometry, self.header.size);
        let mut at = self.header.extensions.bitmaps.map_or(0, |directory| directory.offset);
        let place = |at| format!("Its directory entry is at offset {at:#x} of the file.");
        let entries = self.bitmaps().context(|| "Could not read the bitmap directory")?;
        let mut names = HashSet::new();
        for entry in &entries {
            entry.check(g, size).map_err(|e| e.with_place(place(at)))?;
            at += entry.stored_len() as u64;
            if !names.insert(&*entry.name) {
                return Err(Error::invalid(format!(
                    "Bitmap '{}' doesn't satisfy the constraints",
                    entry.name
                ))
                .with_hint("There are two bitmaps of that name"));
            }
        }
        drop(names);
        Ok(entries.into_iter().map(|entry| self.keep(entry)).collect())
    }

    fn keep(&self, entry: BitmapEntry) -> Kept {
        let shape = BitmapShape {
            name: entry.name.clone(),
            granularity_bits: entry.granularity_bits.into(),
            enabled: entry.flags.contains(BitmapFlags::AUTO),
            inconsistent: entry.flags.contains(BitmapFlags::IN_USE),
        };
        let reader = Reader {
            file: self.caches.file().clone(),
            geometry: self.geometry,
            size: self.header.size,
            table: entry.table,
            granularity_bits: entry.granularity_bits.into(),
        };
        let loader = move || reader.read();
        Kept { bitmap: DirtyBitmap::stored(shape, Box::new(loader)), entry, stored: true }
    }
}

/// What it takes to read the bits of a bitmap.
struct Reader {
    file: Child,
    geometry: Geometry,
    size: u64,
    table: Table,
    granularity_bits: u32,
}

impl Reader {
    fn read(&self) -> Result<Bits> {
        let g = self.geometry;
        let mut bits = Bits::new(bits_for(self.size, self.granularity_bits));
        let per_cluster = g.cluster_size() * 8;
        let mut cluster = vec![0; g.cluster_len()];
        // A piece of the table at a time: its length is only what the directory claims.
        let mut piece = vec![0; g.cluster_len()];
        for index in 0..u64::from(self.table.count) {
            if index * per_cluster >= bits.len() {
                break;
            }
            let within = usize::try_from(index * 8 % g.cluster_size()).unwrap_or(0);
            if within == 0 {
                self.file.read_exact(self.table.offset + index * 8, &mut piece)?;
            }
            let first = index * per_cluster;
            match be64(&piece, within) {
                0 => {}
                ALL_ONES => bits.set(first..first + per_cluster),
                value if value & !OFFSET != 0 || g.within(value) != 0 => {
                    return Err(Error::invalid(format!("Entry {index} of its table is {value:#x}")));
                }
                value => {
                    self.file.read_exact(value, &mut cluster)?;
                    bits.load_bytes(first, &cluster);
                }
            }
            if bits.memory() > MAX_MEMORY {
                return Err(Error::from_errno(nix::libc::ENOMEM));
            }
        }
        Ok(bits)
    }
}
