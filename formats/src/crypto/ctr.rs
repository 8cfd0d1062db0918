//! Counter mode: the key stream is the encrypted IV, counted up big-endian from block to block of a sector.
//!
//! Encrypting and decrypting are the same.

use cipher::array::{Array, ArraySize};
use cipher::inout::InOutBuf;

use super::Direction;
use super::sectors::{BlockCipher, SectorMode};
use super::wide::{Batches, Steps, copy, encrypt_with, xor};

/// CTR over the keyed cipher `C`.
pub(super) struct Ctr<C>(pub(super) C);

impl<C: BlockCipher> SectorMode<C::BlockSize> for Ctr<C> {
    fn run(
        &self,
        _: Direction,
        ivs: &mut [Array<u8, C::BlockSize>],
        blocks: InOutBuf<'_, '_, Array<u8, C::BlockSize>>,
    ) {
        let per_sector = blocks.len() / ivs.len();
        encrypt_with(&self.0, Batches { data: blocks, steps: Counting { ivs, per_sector } });
    }
}

struct Counting<'a, N: ArraySize> {
    ivs: &'a [Array<u8, N>],
    per_sector: usize,
}

impl<N: ArraySize> Steps<N> for Counting<'_, N> {
    #[inline(always)]
    fn before(&mut self, at: usize, _: &[Array<u8, N>], work: &mut [Array<u8, N>]) {
        let (mut sector, mut counted) = (at / self.per_sector, at % self.per_sector);
        let mut rest = work;
        while !rest.is_empty() {
            let here = rest.len().min(self.per_sector - counted);
            let (blocks, after) = rest.split_at_mut(here);
            let start = number(&self.ivs[sector]).wrapping_add(counted as u128);
            (0..).zip(blocks).for_each(|(i, block)| store(start.wrapping_add(i), block));
            (sector, counted, rest) = (sector + 1, 0, after);
        }
    }

    #[inline(always)]
    fn after(&mut self, _: usize, work: &mut [Array<u8, N>], mut data: InOutBuf<'_, '_, Array<u8, N>>) {
        xor(work, data.get_in());
        copy(data.get_out(), work);
    }
}

/// The block as a big-endian number.
#[inline(always)]
fn number<N: ArraySize>(block: &Array<u8, N>) -> u128 {
    block.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// The low bytes of `number`, big-endian.
#[inline(always)]
fn store<N: ArraySize>(number: u128, block: &mut Array<u8, N>) {
    block.copy_from_slice(&number.to_be_bytes()[16 - N::USIZE..]);
}
