//! Compressed clusters: raw deflate with a 4 KiB window, or one Zstandard frame.

use super::header::Compression;
use crate::deflate::{deflate, inflate};
use block::{Error, Result};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// Zstandard's level: its own default.
const ZSTD_LEVEL: i32 = 3;

/// Compresses a cluster; `None` when that saves nothing.
pub(super) fn compress(method: Compression, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
    Ok(match method {
        Compression::Zlib => deflate(cluster),
        Compression::Zstd => {
            let mut out = vec![0; cluster.len() - 1];
            let len = zstd::bulk::compress_to_buffer(cluster, &mut out, ZSTD_LEVEL).ok();
            len.map(|len| {
                out.truncate(len);
                out.shrink_to_fit();
                out
            })
        }
    })
}

/// Fills `cluster` from compressed bytes, which may be followed by others.
pub(super) fn decompress(method: Compression, bytes: &[u8], cluster: &mut [u8]) -> Result<()> {
    let filled = match method {
        Compression::Zlib => inflate(bytes, cluster),
        Compression::Zstd => unzstd(bytes, cluster),
    };
    if filled { Ok(()) } else { Err(Error::corrupt(Error::from_errno(nix::libc::EIO).strerror())) }
}

fn unzstd(bytes: &[u8], cluster: &mut [u8]) -> bool {
    let Ok(mut decoder) = Decoder::new() else { return false };
    let len = cluster.len();
    let mut from = InBuffer::around(bytes);
    let mut to = OutBuffer::around(cluster);
    while to.pos() < len {
        let before = (from.pos(), to.pos());
        if decoder.run(&mut from, &mut to).is_err() || (from.pos(), to.pos()) == before {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_come_back_also_when_other_bytes_follow() {
        let cluster: Vec<u8> = (0..65536u32).map(|i| (i / 100).to_le_bytes()[0]).collect();
        for method in [Compression::Zlib, Compression::Zstd] {
            let mut bytes = compress(method, &cluster).unwrap().unwrap();
            assert!(bytes.len() < 8192);
            bytes.extend([0xa5; 700]);
            let mut back = vec![0; cluster.len()];
            decompress(method, &bytes, &mut back).unwrap();
            assert_eq!(back, cluster);
            assert!(decompress(method, &bytes[..20], &mut back).is_err());
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut x = 1u32;
        let mut noise = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x.to_be_bytes()[0]
        };
        let cluster: Vec<u8> = (0..4096).map(|_| noise()).collect();
        assert!(compress(Compression::Zlib, &cluster).unwrap().is_none());
        assert!(compress(Compression::Zstd, &cluster).unwrap().is_none());
    }
}
