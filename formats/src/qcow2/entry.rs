//! L1 and L2 table entries: bits to meaning and back (specification, "Cluster mapping" and "Extended L2 Entries").

use super::geometry::{Geometry, SUBCLUSTERS};
use crate::mapped::HostOffset;

/// The refcount of what the entry points at is exactly one.
pub(super) const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes.
pub(super) const ZERO: u64 = 1;
/// The host offset of an L1 entry or a standard L2 entry.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Reserved bits of an L1 entry.
pub(super) const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Reserved bits of a standard L2 entry.
pub(super) const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// All subclusters in the lower (allocated) half of a bitmap.
const ALL: u64 = (1 << SUBCLUSTERS) - 1;

/// An L2 entry as stored: the descriptor and, with extended entries, the subcluster bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct L2Entry {
    /// The cluster descriptor.
    pub(super) descriptor: u64,
    /// The subcluster bitmap; 0 in images without extended entries.
    pub(super) bitmap: u64,
}

/// What a cluster's descriptor says about its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    /// No host cluster.
    None,
    /// A host cluster.
    Standard(HostOffset),
    /// Compressed data.
    Compressed(CompressedCluster),
}

/// Where compressed data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CompressedCluster {
    /// First byte.
    pub(super) at: HostOffset,
    /// The most bytes it can take: to the end of its last 512-byte sector.
    pub(super) len: u64,
}

/// What a run of subclusters is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubKind {
    /// Not in this image.
    Absent,
    /// Reads as zeroes.
    Zero,
    /// Stored.
    Data,
    /// Stored compressed (whole clusters only).
    Compressed,
    /// Both allocated and zero, or data without a place: contradicts the specification.
    Invalid,
}

impl L2Entry {
    /// An entry for data at `host`, all subclusters stored.
    pub(super) fn data(host: HostOffset, geometry: Geometry) -> Self {
        L2Entry { descriptor: host.0 | COPIED, bitmap: if geometry.extended_l2 { ALL } else { 0 } }
    }

    /// An entry for compressed data of `len` bytes at `at`.
    pub(super) fn compressed(at: HostOffset, len: u64, geometry: Geometry) -> Self {
        let shift = compressed_shift(geometry);
        let sectors = (at.0 + len - 1) / 512 - at.0 / 512;
        L2Entry { descriptor: at.0 | COMPRESSED | (sectors << shift), bitmap: 0 }
    }

    /// An entry that reads as zeroes, keeping the host cluster of `keep` if there is one.
    pub(super) fn zero(keep: Option<HostOffset>, copied: u64, geometry: Geometry) -> Self {
        let place = keep.map_or(0, |host| host.0 | copied);
        if geometry.extended_l2 {
            L2Entry { descriptor: place, bitmap: ALL << SUBCLUSTERS }
        } else {
            L2Entry { descriptor: place | ZERO, bitmap: 0 }
        }
    }

    /// Where the cluster is. In an external data file, offset 0 is a place if the copied flag is set.
    #[inline]
    pub(super) fn cluster(self, geometry: Geometry) -> Cluster {
        if self.descriptor & COMPRESSED != 0 {
            return Cluster::Compressed(compressed_place(self.descriptor, geometry));
        }
        match self.descriptor & OFFSET {
            0 if !geometry.data_file || self.descriptor & COPIED == 0 => Cluster::None,
            host => Cluster::Standard(HostOffset(host)),
        }
    }

    /// The host cluster of a standard entry.
    #[inline]
    pub(super) fn host(self, geometry: Geometry) -> Option<HostOffset> {
        match self.cluster(geometry) {
            Cluster::Standard(host) => Some(host),
            _ => None,
        }
    }

    /// Whether a standard cluster may be written in place.
    #[inline]
    pub(super) fn is_copied(self) -> bool {
        self.descriptor & COPIED != 0
    }

    /// Whether nothing is stored and nothing is said.
    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self == L2Entry::default()
    }

    /// Whether any subcluster contradicts the specification.
    #[inline]
    pub(super) fn is_invalid(self, geometry: Geometry) -> bool {
        if !geometry.extended_l2 {
            return false;
        }
        match self.cluster(geometry) {
            // Its bitmap is ignored.
            Cluster::Compressed(_) => false,
            Cluster::None => self.any_data(),
            Cluster::Standard(_) => self.bitmap & self.bitmap >> SUBCLUSTERS & ALL != 0,
        }
    }

    /// What subcluster `index` is (0 without extended entries).
    #[inline]
    pub(super) fn kind(self, index: u32, geometry: Geometry) -> SubKind {
        let cluster = self.cluster(geometry);
        if let Cluster::Compressed(_) = cluster {
            return SubKind::Compressed;
        }
        let placed = cluster != Cluster::None;
        if !geometry.extended_l2 {
            return match (self.descriptor & ZERO != 0, placed) {
                (true, _) => SubKind::Zero,
                (false, true) => SubKind::Data,
                (false, false) => SubKind::Absent,
            };
        }
        match (self.bitmap >> index & 1 != 0, self.bitmap >> (index + SUBCLUSTERS) & 1 != 0) {
            (true, true) => SubKind::Invalid,
            (true, false) if placed => SubKind::Data,
            (true, false) => SubKind::Invalid,
            (false, true) => SubKind::Zero,
            (false, false) => SubKind::Absent,
        }
    }

    /// Marks subclusters `range` as stored.
    pub(super) fn set_data(&mut self, range: std::ops::Range<u32>) {
        let mask = mask(range);
        self.bitmap = (self.bitmap | mask) & !(mask << SUBCLUSTERS);
    }

    /// Marks subclusters `range` as zero.
    pub(super) fn set_zero(&mut self, range: std::ops::Range<u32>) {
        let mask = mask(range);
        self.bitmap = (self.bitmap | mask << SUBCLUSTERS) & !mask;
    }

    /// Whether any subcluster is stored.
    #[inline]
    pub(super) fn any_data(self) -> bool {
        self.bitmap & ALL != 0
    }
}

fn mask(range: std::ops::Range<u32>) -> u64 {
    (1u64 << range.end) - (1u64 << range.start)
}

/// The first host offset that is too far for compressed data.
pub(super) fn compressed_limit(geometry: Geometry) -> u64 {
    1 << compressed_shift(geometry)
}

/// Where the sector count begins in a compressed descriptor.
fn compressed_shift(geometry: Geometry) -> u32 {
    62 - (geometry.cluster_bits - 8)
}

fn compressed_place(descriptor: u64, geometry: Geometry) -> CompressedCluster {
    let shift = compressed_shift(geometry);
    let at = descriptor & ((1 << shift) - 1);
    let sectors = (descriptor & !(COPIED | COMPRESSED)) >> shift;
    CompressedCluster { at: HostOffset(at), len: (sectors + 1) * 512 - at % 512 }
}

/// The L2 table an L1 entry points at.
pub(super) fn l2_table(l1_entry: u64) -> Option<HostOffset> {
    match l1_entry & OFFSET {
        0 => None,
        at => Some(HostOffset(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Geometry =
        Geometry { cluster_bits: 16, extended_l2: false, refcount_order: 4, data_file: false };
    const EXTENDED: Geometry = Geometry { extended_l2: true, ..PLAIN };

    #[test]
    fn a_compressed_entry_gives_back_its_place() {
        for (at, len) in [(0x50000, 1), (0x5_0001, 511), (0x5_0001, 512), (0x5_01ff, 65000)] {
            let entry = L2Entry::compressed(HostOffset(at), len, PLAIN);
            let Cluster::Compressed(place) = entry.cluster(PLAIN) else { panic!("{entry:?}") };
            assert_eq!(place.at, HostOffset(at));
            assert!(place.len >= len && place.len < len + 512, "{place:?} {len}");
            assert_eq!((place.at.0 + place.len) % 512, 0);
        }
    }

    #[test]
    fn offset_0_is_a_place_in_a_data_file_only() {
        let entry = L2Entry { descriptor: COPIED, bitmap: 0 };
        assert_eq!(entry.cluster(PLAIN), Cluster::None);
        let external = Geometry { data_file: true, ..PLAIN };
        assert_eq!(entry.cluster(external), Cluster::Standard(HostOffset(0)));
        assert_eq!(L2Entry::default().cluster(external), Cluster::None);
    }

    #[test]
    fn subclusters_have_their_own_kinds() {
        let mut entry = L2Entry { descriptor: 0x50000 | COPIED, bitmap: 0 };
        entry.set_data(0..2);
        entry.set_zero(1..3);
        let kinds: Vec<_> = (0..4).map(|i| entry.kind(i, EXTENDED)).collect();
        assert_eq!(kinds, [SubKind::Data, SubKind::Zero, SubKind::Zero, SubKind::Absent]);
        entry.bitmap |= 1 << 33;
        entry.bitmap |= 1 << 1;
        assert_eq!(entry.kind(1, EXTENDED), SubKind::Invalid);
    }
}
