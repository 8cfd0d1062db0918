//! Neighbours in L2 tables that are neighbours in the file too: most tables consist of few such runs, each of which is
//! dealt with as a whole. What is unusual in any way is in no run.

use crate::mapped::HostOffset;
use crate::qcow2::entry::{COMPRESSED, COPIED, L2_RESERVED, OFFSET, ZERO};
use crate::qcow2::geometry::Geometry;

/// Bytes of an entry without subclusters.
pub(super) const ENTRY: usize = 8;

/// Entries for whole clusters with the copied flag, one after the other in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first cluster.
    pub(super) host: HostOffset,
    /// How many entries.
    pub(super) count: usize,
}

/// The run that `table`, a part of an L2 table without subclusters, begins with: as far as it is in the first `file_len`
/// bytes of the file.
pub(super) fn first(table: &[u8], g: Geometry, file_len: u64) -> Option<Run> {
    let first = u64::from_be_bytes(*table.first_chunk()?);
    let host = first & OFFSET;
    let unusual = COMPRESSED | L2_RESERVED | ((g.cluster_size() - 1) & !ZERO);
    if first & COPIED == 0 || first & unusual != 0 || host == 0 {
        return None;
    }
    let room = file_len.min(OFFSET).saturating_sub(host) >> g.cluster_bits;
    let most = usize::try_from(room).unwrap_or(usize::MAX);
    let wanted = (0..).map(|n| first + (n << g.cluster_bits));
    let entries = table.as_chunks::<ENTRY>().0.iter().take(most).zip(wanted);
    let count = entries.take_while(|(entry, wanted)| u64::from_be_bytes(**entry) == *wanted).count();
    (count > 0).then_some(Run { host: HostOffset(host), count })
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: Geometry =
        Geometry { cluster_bits: 16, extended_l2: false, refcount_order: 4, data_file: false };

    fn run(entries: &[u64], file_len: u64) -> Option<(u64, usize)> {
        let table: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        first(&table, G, file_len).map(|run| (run.host.0, run.count))
    }

    #[test]
    fn a_run_ends_where_clusters_do_not_follow_each_other_or_the_file_ends() {
        let entries = [0x50000, 0x60000, 0x70000, 0x90000].map(|at| at | COPIED);
        assert_eq!(run(&entries, 1 << 30), Some((0x50000, 3)));
        assert_eq!(run(&entries, 0x70000), Some((0x50000, 2)));
        assert_eq!(run(&entries, 0x7ffff), Some((0x50000, 2)));
        assert_eq!(run(&entries[3..], 0x90000), None);
        assert_eq!(run(&[0x50000 | COPIED | ZERO, 0x60000 | COPIED | ZERO], 1 << 30), Some((0x50000, 2)));
        assert_eq!(run(&[0x50000 | COPIED, 0x60000 | COPIED | ZERO], 1 << 30), Some((0x50000, 1)));
    }

    #[test]
    fn what_is_unusual_is_in_no_run() {
        for entry in
            [0, COPIED, 0x50000, 0x50200 | COPIED, 0x50000 | COPIED | COMPRESSED, 0x50000 | COPIED | 2]
        {
            assert_eq!(run(&[entry], 1 << 30), None, "{entry:x}");
        }
    }
}
