//! Counter mode: the key stream is the encrypted IV, counted up big-endian from block to block of a sector.
//!
//! Encrypting and decrypting are the same.

use cipher::array::{Array, ArraySize};
use cipher::inout::InOutBuf;

use super::Direction;
use super::sectors::{BlockCipher, SectorMode};
use super::wide::{Batches, Steps, encrypt_with};

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
        for (i, block) in work.iter_mut().enumerate() {
            let (sector, count) = ((at + i) / self.per_sector, (at + i) % self.per_sector);
            add(&self.ivs[sector], count as u64, block);
        }
    }

    #[inline(always)]
    fn after(&mut self, _: usize, work: &[Array<u8, N>], data: InOutBuf<'_, '_, Array<u8, N>>) {
        data.into_iter().zip(work).for_each(|(mut block, stream)| block.xor_in2out(stream));
    }
}

/// `out = iv + count`, big-endian, modulo the block's size.
#[inline(always)]
fn add<N: ArraySize>(iv: &Array<u8, N>, count: u64, out: &mut Array<u8, N>) {
    let mut wide = [0; 16];
    wide[16 - N::USIZE..].copy_from_slice(iv);
    let sum = u128::from_be_bytes(wide).wrapping_add(count.into()).to_be_bytes();
    out.copy_from_slice(&sum[16 - N::USIZE..]);
}
