//! Sizes that follow from the header: how offsets split into table indices.

use crate::mapped::{ClusterIndex, GuestOffset, HostOffset};

/// Subclusters of a cluster with extended L2 entries.
pub(super) const SUBCLUSTERS: u32 = 32;

/// The sizes of an image's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// log2 of the cluster size.
    pub(super) cluster_bits: u32,
    /// L2 entries have 16 bytes, and clusters 32 subclusters.
    pub(super) extended_l2: bool,
    /// log2 of the width of a reference count, in bits.
    pub(super) refcount_order: u32,
    /// Guest data is in a file of its own, where offset 0 is a place like any other.
    pub(super) data_file: bool,
}

impl Geometry {
    /// Bytes in a cluster.
    #[inline]
    pub(super) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes in a cluster, as a length in memory.
    #[inline]
    pub(super) fn cluster_len(self) -> usize {
        1 << self.cluster_bits
    }

    /// Bytes in an L2 entry.
    #[inline]
    pub(super) fn l2_entry_size(self) -> u64 {
        self.l2_entry_len() as u64
    }

    /// The same, for entries in memory.
    #[inline]
    pub(super) fn l2_entry_len(self) -> usize {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries in an L2 table.
    #[inline]
    pub(super) fn l2_entries(self) -> u64 {
        self.cluster_size() / self.l2_entry_size()
    }

    /// Bytes of the guest's disk that one L2 table describes.
    #[inline]
    pub(super) fn l2_coverage(self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// Subclusters in a cluster: 1 without extended L2 entries.
    #[inline]
    pub(super) fn subclusters(self) -> u32 {
        if self.extended_l2 { SUBCLUSTERS } else { 1 }
    }

    /// Bytes in a subcluster: those of a cluster without extended L2 entries.
    #[inline]
    pub(super) fn subcluster_size(self) -> u64 {
        self.cluster_size() / u64::from(self.subclusters())
    }

    /// Width of a reference count in bits.
    #[inline]
    pub(super) fn refcount_bits(self) -> u32 {
        1 << self.refcount_order
    }

    /// The largest reference count that can be stored.
    #[inline]
    pub(super) fn max_refcount(self) -> u64 {
        if self.refcount_order == 6 { u64::MAX } else { (1 << self.refcount_bits()) - 1 }
    }

    /// Reference counts in a refcount block.
    #[inline]
    pub(super) fn refblock_entries(self) -> u64 {
        self.cluster_size() * 8 / u64::from(self.refcount_bits())
    }

    /// Index of the L1 entry for a guest offset.
    #[inline]
    pub(super) fn l1_index(self, at: GuestOffset) -> u64 {
        at.0 / self.l2_coverage()
    }

    /// Index of the L2 entry for a guest offset, in its table.
    #[inline]
    pub(super) fn l2_index(self, at: GuestOffset) -> u64 {
        (at.0 >> self.cluster_bits) % self.l2_entries()
    }

    /// Index of the subcluster at a guest offset, in its cluster.
    #[inline]
    pub(super) fn subcluster(self, at: GuestOffset) -> u32 {
        u32::try_from(self.within(at.0) / self.subcluster_size()).unwrap_or(0)
    }

    /// What is left of an offset within its cluster.
    #[inline]
    pub(super) fn within(self, at: u64) -> u64 {
        at & (self.cluster_size() - 1)
    }

    /// The start of the cluster an offset is in.
    #[inline]
    pub(super) fn round_down(self, at: u64) -> u64 {
        at & !(self.cluster_size() - 1)
    }

    /// The smallest cluster boundary at or after an offset (below 2^63).
    #[inline]
    pub(super) fn round_up(self, at: u64) -> u64 {
        self.round_down(at + self.cluster_size() - 1)
    }

    /// How many clusters `bytes` take.
    #[inline]
    pub(super) fn clusters(self, bytes: u64) -> u64 {
        self.round_up(bytes) >> self.cluster_bits
    }

    /// The cluster a host offset is in.
    #[inline]
    pub(super) fn index(self, at: HostOffset) -> ClusterIndex {
        ClusterIndex(at.0 >> self.cluster_bits)
    }

    /// Where a cluster of the file starts.
    #[inline]
    pub(super) fn host(self, index: ClusterIndex) -> HostOffset {
        HostOffset(index.0 << self.cluster_bits)
    }

    /// L1 entries for a disk of `size` bytes.
    #[inline]
    pub(super) fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l2_coverage())
    }

    /// Bytes of all L2 tables that a disk of `size` bytes can have.
    pub(super) fn l2_bytes(self, size: u64) -> u64 {
        self.l1_entries(size) << self.cluster_bits
    }
}
