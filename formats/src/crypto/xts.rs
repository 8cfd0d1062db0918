//! XTS (IEEE 1619): the hot path of disk encryption.
//!
//! The first tweak of every sector is its IV encrypted with the second key, made for a whole batch of sectors in one
//! wide call; the others follow by multiplication with α in GF(2^128). Four tweaks are kept side by side and multiplied
//! by α⁴ at once, in 64-bit lanes with shifts that vectorise on any processor.

use cipher::consts::U16;
use cipher::inout::InOutBuf;
use secret::Result;

use super::Direction;
use super::sectors::{BlockCipher16, SectorMode, keyed};
use super::wide;
use super::xex::{self, Block16, Tweaks};

/// XTS over the cipher `C`.
pub(super) struct Xts<C> {
    data: C,
    tweak: C,
}

impl<C: BlockCipher16> Xts<C> {
    /// Keys it: the first half of `key` is for data, the second for tweaks.
    pub(super) fn new(key: &[u8]) -> Result<Self> {
        let (data, tweak) = key.split_at(key.len() / 2);
        Ok(Xts { data: keyed(data)?, tweak: keyed(tweak)? })
    }
}

impl<C: BlockCipher16> SectorMode<U16> for Xts<C> {
    fn run(&self, direction: Direction, ivs: &mut [Block16], blocks: InOutBuf<'_, '_, Block16>) {
        wide::encrypt_blocks(&self.tweak, ivs);
        xex::run(&self.data, direction, &Doubling, ivs, blocks);
    }
}

/// Tweaks that are multiplied by α from block to block.
struct Doubling;

/// Four tweaks, each its low word and then its high word.
type Quad = [u64; 8];

impl Tweaks for Doubling {
    #[inline(always)]
    fn write(&self, start: &Block16, out: &mut [Block16]) {
        let mut quad = first_quad(u128::from_le_bytes((*start).into()));
        for four in out.chunks_exact_mut(4) {
            for (block, words) in four.iter_mut().zip(quad.chunks_exact(2)) {
                block[..8].copy_from_slice(&words[0].to_le_bytes());
                block[8..].copy_from_slice(&words[1].to_le_bytes());
            }
            quad = times_alpha4(&quad);
        }
    }
}

/// `first`, and its products with α, α² and α³.
#[inline(always)]
fn first_quad(first: u128) -> Quad {
    let mut quad = [0; 8];
    let mut tweak = first;
    for words in quad.chunks_exact_mut(2) {
        words[0] = low(tweak);
        words[1] = low(tweak >> 64);
        // The polynomial is x^128 + x^7 + x^2 + x + 1.
        tweak = (tweak << 1) ^ ((tweak >> 127) * 0x87);
    }
    quad
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low word is what is asked for")]
fn low(x: u128) -> u64 {
    x as u64
}

/// Multiplies each tweak by α⁴: a shift by four bits, and the four bits that leave at the top come back times 0x87.
#[inline(always)]
fn times_alpha4(quad: &Quad) -> Quad {
    const LOW: Quad = [u64::MAX, 0, u64::MAX, 0, u64::MAX, 0, u64::MAX, 0];
    let mut out = [0; 8];
    for i in 0..8 {
        // Into a low word comes what leaves its high word, and the other way round.
        let carry = quad[i ^ 1] >> 60;
        let folded = (carry << 1) ^ (carry << 2) ^ (carry << 7);
        out[i] = (quad[i] << 4) ^ carry ^ (folded & LOW[i]);
    }
    out
}
