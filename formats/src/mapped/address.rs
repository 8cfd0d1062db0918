//! The address spaces of a cluster-mapped image: no bare number crosses a function boundary inside such a format.

use std::fmt;

/// A byte offset in the virtual disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestOffset(pub u64);

/// A byte offset in the file that stores the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostOffset(pub u64);

/// The number of a cluster of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterIndex(pub u64);

impl GuestOffset {
    /// `n` bytes further on.
    #[must_use]
    pub fn plus(self, n: u64) -> Self {
        GuestOffset(self.0 + n)
    }
}

impl HostOffset {
    /// `n` bytes further on.
    #[must_use]
    pub fn plus(self, n: u64) -> Self {
        HostOffset(self.0 + n)
    }
}

impl fmt::LowerHex for HostOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl fmt::LowerHex for GuestOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}
