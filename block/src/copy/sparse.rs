//! Which parts of a chunk are zeroes worth leaving out.

use crate::buffer::is_zero;
use std::ops::Range;

/// The smallest unit in which zeroes are looked for, in bytes.
const SECTOR: u64 = crate::SECTOR;

/// Cuts `bytes` into runs, telling zeroes from data. Zeroes between data, fewer than `min` bytes of them, count as data;
/// at either end of the chunk they are left out however few they are, as by QEMU.
/// Runs meet at multiples of `unit` of the target, where `bytes` stand at offset `at`: data grows to them.
pub(super) fn runs(bytes: &[u8], at: u64, min: u64, unit: u64) -> Vec<(Range<usize>, bool)> {
    let unit = unit.max(SECTOR);
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let boundary = unit - (at + start as u64) % unit;
        let end = bytes.len().min(start + boundary as usize);
        push(&mut runs, start..end, is_zero(&bytes[start..end]));
        start = end;
    }
    let worth =
        |range: &Range<usize>| range.len() as u64 >= min || range.start == 0 || range.end == bytes.len();
    let mut merged = Vec::with_capacity(runs.len());
    for (range, zero) in runs {
        let zero = zero && worth(&range);
        push(&mut merged, range, zero);
    }
    merged
}

fn push(runs: &mut Vec<(Range<usize>, bool)>, range: Range<usize>, zero: bool) {
    match runs.last_mut() {
        Some((last, kind)) if *kind == zero => last.end = range.end,
        _ => runs.push((range, zero)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_data(len: usize, data: &[usize]) -> Vec<u8> {
        let mut bytes = vec![0; len];
        data.iter().for_each(|&i| bytes[i] = 1);
        bytes
    }

    #[test]
    fn short_runs_of_zeroes_are_data() {
        let bytes = with_data(16384, &[0, 1024, 8192]);
        let want = vec![(0..1536, false), (1536..8192, true), (8192..8704, false), (8704..16384, true)];
        assert_eq!(runs(&bytes, 0, 4096, 1), want);
        assert_eq!(runs(&bytes, 0, 8192, 1), [(0..8704, false), (8704..16384, true)]);
    }

    #[test]
    fn at_the_ends_of_a_chunk_zeroes_are_left_out_however_few() {
        let bytes = with_data(4096, &[1024, 3000]);
        assert_eq!(runs(&bytes, 0, 8192, 1), [(0..1024, true), (1024..3072, false), (3072..4096, true)]);
    }

    #[test]
    fn a_chunk_of_zeroes_is_one_run_however_short() {
        assert_eq!(runs(&[0; 1024], 0, 4096, 1), vec![(0..1024, true)]);
    }

    #[test]
    fn runs_meet_at_target_boundaries() {
        let bytes = with_data(16384, &[4096]);
        assert_eq!(
            runs(&bytes, 512, 512, 4096),
            vec![(0..3584, true), (3584..7680, false), (7680..16384, true)]
        );
    }
}
