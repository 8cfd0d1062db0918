//! Internal snapshots: `table` is how they stand in the file, `references` counts what an L1 table points at, and
//! `operations` takes, applies, deletes and shows them.

mod operations;
mod references;
mod table;

pub(super) use table::{Excess, Snapshot, SnapshotTable, read_table};
