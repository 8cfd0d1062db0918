//! L2 entries.

use super::header::Geometry;
use crate::mapped::HostOffset;

/// The bit of a compressed cluster's entry; the length is in the bits below it.
const COMPRESSED: u64 = 1 << 63;

/// What an L2 entry says about its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Not in this image.
    Absent,
    /// Stored here.
    Stored(HostOffset),
    /// Compressed in so many bytes.
    Compressed(HostOffset, u64),
}

impl Entry {
    /// The entry in its stored form.
    pub(super) fn parse(raw: u64, g: Geometry) -> Self {
        let place = 63 - u32::from(g.cluster_bits);
        match raw {
            0 => Entry::Absent,
            raw if raw & COMPRESSED != 0 => {
                let len = raw >> place & (g.cluster_size() - 1);
                Entry::Compressed(HostOffset(raw & ((1 << place) - 1)), len)
            }
            raw => Entry::Stored(HostOffset(raw)),
        }
    }

    /// The entry of a cluster so many behind this one's, where the two are in one run; compressed clusters stand alone.
    pub(super) fn onwards(self, clusters: u64, g: Geometry) -> Option<Self> {
        match self {
            Entry::Absent => Some(Entry::Absent),
            Entry::Stored(host) => Some(Entry::Stored(host.plus(clusters << g.cluster_bits))),
            Entry::Compressed(..) => None,
        }
    }

    /// What is stored for it; `None` for a place or length that an entry cannot express.
    pub(super) fn to_raw(self, g: Geometry) -> Option<u64> {
        let place = 63 - u32::from(g.cluster_bits);
        match self {
            Entry::Absent => Some(0),
            Entry::Stored(at) => Some(at.0).filter(|raw| raw & COMPRESSED == 0),
            Entry::Compressed(at, len) => {
                let fits = at.0 < 1 << place && len < g.cluster_size();
                fits.then_some(COMPRESSED | len << place | at.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_what_does_not_fit_has_none() {
        let g = Geometry { cluster_bits: 12, l2_bits: 9 };
        for entry in [
            Entry::Absent,
            Entry::Stored(HostOffset(0x5000)),
            Entry::Compressed(HostOffset(0x2200), 21),
            Entry::Compressed(HostOffset((1 << 51) - 1), 4095),
        ] {
            assert_eq!(Entry::parse(entry.to_raw(g).unwrap(), g), entry);
        }
        assert_eq!(Entry::Compressed(HostOffset(0x2200), 21).to_raw(g), Some(0x80a8_0000_0000_2200));
        assert_eq!(Entry::Compressed(HostOffset(1 << 51), 21).to_raw(g), None);
        assert_eq!(Entry::Compressed(HostOffset(0), 4096).to_raw(g), None);
        assert_eq!(Entry::Stored(HostOffset(1 << 63)).to_raw(g), None);
    }
}
