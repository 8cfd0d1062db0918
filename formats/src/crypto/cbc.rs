//! Cipher block chaining within each sector.
//!
//! Decryption is parallel by nature. Encryption is not, within a sector; so block n of many sectors is encrypted at
//! once, then block n + 1.

use cipher::ParBlocks;
use cipher::array::{Array, ArraySize};
use cipher::inout::InOutBuf;

use super::Direction;
use super::sectors::{BlockCipher, SectorMode};
use super::wide::{Backend, Job, copy, decrypt_with, encrypt_with, transform_part, xor, xor_to};

/// CBC over the keyed cipher `C`.
pub(super) struct Cbc<C>(pub(super) C);

impl<C: BlockCipher> SectorMode<C::BlockSize> for Cbc<C> {
    fn run(
        &self,
        direction: Direction,
        ivs: &mut [Array<u8, C::BlockSize>],
        blocks: InOutBuf<'_, '_, Array<u8, C::BlockSize>>,
    ) {
        let per_sector = blocks.len() / ivs.len();
        match direction {
            Direction::Encrypt => encrypt_with(&self.0, Interleaved { ivs, per_sector, blocks }),
            Direction::Decrypt => decrypt_with(&self.0, Unchain { ivs, per_sector, blocks }),
        }
    }
}

/// Encryption: a lane per sector.
struct Interleaved<'a, 'i, 'o, N: ArraySize> {
    ivs: &'a [Array<u8, N>],
    per_sector: usize,
    blocks: InOutBuf<'i, 'o, Array<u8, N>>,
}

impl<N: ArraySize> Job<N> for Interleaved<'_, '_, '_, N> {
    #[inline(always)]
    fn run<B: Backend<BlockSize = N>>(self, backend: &B) {
        let mut lanes = ParBlocks::<B>::default();
        let mut rest = self.blocks;
        for ivs in self.ivs.chunks(lanes.len()) {
            let (mut sectors, after) = rest.split_at(ivs.len() * self.per_sector);
            copy(&mut lanes[..ivs.len()], ivs);
            for at in 0..self.per_sector {
                let lane_block = |lane: usize| lane * self.per_sector + at;
                let input = sectors.get_in();
                (0..ivs.len()).for_each(|lane| xor(&mut lanes[lane..=lane], &input[lane_block(lane)..][..1]));
                transform_part(backend, &mut lanes, ivs.len());
                let output = sectors.get_out();
                (0..ivs.len()).for_each(|lane| output[lane_block(lane)] = lanes[lane].clone());
            }
            rest = after;
        }
    }
}

/// Decryption: all blocks at once, each XORed with the ciphertext before it.
struct Unchain<'a, 'i, 'o, N: ArraySize> {
    ivs: &'a [Array<u8, N>],
    per_sector: usize,
    blocks: InOutBuf<'i, 'o, Array<u8, N>>,
}

impl<N: ArraySize> Unchain<'_, '_, '_, N> {
    /// Writes what the blocks `input`, the first of which has index `at`, are XORed with after decryption: the block
    /// before each, which for the first is in `chain` already, or its sector's IV.
    #[inline(always)]
    fn chain(&self, at: usize, input: &[Array<u8, N>], chain: &mut [Array<u8, N>]) {
        copy(&mut chain[1..], &input[..input.len() - 1]);
        let first_start = at.next_multiple_of(self.per_sector);
        for start in (first_start..at + input.len()).step_by(self.per_sector) {
            chain[start - at] = self.ivs[start / self.per_sector].clone();
        }
    }
}

impl<N: ArraySize> Job<N> for Unchain<'_, '_, '_, N> {
    #[inline(always)]
    fn run<B: Backend<BlockSize = N>>(mut self, backend: &B) {
        let (mut work, mut chain) = (ParBlocks::<B>::default(), ParBlocks::<B>::default());
        let (width, total) = (work.len(), self.blocks.len());
        for at in (0..total).step_by(width) {
            let part = width.min(total - at);
            let input = &self.blocks.get_in()[at..at + part];
            copy(&mut work[..part], input);
            self.chain(at, input, &mut chain[..part]);
            let last = input[part - 1].clone();
            transform_part(backend, &mut work, part);
            xor_to(&mut self.blocks.get_out()[at..at + part], &work[..part], &chain[..part]);
            chain[0] = last;
        }
    }
}
