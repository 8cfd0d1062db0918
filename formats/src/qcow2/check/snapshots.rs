//! The snapshot table: read in spite of what is wrong with it, and written anew where that was asked for.

use super::Checker;
use crate::qcow2::header::{MAX_SNAPSHOTS, Version};
use crate::qcow2::snapshot::{Excess, SnapshotTable, read_table};
use block::check::CheckResult;
use block::tool::program_name;
use block::{Error, Result};

/// What is wrong with the table.
#[derive(Debug, Default)]
pub(super) struct TableCheck {
    /// What counts in the result of the whole check.
    pub(super) result: CheckResult,
    /// Entries that stay are not as they ought to be. Without any, fewer entries are all there is to mend.
    altered: bool,
}

impl Checker<'_> {
    /// Reads the table and counts what is wrong with it.
    pub(super) fn check_snapshot_table(&mut self) -> Result<TableCheck> {
        let mut found = TableCheck::default();
        if self.meta.snapshots_unread {
            self.read_snapshot_table(&mut found)?;
            self.meta.snapshots_unread = false;
        }
        if self.meta.header.version >= Version::V3 {
            for (index, _) in
                self.meta.snapshots.iter().enumerate().filter(|(_, snapshot)| snapshot.disk_size.is_none())
            {
                let verb = if self.repair.mends_errors() { "Repairing" } else { "ERROR" };
                (self.report)(&format!("{verb} snapshot table entry {index} is incomplete"));
                found.result.corruptions += 1;
                found.altered = true;
            }
        }
        Ok(found)
    }

    /// Reads it, and counts what had to be left out.
    fn read_snapshot_table(&mut self, check: &mut TableCheck) -> Result<()> {
        let mut table = self.meta.header.snapshots;
        if let Some(over) = table.count.checked_sub(MAX_SNAPSHOTS).filter(|over| *over > 0) {
            if !self.repair.mends_errors() {
                (self.report)(&format!("{}: ERROR snapshot table too large", program_name()));
                (self.report)(&format!(
                    "You can force-remove all {over} overhanging snapshots with qemu-img check -r all"
                ));
                return Err(Error::from_errno(nix::libc::EFBIG));
            }
            (self.report)(&format!("Discarding {over} overhanging snapshots"));
            table.count = MAX_SNAPSHOTS;
            check.result.corruptions += u64::from(over);
        }
        let excess = match self.repair.mends_errors() {
            true => Excess::Discard(self.report),
            false => Excess::Refuse,
        };
        let read = read_table(self.meta.caches.file(), table, excess);
        let found: SnapshotTable = read.inspect_err(|e| {
            (self.report)(&format!("{}: ERROR failed to read the snapshot table: {e}", program_name()));
            e.hint().into_iter().for_each(|hint| (self.report)(hint));
        })?;
        check.result.corruptions += found.overhanging + found.shortened;
        check.altered |= found.shortened > 0;
        self.meta.snapshots = found.snapshots;
        self.meta.snapshot_bytes = found.bytes;
        Ok(())
    }

    /// Writes the table anew, or only its length, if there was anything wrong with it and that may be mended.
    pub(super) fn mend_snapshot_table(&mut self, found: &mut TableCheck) -> Result<()> {
        if found.result.corruptions == 0 || !self.repair.mends_errors() {
            return Ok(());
        }
        found.result.corruptions_fixed = std::mem::take(&mut found.result.corruptions);
        if !found.altered {
            return self.meta.shorten_snapshot_table();
        }
        let size = self.meta.header.size;
        let mut all = self.meta.snapshots.clone();
        all.iter_mut().for_each(|snapshot| snapshot.disk_size = snapshot.disk_size.or(Some(size)));
        self.meta.write_snapshot_table(all)
    }
}
