//! Counting references: everything in the file that points at a cluster.

use super::Checker;
use super::runs::{self, Run};
use crate::mapped::{ClusterIndex, HostOffset};
use crate::qcow2::entry::{self, Cluster, L2Entry};
use crate::qcow2::geometry::Geometry;
use crate::qcow2::meta::{L2Entries, write_l2_entry};
use crate::qcow2::open::read_numbers;
use crate::qcow2::refcount::REFTABLE_OFFSET;
use block::check::Repair;
use block::{Event, Resize, Result};

/// Whose L1 table is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    /// The active one, of which clusters are counted by kind.
    Active,
    /// A snapshot's.
    Snapshot,
}

impl Checker<'_> {
    /// Counts all references anew.
    pub(super) fn count_references(&mut self, repair: Repair) -> Result<()> {
        let g = self.meta.geometry;
        let file_len = self.meta.caches.file().len()?;
        self.file_len = file_len;
        self.counts = super::Counts::new(g.clusters(file_len));
        // The header.
        self.refer(0, g.cluster_size())?;
        let l1 = self.meta.l1.clone();
        self.walk_l1(self.meta.header.l1.offset, &l1, Table::Active, repair)?;
        for index in 0..self.meta.snapshots.len() {
            self.walk_snapshot(index, repair)?;
        }
        let header = &self.meta.header;
        let (snapshots, crypto) = (header.snapshots.offset, header.extensions.crypto);
        self.refer(snapshots, self.meta.snapshot_bytes)?;
        if let Some(crypto) = crypto {
            self.refer(crypto.offset, crypto.len)?;
        }
        self.walk_bitmaps()?;
        let reftable = self.meta.header.reftable;
        self.refer(reftable.offset, u64::from(reftable.count) << g.cluster_bits)?;
        self.walk_refblocks(repair)
    }

    /// Counts one reference to each cluster that `len` bytes at `offset` touch.
    pub(super) fn refer(&mut self, offset: u64, len: u64) -> Result<()> {
        let g = self.meta.geometry;
        if len == 0 {
            return Ok(());
        }
        let file_len = self.file_len;
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
        let beyond = end.is_none_or(|end| end.saturating_sub(file_len) >= g.cluster_size());
        if beyond {
            self.corruption(&format!(
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: \
                 offset 0x{offset:x} size 0x{len:x}"
            ));
            return Ok(());
        }
        for cluster in offset >> g.cluster_bits..=(offset + len - 1) >> g.cluster_bits {
            self.refer_cluster(ClusterIndex(cluster))?;
        }
        Ok(())
    }

    /// Counts one reference to a cluster of the file.
    #[inline]
    fn refer_cluster(&mut self, cluster: ClusterIndex) -> Result<()> {
        let g = self.meta.geometry;
        if !self.counts.add(cluster, g.max_refcount())? {
            let at = g.host(cluster);
            self.corruption(&format!("ERROR: overflow cluster offset={at:#x}"));
            (self.report)(
                "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if \
                 the image cannot be opened for writing",
            );
        }
        Ok(())
    }

    fn walk_snapshot(&mut self, index: usize, repair: Repair) -> Result<()> {
        let g = self.meta.geometry;
        let snapshot = &self.meta.snapshots[index];
        let (offset, count) = (snapshot.l1_offset, snapshot.l1_size);
        let name = format!("snapshot {} ({}) ", snapshot.id_text(), snapshot.name_text());
        if g.within(offset) != 0 {
            self.corruption(&format!(
                "ERROR {name}l1_offset={offset:#x}: L1 table is not cluster aligned; snapshot table entry corrupted"
            ));
            return Ok(());
        }
        if u64::from(count) * 8 > crate::qcow2::header::MAX_L1_BYTES {
            self.corruption(&format!(
                "ERROR {name}l1_size={count:#x}: L1 table is too large; snapshot table entry corrupted"
            ));
            return Ok(());
        }
        let l1 = read_numbers(self.meta.caches.file(), offset, count.into())?;
        self.walk_l1(offset, &l1, Table::Snapshot, repair)
    }

    fn walk_l1(&mut self, offset: u64, l1: &[u64], table: Table, repair: Repair) -> Result<()> {
        let g = self.meta.geometry;
        self.refer(offset, l1.len() as u64 * 8)?;
        for value in l1.iter().filter(|value| **value != 0) {
            if value & entry::L1_RESERVED != 0 {
                self.corruption(&format!("ERROR found L1 entry with reserved bits set: {value:x}"));
            }
            let at = value & entry::OFFSET;
            self.refer(at, g.cluster_size())?;
            if g.within(at) != 0 {
                self.corruption(&format!(
                    "ERROR l2_offset={at:x}: Table is not cluster aligned; L1 entry corrupted"
                ));
            }
            self.walk_l2(HostOffset(at), table, repair)?;
        }
        Ok(())
    }

    fn walk_l2(&mut self, at: HostOffset, table: Table, repair: Repair) -> Result<()> {
        let g = self.meta.geometry;
        let (mut next, mut done) = (0, 0);
        let bytes = self.load_table(at).inspect_err(|_| {
            (self.report)("ERROR: I/O error in check_refcounts_l2");
            self.result.check_errors += 1;
        })?;
        let size = g.l2_entry_len();
        while done < bytes.len() {
            let rest = &bytes[done..];
            if let Some(run) = self.first_run(rest) {
                self.walk_run(run, table, &mut next)?;
                done += run.count * runs::ENTRY;
                continue;
            }
            let entry = L2Entries::new(rest, g.extended_l2).next().unwrap_or_default();
            if !entry.is_empty()
                && let Some(mended) = self.walk_entry(entry, table, &mut next, repair)?
            {
                let mut stored = [0; 2 * runs::ENTRY];
                write_l2_entry(&mut stored[..size], mended, g.extended_l2);
                self.meta.caches.write_fresh(at.plus(done as u64), &stored[..size], Event("l2_update"))?;
                self.result.corruptions -= 1;
                self.result.corruptions_fixed += 1;
            }
            done += size;
        }
        self.table = bytes;
        Ok(())
    }

    /// Counts what a run of entries points at.
    fn walk_run(&mut self, run: Run, table: Table, next: &mut u64) -> Result<()> {
        let g = self.meta.geometry;
        let first = g.index(run.host).0;
        let end = first + run.count as u64;
        if table == Table::Active {
            self.result.clusters.allocated += run.count as u64;
            self.result.clusters.fragmented += u64::from(*next != 0 && run.host.0 != *next);
            *next = g.host(ClusterIndex(end)).0;
        }
        let mut at = first;
        while at < end {
            at = self.counts.add_run(at..end, g.max_refcount());
            if at < end {
                self.refer_cluster(ClusterIndex(at))?;
                at += 1;
            }
        }
        Ok(())
    }

    /// Counts what one entry points at; gives the entry to put in its place, where it was mended.
    fn walk_entry(
        &mut self,
        entry: L2Entry,
        table: Table,
        next: &mut u64,
        repair: Repair,
    ) -> Result<Option<L2Entry>> {
        let g = self.meta.geometry;
        match entry.cluster(g) {
            Cluster::None => Ok(None),
            Cluster::Compressed(place) => {
                self.check_compressed(entry, place.at.0);
                if table == Table::Active {
                    self.result.clusters.allocated += 1;
                    self.result.clusters.compressed += 1;
                    // They share sectors, which have to be read again even for neighbours.
                    self.result.clusters.fragmented += 1;
                }
                let start = place.at.0 & !511;
                self.refer(start, place.at.0 + place.len - start)?;
                Ok(None)
            }
            Cluster::Standard(host) => {
                if entry.descriptor & entry::L2_RESERVED != 0 {
                    self.corruption(&format!(
                        "ERROR found l2 entry with reserved bits set: {:x}",
                        entry.descriptor
                    ));
                }
                let mended = self.check_standard(entry, host, repair);
                if mended.is_none_or(|m| m.host(g).is_some()) {
                    self.refer_standard(host, table, next)?;
                }
                Ok(mended)
            }
        }
    }

    fn refer_standard(&mut self, host: HostOffset, table: Table, next: &mut u64) -> Result<()> {
        let g = self.meta.geometry;
        if table == Table::Active {
            self.result.clusters.allocated += 1;
            self.result.clusters.fragmented += u64::from(*next != 0 && host.0 != *next);
            *next = host.0 + g.cluster_size();
        }
        if self.meta.external {
            return Ok(());
        }
        // Most clusters are whole ones inside the file.
        if g.within(host.0) == 0 && host.0 + g.cluster_size() <= self.file_len {
            return self.refer_cluster(g.index(host));
        }
        self.refer(host.0, g.cluster_size())
    }

    fn check_compressed(&mut self, entry: L2Entry, at: u64) {
        if entry.is_copied() {
            self.corruption(&format!(
                "ERROR: coffset=0x{at:x}: copied flag must never be set for compressed clusters"
            ));
        }
        if entry.bitmap != 0 {
            self.corruption(&format!(
                "ERROR compressed cluster with non-zero subcluster allocation bitmap, entry=0x{:x}",
                entry.descriptor
            ));
        }
        if self.meta.external {
            self.corruption(&format!(
                "ERROR compressed cluster with data file, entry=0x{:x}",
                entry.descriptor
            ));
        }
    }

    /// Checks a standard entry; gives what it is replaced by, where it can be mended.
    fn check_standard(&mut self, entry: L2Entry, host: HostOffset, repair: Repair) -> Option<L2Entry> {
        let g = self.meta.geometry;
        if entry.bitmap & entry.bitmap >> 32 != 0 {
            // Which of the two is true nobody knows, so that stays.
            self.corruption(&format!(
                "ERROR offset={:x}: Allocated cluster has corrupted subcluster allocation bitmap",
                host.0
            ));
        }
        if g.within(host.0) == 0 {
            return None;
        }
        if holds_data(entry, g) {
            let text = format!(
                "ERROR offset={:x}: Data cluster is not properly aligned; L2 entry corrupted.",
                host.0
            );
            self.corruption(&text);
            return None;
        }
        let verb = if repair.mends_errors() { "Repairing" } else { "ERROR" };
        let text = format!(
            "{verb} offset={:x}: Preallocated cluster is not properly aligned; L2 entry corrupted.",
            host.0
        );
        self.corruption(&text);
        // Without its cluster it says the same: subclusters that are not zero come from the backing file.
        let mended =
            if g.extended_l2 { L2Entry { descriptor: 0, ..entry } } else { L2Entry::zero(None, 0, g) };
        repair.mends_errors().then_some(mended)
    }

    fn walk_refblocks(&mut self, repair: Repair) -> Result<()> {
        let g = self.meta.geometry;
        for index in 0..self.meta.reftable.len() {
            let value = self.meta.reftable[index];
            let at = value & REFTABLE_OFFSET;
            if value & !REFTABLE_OFFSET != 0 {
                self.corruption(&format!("ERROR refcount table entry {index} has reserved bits set"));
                self.rebuild = true;
                continue;
            }
            if g.within(at) != 0 {
                self.corruption(&format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
                ));
                self.rebuild = true;
                continue;
            }
            if at == 0 {
                continue;
            }
            if at >> g.cluster_bits >= self.counts.len() {
                self.refblock_outside(index, at, repair)?;
                continue;
            }
            self.refer(at, g.cluster_size())?;
            let references = self.counts.get(ClusterIndex(at >> g.cluster_bits));
            if references != 1 {
                self.corruption(&format!("ERROR refcount block {index} refcount={references}"));
                self.rebuild = true;
            }
        }
        Ok(())
    }

    fn refblock_outside(&mut self, index: usize, at: u64, repair: Repair) -> Result<()> {
        let g = self.meta.geometry;
        let verb = if repair.mends_errors() { "Repairing" } else { "ERROR" };
        (self.report)(&format!("{verb} refcount block {index} is outside image"));
        if !repair.mends_errors() {
            self.result.corruptions += 1;
            return Ok(());
        }
        let end = at.checked_add(g.cluster_size()).filter(|end| *end <= i64::MAX as u64);
        let resized = match end {
            Some(end) => self.meta.caches.file().truncate(Resize::to(end)),
            None => Err(block::Error::from_errno(nix::libc::EINVAL)),
        };
        match resized {
            Ok(()) => {
                self.file_len = self.meta.caches.file().len()?;
                self.result.corruptions_fixed += 1;
                self.refer(at, g.cluster_size())
            }
            Err(e) => {
                self.rebuild = true;
                self.corruption(&format!("ERROR could not resize image: {}", e.strerror()));
                Ok(())
            }
        }
    }

    /// Counts the bitmap directory, the tables and the bitmaps.
    fn walk_bitmaps(&mut self) -> Result<()> {
        let Some(directory) = self.meta.header.extensions.bitmaps else { return Ok(()) };
        self.refer(directory.offset, directory.size)?;
        for table in self.meta.bitmap_tables()? {
            self.refer(table.offset, u64::from(table.count) * 8)?;
            let entries = read_numbers(self.meta.caches.file(), table.offset, table.count.into())?;
            for value in entries.into_iter().map(|v| v & entry::OFFSET).filter(|v| *v != 0) {
                self.refer(value, self.meta.geometry.cluster_size())?;
            }
        }
        Ok(())
    }
}

fn holds_data(entry: L2Entry, g: Geometry) -> bool {
    if g.extended_l2 { entry.any_data() } else { entry.descriptor & entry::ZERO == 0 }
}
