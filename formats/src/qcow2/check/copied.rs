//! The copied flags of the active tables: set exactly where the refcount is one.

use super::Checker;
use super::blocks::Blocks;
use super::runs::{self, Run};
use crate::mapped::HostOffset;
use crate::qcow2::entry::{self, COPIED, L2Entry};
use crate::qcow2::meta::{L2Entries, write_l2_entry};
use block::check::Repair;
use block::{Event, Result};

impl Checker<'_> {
    /// Checks every flag, mending those that are wrong where that is safe.
    pub(super) fn check_copied(&mut self) -> Result<()> {
        let clean = self.result.check_errors == 0 && self.result.corruptions == 0 && self.result.leaks == 0;
        let mend = self.repair.mends_errors() || self.repair == Repair::Leaks && clean;
        let mut blocks = Blocks::default();
        for index in 0..self.meta.l1.len() {
            let value = self.meta.l1[index];
            let Some(table) = entry::l2_table(value) else { continue };
            let Ok(refcount) = self.meta.refcount(self.meta.geometry.index(table)) else { continue };
            if let Some(right) = corrected(value, refcount) {
                let text = format!(
                    "OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={value:x} refcount={refcount}"
                );
                if self.flag_is_wrong(&text, mend) {
                    self.meta.l1[index] = right;
                    let at = HostOffset(self.meta.header.l1.offset).plus(index as u64 * 8);
                    self.meta.caches.write_pointer(at, &right.to_be_bytes(), Event("l1_update"))?;
                }
            }
            self.check_copied_in(table, mend, &mut blocks)?;
        }
        Ok(())
    }

    fn check_copied_in(&mut self, table: HostOffset, mend: bool, blocks: &mut Blocks) -> Result<()> {
        let g = self.meta.geometry;
        let size = g.l2_entry_len();
        let mut bytes = self.load_table(table)?;
        let (mut dirty, mut done) = (false, 0);
        while done < bytes.len() {
            if let Some(run) = self.first_run(&bytes[done..]).filter(|run| self.is_right(*run)) {
                done += run.count * runs::ENTRY;
                continue;
            }
            let entry = L2Entries::new(&bytes[done..], g.extended_l2).next().unwrap_or_default();
            if let Some(mended) = self.check_copied_of(entry, mend, blocks) {
                write_l2_entry(&mut bytes[done..], mended, g.extended_l2);
                dirty = true;
            }
            done += size;
        }
        if dirty {
            self.meta.caches.write_fresh(table, &bytes, Event("l2_update"))?;
        }
        self.table = bytes;
        Ok(())
    }

    /// Whether the clusters of a run have the refcounts that their copied flags claim.
    fn is_right(&self, run: Run) -> bool {
        let first = self.meta.geometry.index(run.host).0;
        self.agrees && self.counts.all_once(first..first + run.count as u64)
    }

    /// Checks the flag of one entry; gives the entry to put in its place, if that is to be mended.
    fn check_copied_of(&mut self, mut entry: L2Entry, mend: bool, blocks: &mut Blocks) -> Option<L2Entry> {
        let g = self.meta.geometry;
        let host = entry.host(g)?;
        let refcount = match self.meta.external {
            true => Ok(1),
            false => blocks.refcount(self.meta, g.index(host)),
        };
        let refcount = refcount.ok()?;
        let right = corrected(entry.descriptor, refcount)?;
        let text = format!("OFLAG_COPIED data cluster: l2_entry={:x} refcount={refcount}", entry.descriptor);
        self.flag_is_wrong(&text, mend).then(|| {
            entry.descriptor = right;
            entry
        })
    }

    /// Reports a wrong flag; whether it is to be mended.
    fn flag_is_wrong(&mut self, text: &str, mend: bool) -> bool {
        (self.report)(&format!("{} {text}", if mend { "Repairing" } else { "ERROR" }));
        if mend {
            self.result.corruptions_fixed += 1;
        } else {
            self.result.corruptions += 1;
        }
        mend
    }
}

/// The entry with the flag as it ought to be, if it is not.
#[inline]
fn corrected(entry: u64, refcount: u64) -> Option<u64> {
    let right = if refcount == 1 { entry | COPIED } else { entry & !COPIED };
    (right != entry).then_some(right)
}
