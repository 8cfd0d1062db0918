//! Cipher block chaining within each sector.
//!
//! Decryption is parallel by nature. Encryption is not, within a sector; so block n of many sectors is encrypted at
//! once, then block n + 1.

use cipher::array::{Array, ArraySize};
use cipher::inout::InOutBuf;

use super::Direction;
use super::sectors::{BlockCipher, SectorMode};
use super::wide::{Backend, Batch, Job, copy, decrypt_with, encrypt_with, transform, xor, xor_to};

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
        let (mut lanes, mut input) = (Batch::<N>::default(), Batch::<N>::default());
        let mut rest = self.blocks;
        for ivs in self.ivs.chunks(lanes.len()) {
            let (mut sectors, after) = rest.split_at(ivs.len() * self.per_sector);
            let (lanes_used, input) = (ivs.len(), &mut input[..ivs.len()]);
            copy(&mut lanes[..lanes_used], ivs);
            gather(sectors.get_in(), self.per_sector, input);
            for at in 0..self.per_sector {
                xor(&mut lanes[..lanes_used], input);
                // Gathered one step ahead: wide loads of what was just stored in small pieces would stall.
                if at + 1 < self.per_sector {
                    gather(&sectors.get_in()[at + 1..], self.per_sector, input);
                }
                transform(backend, &mut lanes, lanes_used);
                scatter(&lanes[..lanes_used], &mut sectors.get_out()[at..], self.per_sector);
            }
            rest = after;
        }
    }
}

/// `to[i] = from[i * step]`.
#[inline(always)]
fn gather<N: ArraySize>(from: &[Array<u8, N>], step: usize, to: &mut [Array<u8, N>]) {
    from.iter().step_by(step).zip(to).for_each(|(from, to)| to.copy_from_slice(from));
}

/// `to[i * step] = from[i]`.
#[inline(always)]
fn scatter<N: ArraySize>(from: &[Array<u8, N>], to: &mut [Array<u8, N>], step: usize) {
    to.iter_mut().step_by(step).zip(from).for_each(|(to, from)| to.copy_from_slice(from));
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
        let (mut work, mut chain) = (Batch::<N>::default(), Batch::<N>::default());
        let (width, total) = (work.len(), self.blocks.len());
        for at in (0..total).step_by(width) {
            let part = width.min(total - at);
            let input = &self.blocks.get_in()[at..at + part];
            copy(&mut work[..part], input);
            self.chain(at, input, &mut chain[..part]);
            let last = input[part - 1].clone();
            transform(backend, &mut work, part);
            xor_to(&mut self.blocks.get_out()[at..at + part], &work[..part], &chain[..part]);
            chain[0] = last;
        }
    }
}
