//! From version 3 to version 2: zero clusters become data or nothing, feature bits go.

use super::steps::Steps;
use crate::mapped::HostOffset;
use crate::qcow2::entry::{self, COPIED, Cluster, L2Entry};
use crate::qcow2::features::{Autoclear, Compatible, Incompatible};
use crate::qcow2::header::{Compression, MAX_L1_BYTES, Version, check_table};
use crate::qcow2::image::Qcow2;
use crate::qcow2::meta::{FreedBy, L2Entries, Meta, write_l2_entry};
use crate::qcow2::open::read_numbers;
use crate::qcow2::order::Tables;
use crate::qcow2::snapshot::Snapshot;
use block::{Context, Error, Result, ZeroFlags};

impl Qcow2 {
    /// Makes the image a version 2 image.
    pub(super) fn downgrade(&self, steps: &mut Steps<'_>) -> Result<()> {
        let mut meta = self.lock();
        meta.check_downgrade()?;
        meta.end_lazy()?;
        meta.expand_zeroes(self.has_backing(), steps).map_err(|e| {
            block::tool::notice(&format!("{}: {e}", block::tool::program_name()));
            Error::from_errno(e.errno()).context("Failed to turn zero into data clusters")
        })?;
        meta.release_pending()?;
        meta.caches.write_all_back()?;
        let old = meta.header.clone();
        meta.header.version = Version::V2;
        meta.header.incompatible = Incompatible::empty();
        meta.header.compatible = Compatible::empty();
        meta.header.autoclear = Autoclear::empty();
        meta.header.compression = Compression::Zlib;
        meta.header.unknown_fields.clear();
        let written = meta.write_header();
        if written.is_err() {
            meta.header = old;
        }
        meta.lazy_refcounts = false;
        written.context(|| "Failed to update the image header")
    }
}

impl Meta {
    /// Refuses images with what version 2 cannot say.
    fn check_downgrade(&mut self) -> Result<()> {
        if self.header.has(Incompatible::DATA_FILE) {
            return Err(Error::invalid("Cannot downgrade an image with a data file"));
        }
        let beyond = self.header.incompatible - Incompatible::DIRTY - Incompatible::COMPRESSION;
        if !beyond.is_empty() {
            return Err(Error::invalid(format!(
                "Cannot downgrade an image with incompatible features {:#x} set",
                beyond.bits()
            )));
        }
        let size = self.header.size;
        let fits = |s: &Snapshot| {
            s.vm_state_size <= u64::from(u32::MAX) && s.disk_size.is_none_or(|disk| disk == size)
        };
        if !self.snapshots.iter().all(fits) {
            return Err(Error::invalid("Internal snapshots prevent downgrade of image"));
        }
        if self.geometry.refcount_order != 4 {
            return Err(Error::invalid("compat=0.10 requires refcount_bits=16"));
        }
        if self.header.compression != Compression::Zlib && self.has_compressed()? {
            return Err(Error::invalid(
                "Cannot downgrade an image with zstd compression type and existing compressed clusters",
            ));
        }
        Ok(())
    }

    /// Whether any cluster is compressed, snapshots included.
    fn has_compressed(&mut self) -> Result<bool> {
        let g = self.geometry;
        for table in self.all_l1_tables()?.into_iter().flatten().filter_map(entry::l2_table) {
            let mut found = false;
            self.each_l2_entry(table, &mut |_, entry| {
                found |= matches!(entry.cluster(g), Cluster::Compressed(_));
                Ok(None)
            })?;
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The active L1 table and those of all snapshots.
    fn all_l1_tables(&mut self) -> Result<Vec<Vec<u64>>> {
        let g = self.geometry;
        let mut tables = vec![self.l1.clone()];
        for snapshot in &self.snapshots {
            let bytes = u64::from(snapshot.l1_size) * 8;
            check_table(snapshot.l1_offset, bytes, MAX_L1_BYTES, g, "Snapshot L1 table")?;
            tables.push(read_numbers(self.caches.file(), snapshot.l1_offset, snapshot.l1_size.into())?);
        }
        Ok(tables)
    }

    /// Replaces every zero cluster: by nothing where no backing file shows through, else by a cluster of zeroes.
    fn expand_zeroes(&mut self, backed: bool, steps: &mut Steps<'_>) -> Result<()> {
        let tables = self.all_l1_tables()?;
        let total = tables.iter().map(|t| t.len() as u64).sum();
        for (done, l1_entry) in (1u64..).zip(tables.into_iter().flatten()) {
            if let Some(table) = entry::l2_table(l1_entry) {
                self.expand_table(table, backed)?;
            }
            steps.at(done, total);
        }
        Ok(())
    }

    fn expand_table(&mut self, table: HostOffset, backed: bool) -> Result<()> {
        let g = self.geometry;
        if g.within(table.0) != 0 {
            return Err(self.corrupt(format!("L2 table offset {:#x} unaligned", table.0)));
        }
        // The table may be shared by snapshots; then so is what its entries point at.
        let sharers = self.refcount(g.index(table))?;
        self.each_l2_entry(table, &mut |meta, entry| {
            let zero =
                !matches!(entry.cluster(g), Cluster::Compressed(_)) && entry.descriptor & entry::ZERO != 0;
            if zero { meta.expand_entry(entry, sharers, backed).map(Some) } else { Ok(None) }
        })
    }

    /// What takes the place of a zero cluster's entry in a table that `sharers` L1 entries point at.
    fn expand_entry(&mut self, old: L2Entry, sharers: u64, backed: bool) -> Result<L2Entry> {
        let g = self.geometry;
        let old_host = old.host(g);
        let alone = match old_host {
            Some(host) if g.within(host.0) != 0 => {
                return Err(self.corrupt(format!("Cluster allocation offset {:#x} unaligned", host.0)));
            }
            Some(host) => self.refcount(g.index(host))? == sharers,
            None => false,
        };
        let host = match old_host {
            // Others may still see data in that cluster.
            Some(host) if !alone => {
                for _ in 0..sharers {
                    self.free_later(host, g.cluster_size(), FreedBy::Other)?;
                }
                if backed { Some(self.allocate_shared(sharers)?) } else { None }
            }
            Some(host) => Some(host),
            None if backed => Some(self.allocate_shared(sharers)?),
            None => None,
        };
        let Some(host) = host else { return Ok(L2Entry::default()) };
        self.caches.file().write_zeroes(host.0..host.0 + g.cluster_size(), ZeroFlags::empty())?;
        self.caches.data_written();
        Ok(L2Entry { descriptor: host.0 | if sharers == 1 { COPIED } else { 0 }, bitmap: 0 })
    }

    /// Allocates a cluster that is referenced `times` times.
    fn allocate_shared(&mut self, times: u64) -> Result<HostOffset> {
        let host = self.allocate(1)?;
        self.set_refcount(self.geometry.index(host), times)?;
        Ok(host)
    }

    /// Calls `change` for every entry of an L2 table; an entry it gives takes that one's place.
    fn each_l2_entry(
        &mut self,
        table: HostOffset,
        change: &mut dyn FnMut(&mut Meta, L2Entry) -> Result<Option<L2Entry>>,
    ) -> Result<()> {
        let g = self.geometry;
        let slice_len = self.caches.tables(Tables::L2).table_len();
        let size = g.l2_entry_len();
        for start in (0..g.cluster_len()).step_by(slice_len) {
            let slice = table.plus(start as u64);
            let entries: Vec<_> =
                L2Entries::new(self.caches.load(Tables::L2, slice)?, g.extended_l2).collect();
            for (at, entry) in (0..).step_by(size).zip(entries) {
                if let Some(new) = change(self, entry)? {
                    let bytes = self.caches.change(Tables::L2, slice)?;
                    write_l2_entry(&mut bytes[at..], new, g.extended_l2);
                }
            }
        }
        Ok(())
    }
}
