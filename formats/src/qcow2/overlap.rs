//! Metadata that must not be written over: before anything is written, the place is compared with what is known to hold
//! metadata. An overlap means that some pointer in the image is wrong; the image is then marked as corrupt.

use super::entry;
use super::geometry::Geometry;
use super::header::{MAX_L1_BYTES, check_table};
use super::meta::Meta;
use super::open::read_numbers;
use super::refcount::REFTABLE_OFFSET;
use crate::mapped::HostOffset;
use block::{Error, Result};
use secret::options::OWN;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::ops::Range;

bitflags::bitflags! {
    /// Kinds of metadata.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Overlap: u16 {
        /// The header.
        const MAIN_HEADER = 1 << 0;
        /// The active L1 table.
        const ACTIVE_L1 = 1 << 1;
        /// The active L2 tables.
        const ACTIVE_L2 = 1 << 2;
        /// Refcount blocks.
        const REFCOUNT_BLOCK = 1 << 3;
        /// The refcount table.
        const REFCOUNT_TABLE = 1 << 4;
        /// The snapshot table.
        const SNAPSHOT_TABLE = 1 << 5;
        /// The L1 tables of snapshots.
        const INACTIVE_L1 = 1 << 6;
        /// The L2 tables of snapshots.
        const INACTIVE_L2 = 1 << 7;
        /// The directory of the bitmaps.
        const BITMAP_DIRECTORY = 1 << 8;
    }
}

/// Each kind with its option and how messages call it.
const KINDS: [(Overlap, &str, &str); 9] = [
    (Overlap::MAIN_HEADER, "main-header", "qcow2_header"),
    (Overlap::ACTIVE_L1, "active-l1", "active L1 table"),
    (Overlap::ACTIVE_L2, "active-l2", "active L2 table"),
    (Overlap::REFCOUNT_BLOCK, "refcount-block", "refcount block"),
    (Overlap::REFCOUNT_TABLE, "refcount-table", "refcount table"),
    (Overlap::SNAPSHOT_TABLE, "snapshot-table", "snapshot table"),
    (Overlap::INACTIVE_L1, "inactive-l1", "inactive L1 table"),
    (Overlap::INACTIVE_L2, "inactive-l2", "inactive L2 table"),
    (Overlap::BITMAP_DIRECTORY, "bitmap-directory", "bitmap directory"),
];

impl Overlap {
    /// What costs next to nothing to compare with.
    const CONSTANT: Overlap = Overlap::MAIN_HEADER
        .union(Overlap::ACTIVE_L1)
        .union(Overlap::REFCOUNT_TABLE)
        .union(Overlap::SNAPSHOT_TABLE)
        .union(Overlap::BITMAP_DIRECTORY);
    /// What is in memory anyway.
    const CACHED: Overlap = Overlap::CONSTANT
        .union(Overlap::ACTIVE_L2)
        .union(Overlap::REFCOUNT_BLOCK)
        .union(Overlap::INACTIVE_L1);

    /// What the options ask for: a template, or a template and single kinds.
    ///
    /// # Errors
    /// An unknown template or kind.
    pub(super) fn from_options(given: Option<&Value>) -> Result<Self> {
        match given {
            None => Ok(Overlap::CACHED),
            Some(Value::Object(kinds)) => Self::from_kinds(kinds),
            Some(name) => Self::template(name),
        }
    }

    fn template(name: &Value) -> Result<Self> {
        match name.as_str() {
            Some("none") => Ok(Overlap::empty()),
            Some("constant") => Ok(Overlap::CONSTANT),
            Some("cached") => Ok(Overlap::CACHED),
            Some("all") => Ok(Overlap::all()),
            _ => {
                let name = text(name);
                Err(Error::invalid(format!(
                    "Unsupported value '{name}' for qcow2 option 'overlap-check'. Allowed are any of the following: \
                     none, constant, cached, all"
                )))
            }
        }
    }

    fn from_kinds(kinds: &Map<String, Value>) -> Result<Self> {
        let (short, long) = (kinds.get(OWN), kinds.get("template"));
        if let (Some(short), Some(long)) = (short, long)
            && short != long
        {
            return Err(Error::invalid(format!(
                "Conflicting values for qcow2 options 'overlap-check' ('{}') and 'overlap-check.template' ('{}')",
                text(short),
                text(long)
            )));
        }
        let mut found = short.or(long).map_or(Ok(Overlap::CACHED), Self::template)?;
        for (key, value) in kinds.iter().filter(|(key, _)| ![OWN, "template"].contains(&key.as_str())) {
            let Some((kind, ..)) = KINDS.iter().find(|(_, name, _)| name == key) else {
                let text = format!("Block format 'qcow2' does not support the option 'overlap-check.{key}'");
                return Err(Error::invalid(text));
            };
            let on = match value {
                Value::Bool(on) => *on,
                Value::String(text) if text == "on" => true,
                Value::String(text) if text == "off" => false,
                _ => {
                    let text = format!("Parameter 'overlap-check.{key}' expects 'on' or 'off'");
                    return Err(Error::invalid(text));
                }
            };
            found.set(*kind, on);
        }
        Ok(found)
    }

    /// How messages call the first kind.
    fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| self.contains(*kind)).map_or("", |(.., name)| name)
    }
}

/// A value as the user wrote it.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Clusters that hold metadata of the kinds of which there may be many.
type Clusters = HashMap<u64, Overlap>;

/// What to compare with.
#[derive(Debug)]
pub(super) struct Guard {
    checked: Overlap,
    /// Made when it is first needed.
    clusters: Option<Clusters>,
}

impl Guard {
    /// A guard for these kinds.
    pub(super) fn new(checked: Overlap) -> Self {
        Guard { checked, clusters: None }
    }

    /// Forgets what it knows: tables moved.
    pub(super) fn forget(&mut self) {
        self.clusters = None;
    }

    /// Notes that a table is in a cluster.
    pub(super) fn add(&mut self, cluster: u64, kind: Overlap) {
        if let Some(clusters) = &mut self.clusters {
            *clusters.entry(cluster).or_default() |= kind;
        }
    }

    /// Notes that no table of this kind is in a cluster any more.
    pub(super) fn remove(&mut self, cluster: u64, kind: Overlap) {
        if let Some(found) = self.clusters.as_mut().and_then(|clusters| clusters.get_mut(&cluster)) {
            *found -= kind;
        }
    }
}

fn touches(at: u64, len: u64, table: Range<u64>) -> bool {
    !table.is_empty() && at < table.end && table.start < at + len
}

impl Meta {
    /// Refuses to write `len` bytes at `at` where there is metadata of other kinds than `own`.
    ///
    /// # Errors
    /// The image contradicts itself and is marked as corrupt, or the file's.
    pub(super) fn guard(&mut self, at: HostOffset, len: u64, own: Overlap) -> Result<()> {
        let checked = self.guard.checked - own;
        if checked.is_empty() || len == 0 {
            return Ok(());
        }
        let found = self.tables_at(at.0, len) & checked;
        let found = if found.is_empty() { self.clusters_at(at.0, len)? & checked } else { found };
        if found.is_empty() {
            return Ok(());
        }
        let text = format!("Preventing invalid write on metadata (overlaps with {})", found.name());
        Err(self.corrupt(text))
    }

    /// The kinds of which there is one table, that `len` bytes at `at` touch.
    fn tables_at(&self, at: u64, len: u64) -> Overlap {
        let (g, header) = (self.geometry, &self.header);
        let directory = header.extensions.bitmaps.map_or(0..0, |d| d.offset..d.offset + d.size);
        let snapshots = header.snapshots.offset;
        let tables = [
            (Overlap::MAIN_HEADER, 0..g.cluster_size()),
            (Overlap::ACTIVE_L1, header.l1.offset..header.l1.offset + u64::from(header.l1.count) * 8),
            (
                Overlap::REFCOUNT_TABLE,
                header.reftable.offset
                    ..header.reftable.offset + (u64::from(header.reftable.count) << g.cluster_bits),
            ),
            (Overlap::SNAPSHOT_TABLE, snapshots..snapshots + self.snapshot_bytes),
            (Overlap::BITMAP_DIRECTORY, directory),
        ];
        let hit = tables.into_iter().filter(|(_, table)| touches(at, len, table.clone()));
        hit.fold(Overlap::empty(), |all, (kind, _)| all | kind)
    }

    fn clusters_at(&mut self, at: u64, len: u64) -> Result<Overlap> {
        let bits = self.geometry.cluster_bits;
        if self.guard.clusters.is_none() {
            self.guard.clusters = Some(self.collect_clusters()?);
        }
        let clusters = self.guard.clusters.as_ref();
        let mut touched = at >> bits..=(at + len - 1) >> bits;
        let hit = clusters.and_then(|all| touched.find_map(|c| all.get(&c).filter(|kind| !kind.is_empty())));
        Ok(hit.copied().unwrap_or_default())
    }

    fn collect_clusters(&self) -> Result<Clusters> {
        let g = self.geometry;
        let mut all = Clusters::new();
        let mut add = |offset: u64, kind: Overlap| *all.entry(offset >> g.cluster_bits).or_default() |= kind;
        let l2_tables = |l1: &[u64]| l1.iter().filter_map(|e| entry::l2_table(*e)).collect::<Vec<_>>();
        l2_tables(&self.l1).into_iter().for_each(|at| add(at.0, Overlap::ACTIVE_L2));
        let blocks = self.reftable.iter().map(|value| value & REFTABLE_OFFSET).filter(|at| *at != 0);
        blocks.for_each(|at| add(at, Overlap::REFCOUNT_BLOCK));
        for snapshot in &self.snapshots {
            let bytes = u64::from(snapshot.l1_size) * 8;
            if self.guard.checked.contains(Overlap::INACTIVE_L2) {
                check_table(snapshot.l1_offset, bytes, MAX_L1_BYTES, g, "Snapshot L1 table")
                    .map_err(|e| Error::from_errno(e.errno()))?;
                let l1 = read_numbers(self.caches.file(), snapshot.l1_offset, snapshot.l1_size.into())?;
                l2_tables(&l1).into_iter().for_each(|at| add(at.0, Overlap::INACTIVE_L2));
            }
            for offset in cluster_starts(g, snapshot.l1_offset, bytes.min(MAX_L1_BYTES)) {
                add(offset, Overlap::INACTIVE_L1);
            }
        }
        Ok(all)
    }
}

fn cluster_starts(g: Geometry, at: u64, len: u64) -> impl Iterator<Item = u64> {
    (g.round_down(at)..at.saturating_add(len)).step_by(g.cluster_len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn single_kinds_are_set_over_the_template() {
        let parse = |value: Value| Overlap::from_options(Some(&value)).map_err(|e| e.to_string());
        assert_eq!(parse(json!("none")), Ok(Overlap::empty()));
        assert_eq!(parse(json!({"template": "none", "active-l1": "on"})), Ok(Overlap::ACTIVE_L1));
        assert_eq!(parse(json!({"inactive-l2": true})), Ok(Overlap::all()));
        assert!(parse(json!("blubb")).unwrap_err().ends_with("following: none, constant, cached, all"));
        assert!(parse(json!({"l3": true})).is_err());
    }
}
