//! Compressed clusters as qcow and qcow2 share them: raw deflate (RFC 1951) with a 4 KiB window.
//!
//! The compressor is our own: no library has one for data that is whole in memory but sees only so little of the past. What it makes is
//! about as large as what zlib makes at its usual level, in less than half of the time.

mod bits;
mod block;
mod huffman;
mod matches;

use bits::BitWriter;
use block::Tally;
use flate2::{Decompress, FlushDecompress};
use matches::{Item, Matcher};

/// log2 of the window: what QEMU writes, and all it reads.
const WINDOW_BITS: u8 = 12;
/// Bytes of a piece of which it is asked whether it should have a block of its own.
const PIECE: usize = 8 << 10;
/// The most items of a block, which are kept until it is written.
const LARGEST_BLOCK: usize = 64 << 10;
/// What telling a code takes, about, in bits.
const TELLING: f32 = 600.0;

/// Compresses a cluster; `None` when that saves nothing.
pub(crate) fn deflate(cluster: &[u8]) -> Option<Vec<u8>> {
    let mut out = BitWriter::new(cluster.len());
    let mut matcher = Matcher::new(cluster);
    let mut block = Block::default();
    let mut at = 0;
    while at < cluster.len() && !out.full() {
        let piece = Block::parse(&mut matcher, at, (at + PIECE).min(cluster.len()));
        at = piece.end;
        if !block.takes(&piece) {
            block.write(cluster, false, &mut out);
            block = piece;
        } else {
            block.append(piece);
        }
    }
    block.write(cluster, true, &mut out);
    out.finish()
}

/// Items that share a code, and where the bytes are that they stand for.
struct Block {
    items: Vec<Item>,
    tally: Tally,
    start: usize,
    end: usize,
}

impl Default for Block {
    fn default() -> Self {
        Self { items: Vec::new(), tally: Tally::new(), start: 0, end: 0 }
    }
}

impl Block {
    fn parse(matcher: &mut Matcher<'_>, start: usize, end: usize) -> Self {
        let mut items = Vec::with_capacity(end - start);
        let mut tally = Tally::new();
        let end = matcher.parse(start, end, |item| {
            tally.add(item);
            items.push(item);
        });
        Self { items, tally, start, end }
    }

    /// Whether the bytes of both get shorter, or no longer, by one code for both.
    fn takes(&self, next: &Self) -> bool {
        let mut both = self.tally.clone();
        both.join(&next.tally);
        let apart = self.tally.entropy() + next.tally.entropy() + TELLING;
        self.items.is_empty()
            || self.items.len() + next.items.len() <= LARGEST_BLOCK && both.entropy() <= apart
    }

    fn append(&mut self, next: Self) {
        self.tally.join(&next.tally);
        self.items.extend(next.items);
        self.end = next.end;
    }

    fn write(self, cluster: &[u8], last: bool, out: &mut BitWriter) {
        block::write(&self.items, self.tally, &cluster[self.start..self.end], last, out);
    }
}

/// Fills `cluster` from compressed bytes, which may be followed by others; whether there were enough.
pub(crate) fn inflate(bytes: &[u8], cluster: &mut [u8]) -> bool {
    let mut state = Decompress::new_with_window_bits(false, WINDOW_BITS);
    // An error after the last byte of the cluster concerns what follows the data.
    let _ = state.decompress(bytes, cluster, FlushDecompress::Finish);
    state.total_out() == cluster.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, RngExt, SeedableRng};

    /// Reads with a decoder that keeps no more than the window: it hands out a few bytes at a time.
    fn inflate_in_small_steps(bytes: &[u8]) -> Vec<u8> {
        let mut state = Decompress::new_with_window_bits(false, WINDOW_BITS);
        let (mut out, mut step) = (Vec::new(), [0; 100]);
        loop {
            let (read, made) = (state.total_in() as usize, state.total_out());
            let status =
                state.decompress(&bytes[read..], &mut step, FlushDecompress::None).expect("a deflate stream");
            out.extend_from_slice(&step[..(state.total_out() - made) as usize]);
            if status == flate2::Status::StreamEnd {
                assert_eq!(state.total_in(), bytes.len() as u64, "nothing follows the last block");
                return out;
            }
        }
    }

    /// Noise, runs, and repetitions of what came at most 6,000 bytes before, in pieces of random lengths.
    fn mixture(random: &mut SmallRng, len: usize) -> Vec<u8> {
        let mut data: Vec<u8> = vec![random.random()];
        while data.len() < len {
            let piece = random.random_range(1..600);
            match random.random_range(0..4) {
                0 => {
                    let mut noise = vec![0; piece];
                    random.fill_bytes(&mut noise);
                    data.extend(noise);
                }
                1 => data.extend(std::iter::repeat_n(random.random_range(b'a'..b'e'), piece)),
                2 => data.extend((0..piece).map(|_| random.random_range(b'a'..b'q'))),
                _ => {
                    let back = random.random_range(1..=data.len().min(6000));
                    (0..piece).for_each(|_| data.push(data[data.len() - back]));
                }
            }
        }
        data.truncate(len);
        data
    }

    #[test]
    fn clusters_of_every_length_come_back_through_a_window_of_4_kib() {
        let mut random = SmallRng::seed_from_u64(12);
        let sizes = (1..300).chain((9..=21).map(|bits| 1 << bits));
        let mut shrunk = 0;
        for len in sizes {
            let cluster = mixture(&mut random, len);
            if let Some(bytes) = deflate(&cluster) {
                shrunk += 1;
                assert!(bytes.len() < len);
                assert!(inflate_in_small_steps(&bytes) == cluster, "{len} bytes");
            }
        }
        assert!(shrunk > 100);
    }

    #[test]
    fn what_is_noise_in_part_is_stored_in_part() {
        let mut cluster = vec![0; 1 << 20];
        SmallRng::seed_from_u64(3).fill_bytes(&mut cluster[..700_000]);
        let bytes = deflate(&cluster).expect("a third is zeroes");
        assert!((700_000..702_000).contains(&bytes.len()), "{}", bytes.len());
        assert!(inflate_in_small_steps(&bytes) == cluster);
    }

    #[test]
    fn a_run_takes_almost_nothing() {
        assert!(deflate(&vec![7; 65536]).expect("shrinks").len() < 100);
        // Two bits for each 258 bytes: there is one block.
        assert!(deflate(&vec![7; 1 << 20]).expect("shrinks").len() < 1040);
    }

    #[test]
    fn noise_is_refused() {
        let mut cluster = vec![0; 65536];
        SmallRng::seed_from_u64(4).fill_bytes(&mut cluster);
        assert!(deflate(&cluster).is_none());
    }
}
