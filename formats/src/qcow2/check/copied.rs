//! The copied flags of the active tables: set exactly where the refcount is one.

use super::Checker;
use super::blocks::Blocks;
use crate::mapped::HostOffset;
use crate::qcow2::entry::{self, COPIED};
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
        let size = if g.extended_l2 { 16 } else { 8 };
        let mut bytes = vec![0; g.cluster_len()];
        self.meta.caches.file().read_exact(table.0, &mut bytes)?;
        let mut dirty = false;
        for i in 0..bytes.len() / size {
            let entry = L2Entries::new(&bytes[i * size..], g.extended_l2).next().unwrap_or_default();
            let (Some(host), mut entry) = (entry.host(g), entry) else { continue };
            let refcount = match self.meta.external {
                true => Ok(1),
                false => blocks.refcount(self.meta, g.index(host)),
            };
            let Ok(refcount) = refcount else { continue };
            let Some(right) = corrected(entry.descriptor, refcount) else { continue };
            let text =
                format!("OFLAG_COPIED data cluster: l2_entry={:x} refcount={refcount}", entry.descriptor);
            if self.flag_is_wrong(&text, mend) {
                entry.descriptor = right;
                write_l2_entry(&mut bytes[i * size..], entry, g.extended_l2);
                dirty = true;
            }
        }
        if dirty { self.meta.caches.write_fresh(table, &bytes, Event("l2_update")) } else { Ok(()) }
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
