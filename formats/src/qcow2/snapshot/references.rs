//! Everything an L1 table points at, counted up or down at once, and the copied flags that follow from the counts.
//!
//! Works on the tables in the file: the caller has written the caches back. L2 tables are then written past the cache,
//! which is emptied.

use crate::mapped::{ClusterIndex, HostOffset};
use crate::qcow2::entry::{self, COPIED, Cluster, L2Entry};
use crate::qcow2::meta::{FreedBy, L2Entries, Meta, hex, write_l2_entry};
use crate::qcow2::order::Tables;
use crate::qcow2::refcount::Change;
use block::{Event, Result};
use std::ops::Range;

impl Meta {
    /// Counts one more reference to everything `l1` points at; nothing is counted if that fails.
    ///
    /// # Errors
    /// A table or cluster out of place, a count that cannot grow (`EINVAL`), or the file's.
    pub(in crate::qcow2) fn add_references(&mut self, l1: &[u64]) -> Result<()> {
        let mut done = 0u64;
        let added = self.each_reference(l1, &mut |meta, cluster| {
            meta.change_refcounts(cluster.0..cluster.0 + 1, Change::Up)?;
            done += 1;
            Ok(())
        });
        if added.is_err() {
            let undone = self.each_reference(l1, &mut |meta, cluster| {
                if done > 0 {
                    done -= 1;
                    meta.change_refcounts(cluster.0..cluster.0 + 1, Change::Down)?;
                }
                Ok(())
            });
            // What cannot be taken back is leaked; why it could not be counted is what matters.
            drop(undone);
        }
        added
    }

    /// Counts one reference less to everything `l1` points at.
    ///
    /// # Errors
    /// As for [`Meta::add_references`].
    pub(in crate::qcow2) fn drop_references(&mut self, l1: &[u64], why: FreedBy) -> Result<()> {
        self.each_reference(l1, &mut |meta, cluster| {
            meta.change_refcounts(cluster.0..cluster.0 + 1, Change::Down)?;
            meta.discard_freed(cluster.0..cluster.0 + 1, why);
            Ok(())
        })
    }

    /// Calls `visit` for every reference that `l1` makes: those of its tables, each followed by the table itself.
    fn each_reference(
        &mut self,
        l1: &[u64],
        visit: &mut dyn FnMut(&mut Meta, ClusterIndex) -> Result<()>,
    ) -> Result<()> {
        let g = self.geometry;
        let mut bytes = vec![0; g.cluster_len()];
        for (index, value) in l1.iter().enumerate() {
            let Some(table) = entry::l2_table(*value) else { continue };
            self.read_l2_table(table, index as u64, &mut bytes)?;
            for (i, entry) in L2Entries::new(&bytes, g.extended_l2).enumerate() {
                for cluster in self.referred(entry, table, i as u64)? {
                    visit(self, ClusterIndex(cluster))?;
                }
            }
            visit(self, g.index(table))?;
        }
        Ok(())
    }

    fn read_l2_table(&mut self, table: HostOffset, l1_index: u64, bytes: &mut [u8]) -> Result<()> {
        if self.geometry.within(table.0) != 0 {
            return Err(
                self.corrupt(format!("L2 table offset {table:#x} unaligned (L1 index: {})", hex(l1_index)))
            );
        }
        self.caches.file().read_exact(table.0, bytes)
    }

    /// The host clusters an entry refers to.
    fn referred(&mut self, entry: L2Entry, table: HostOffset, index: u64) -> Result<Range<u64>> {
        let g = self.geometry;
        match entry.cluster(g) {
            Cluster::Compressed(place) => {
                Ok(place.at.0 >> g.cluster_bits..((place.at.0 + place.len - 1) >> g.cluster_bits) + 1)
            }
            Cluster::Standard(host) if g.within(host.0) != 0 => Err(self.corrupt(format!(
                "Cluster allocation offset {host:#x} unaligned (L2 offset: {table:#x}, L2 index: {})",
                hex(index)
            ))),
            Cluster::Standard(host) if !self.external => Ok(g.index(host).0..g.index(host).0 + 1),
            _ => Ok(0..0),
        }
    }

    /// Sets the copied flags of the active tables to what the refcounts say.
    ///
    /// # Errors
    /// The file's.
    pub(in crate::qcow2) fn refresh_copied(&mut self) -> Result<()> {
        let g = self.geometry;
        self.caches.write_all_back()?;
        self.caches.settle()?;
        self.caches.tables(Tables::L2).clear();
        let mut bytes = vec![0; g.cluster_len()];
        let mut l1_changed = false;
        for index in 0..self.l1.len() {
            let value = self.l1[index];
            let Some(table) = entry::l2_table(value) else { continue };
            self.read_l2_table(table, index as u64, &mut bytes)?;
            if self.refresh_table(&mut bytes)? {
                self.caches.write_fresh(table, &bytes, Event("l2_update"))?;
            }
            let right = flagged(value, self.refcount(g.index(table))?);
            l1_changed |= right != value;
            self.l1[index] = right;
        }
        if l1_changed {
            let bytes: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.caches.write_pointer(HostOffset(self.header.l1.offset), &bytes, Event("l1_update"))?;
        }
        self.caches.settle()
    }

    /// Corrects the flags of one table; whether any was wrong.
    fn refresh_table(&mut self, bytes: &mut [u8]) -> Result<bool> {
        let g = self.geometry;
        let size = if g.extended_l2 { 16 } else { 8 };
        let mut changed = false;
        for at in (0..bytes.len()).step_by(size) {
            let Some(mut entry) = L2Entries::new(&bytes[at..at + size], g.extended_l2).next() else {
                continue;
            };
            let Some(host) = entry.host(g) else { continue };
            let refcount = if self.external { 1 } else { self.refcount(g.index(host))? };
            let right = flagged(entry.descriptor, refcount);
            if right != entry.descriptor {
                entry.descriptor = right;
                write_l2_entry(&mut bytes[at..at + size], entry, g.extended_l2);
                changed = true;
            }
        }
        Ok(changed)
    }
}

fn flagged(entry: u64, refcount: u64) -> u64 {
    if refcount == 1 { entry | COPIED } else { entry & !COPIED }
}
