//! Electronic codebook: every block by itself. The IV is not used.

use cipher::array::Array;
use cipher::inout::InOutBuf;

use super::Direction;
use super::sectors::{BlockCipher, SectorMode};
use super::wide::{Batches, ByItself, decrypt_with, encrypt_with};

/// ECB over the keyed cipher `C`.
pub(super) struct Ecb<C>(pub(super) C);

impl<C: BlockCipher> SectorMode<C::BlockSize> for Ecb<C> {
    fn run(
        &self,
        direction: Direction,
        _: &mut [Array<u8, C::BlockSize>],
        blocks: InOutBuf<'_, '_, Array<u8, C::BlockSize>>,
    ) {
        let job = Batches { data: blocks, steps: ByItself };
        match direction {
            Direction::Encrypt => encrypt_with(&self.0, job),
            Direction::Decrypt => decrypt_with(&self.0, job),
        }
    }
}
