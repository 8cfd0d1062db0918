//! Compressing apart from storing, so that several clusters are compressed at once and stored in order.

use crate::Result;

/// A format that stores compressed clusters; see [`Driver::compressor`](crate::Driver::compressor).
///
/// # Errors
/// As for [`Driver::write`](crate::Driver::write).
pub trait Compressor {
    /// Bytes of a cluster.
    fn cluster_size(&self) -> u64;

    /// Compresses one cluster, in which zeroes stand behind the end of the image; `None` when that saves nothing. Changes
    /// nothing.
    fn compress(&self, cluster: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Stores what [`Compressor::compress`] gave for the cluster at `at`.
    fn store(&self, at: u64, bytes: &[u8]) -> Result<()>;
}

/// Clusters on their way: for each, in order, its compressed bytes where compressing it pays.
#[derive(Debug, Default)]
pub struct Packed {
    /// Bytes of a cluster.
    pub(crate) cluster: usize,
    /// One for each cluster.
    pub(crate) clusters: Vec<Option<Vec<u8>>>,
}

impl Packed {
    /// The part for clusters from byte `at` on.
    pub(crate) fn from(&self, at: usize) -> &[Option<Vec<u8>>] {
        self.clusters.get(at / self.cluster.max(1)..).unwrap_or_default()
    }
}
