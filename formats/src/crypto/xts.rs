//! XTS (IEEE 1619): the hot path of disk encryption.
//!
//! The first tweak of every sector is its IV encrypted with the second key, made for a whole batch of sectors in one
//! wide call; the others follow by multiplication with α in GF(2^128). Eight tweaks are kept side by side and multiplied
//! by α⁸ at once, in 64-bit lanes with shifts that vectorise on any processor.

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

impl Tweaks for Doubling {
    #[inline(always)]
    fn write(&self, start: &Block16, out: &mut [Block16]) {
        out[0] = *start;
        for done in [1, 2, 4, 8, 16] {
            let (from, to) = out.split_at_mut(done);
            times_alpha(done, from, &mut to[..done]);
        }
        for done in (32..out.len()).step_by(32) {
            let (from, to) = out.split_at_mut(done);
            times_alpha(32, &from[done - 32..], &mut to[..32]);
        }
    }
}

/// Multiplies each tweak by α^`power`, at most 57: a shift, and the bits that leave at the top come back times
/// x^7 + x^2 + x + 1.
#[inline(always)]
fn times_alpha(power: usize, from: &[Block16], to: &mut [Block16]) {
    for (from, to) in from.iter().zip(to) {
        let (low, high) = from.split_at(8);
        let low = u64::from_le_bytes(low.try_into().expect("a half block"));
        let high = u64::from_le_bytes(high.try_into().expect("a half block"));
        let carry = high >> (64 - power);
        let folded = carry ^ (carry << 1) ^ (carry << 2) ^ (carry << 7);
        to[..8].copy_from_slice(&((low << power) ^ folded).to_le_bytes());
        to[8..].copy_from_slice(&((high << power) | low >> (64 - power)).to_le_bytes());
    }
}
