//! The consistency check: counts every reference there is (`walk`), compares with the refcounts (`compare`), rebuilds
//! them where they are beyond repair (`rebuild`), and looks at the copied flags (`copied`).
//!
//! Works on a quiesced image whose caches were written back; tables are read past the L2 cache, which is emptied at
//! the end. Lines of text and their order are those of QEMU's tools.

mod blocks;
mod compare;
mod copied;
mod counts;
mod rebuild;
mod runs;
mod snapshots;
mod walk;

use super::features::Incompatible;
use super::image::Qcow2;
use super::meta::Meta;
use super::order::Tables;
use crate::mapped::HostOffset;
use block::check::{Check, CheckResult, Clusters, Repair};
use block::{Error, Quiesced, Result};
use counts::Counts;
use runs::Run;

/// A check under way.
pub(super) struct Checker<'a> {
    meta: &'a mut Meta,
    counts: Counts,
    result: CheckResult,
    repair: Repair,
    /// The refcounts cannot be mended one by one.
    rebuild: bool,
    /// The last comparison found nothing: what was counted is what the image says.
    agrees: bool,
    /// The L2 table looked at, kept for the next one.
    table: Vec<u8>,
    /// Length of the file when counting began.
    file_len: u64,
    report: &'a mut dyn FnMut(&str),
}

impl Check for Qcow2 {
    fn check(&self, _q: &Quiesced<'_>, repair: Repair, report: &mut dyn FnMut(&str)) -> Result<CheckResult> {
        self.check_quiesced(repair, report)
    }
}

impl Qcow2 {
    /// The check itself, for callers that know that nothing else is in flight.
    pub(super) fn check_quiesced(&self, repair: Repair, report: &mut dyn FnMut(&str)) -> Result<CheckResult> {
        let mut meta = self.lock();
        if meta.writable {
            meta.release_pending()?;
            meta.caches.write_all_back()?;
        }
        let checked = Checker::run(&mut meta, repair, report);
        meta.caches.write_all_back()?;
        meta.caches.tables(Tables::L2).clear();
        let result = checked?;
        if repair != Repair::No && result.check_errors == 0 && result.corruptions == 0 {
            meta.mark_sound()?;
        }
        Ok(result)
    }
}

impl Meta {
    /// Clears the dirty and the corrupt bit.
    fn mark_sound(&mut self) -> Result<()> {
        let marks = Incompatible::DIRTY | Incompatible::CORRUPT;
        if !self.header.incompatible.intersects(marks) {
            return Ok(());
        }
        self.caches.set_lazy(false);
        self.caches.write_all_back()?;
        self.header.incompatible -= marks;
        self.write_incompatible()
    }
}

impl<'a> Checker<'a> {
    fn run(meta: &'a mut Meta, repair: Repair, report: &'a mut dyn FnMut(&str)) -> Result<CheckResult> {
        let clusters = Clusters { total: meta.guest_clusters(), ..Clusters::default() };
        let result = CheckResult { clusters, ..CheckResult::default() };
        let counts = Counts::default();
        let mut checker = Checker {
            meta,
            counts,
            result,
            repair,
            rebuild: false,
            agrees: false,
            table: Vec::new(),
            file_len: 0,
            report,
        };
        let mut table = checker.check_snapshot_table()?;
        checker.check_refcounts()?;
        checker.check_copied()?;
        checker.mend_snapshot_table(&mut table)?;
        checker.result.corruptions += table.result.corruptions;
        checker.result.corruptions_fixed += table.result.corruptions_fixed;
        Ok(checker.result)
    }

    /// Reads an L2 table into the memory of the one before.
    fn load_table(&mut self, at: HostOffset) -> Result<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.table);
        bytes.resize(self.meta.geometry.cluster_len(), 0);
        self.meta.caches.file().read_exact(at.0, &mut bytes)?;
        Ok(bytes)
    }

    /// The run that the table in memory `table` begins with, from a table without subclusters whose clusters are counted.
    fn first_run(&self, table: &[u8]) -> Option<Run> {
        let g = self.meta.geometry;
        if g.extended_l2 || self.meta.external { None } else { runs::first(table, g, self.file_len) }
    }

    /// One finding that stays.
    fn corruption(&mut self, text: &str) {
        self.result.corruptions += 1;
        (self.report)(text);
    }

    /// Counts, compares and mends.
    fn check_refcounts(&mut self) -> Result<()> {
        self.count_references(self.repair)?;
        let before = self.result;
        let mut end = self.compare(Repair::No)?;
        if self.rebuild && self.repair.mends_errors() {
            end = self.rebuild_and_compare()?;
        } else if self.repair != Repair::No {
            if self.rebuild {
                (self.report)("ERROR need to rebuild refcount structures");
                return Err(Error::from_errno(nix::libc::EIO));
            }
            if self.result.leaks > 0 || self.result.corruptions > 0 {
                self.result = CheckResult { check_errors: self.result.check_errors, ..before };
                end = self.compare(self.repair)?;
            }
        }
        self.result.image_end_offset = end << self.meta.geometry.cluster_bits;
        Ok(())
    }

    fn rebuild_and_compare(&mut self) -> Result<u64> {
        (self.report)("Rebuilding refcount structure");
        let old = self.result;
        self.rebuild_refcounts()?;
        (self.result.corruptions, self.result.leaks) = (0, 0);
        self.rebuild = false;
        let clusters = self.result.clusters;
        self.count_references(Repair::No)?;
        self.result.clusters = clusters;
        let fixed = (self.result.corruptions_fixed, self.result.leaks_fixed);
        // The old refcount structures are what leaks now; they do not count as found.
        let end = self.compare(Repair::Leaks)?;
        (self.result.corruptions_fixed, self.result.leaks_fixed) = fixed;
        if self.rebuild {
            (self.report)("ERROR rebuilt refcount structure is still broken");
        }
        self.result.corruptions_fixed += old.corruptions.saturating_sub(self.result.corruptions);
        self.result.leaks_fixed += old.leaks.saturating_sub(self.result.leaks);
        Ok(end)
    }
}
