//! Compressed clusters as qcow and qcow2 share them: raw deflate with a 4 KiB window.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// log2 of the window: what QEMU writes, and all it reads.
const WINDOW_BITS: u8 = 12;
/// How hard to try: what is saved beyond is one or two percent, and costs a fifth of the time.
const LEVEL: u32 = 3;

/// Compresses a cluster; `None` when that saves nothing.
pub(crate) fn deflate(cluster: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(cluster.len() - 1);
    let mut state = Compress::new_with_window_bits(Compression::new(LEVEL), false, WINDOW_BITS);
    let status = state.compress_vec(cluster, &mut out, FlushCompress::Finish);
    matches!(status, Ok(Status::StreamEnd)).then_some(out)
}

/// Fills `cluster` from compressed bytes, which may be followed by others; whether there were enough.
pub(crate) fn inflate(bytes: &[u8], cluster: &mut [u8]) -> bool {
    let mut state = Decompress::new_with_window_bits(false, WINDOW_BITS);
    // An error after the last byte of the cluster concerns what follows the data.
    let _ = state.decompress(bytes, cluster, FlushDecompress::Finish);
    state.total_out() == cluster.len() as u64
}
