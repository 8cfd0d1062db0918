//! Initialisation vectors from sector numbers, many at once.
//!
//! Numbers count 512-byte units; blocks are 8 or 16 bytes, and a number longer than the block is cut at its high end.

use std::fmt;

use cipher::array::{Array, ArraySize};
use cipher::{BlockCipherEncrypt, BlockSizeUser};

use super::IvGen;
use super::wide;

/// A keyed cipher that encrypts blocks of `N` bytes, whichever it is.
pub(super) trait EncryptBlocks<N: ArraySize>: Send + Sync {
    /// Encrypts each block by itself, in place.
    fn encrypt_blocks(&self, blocks: &mut [Array<u8, N>]);
}

impl<C: BlockCipherEncrypt + Send + Sync> EncryptBlocks<C::BlockSize> for C {
    fn encrypt_blocks(&self, blocks: &mut [Array<u8, <C as BlockSizeUser>::BlockSize>]) {
        wide::encrypt_blocks(self, blocks);
    }
}

/// A generator ready to make IVs of `N` bytes.
pub(super) struct Ivs<N: ArraySize> {
    kind: IvGen,
    /// The cipher keyed with the hash of the volume key; only for essiv.
    essiv: Option<Box<dyn EncryptBlocks<N>>>,
}

impl<N: ArraySize> Ivs<N> {
    /// A generator; `essiv` is its cipher when `kind` is [`IvGen::Essiv`].
    pub(super) fn new(kind: IvGen, essiv: Option<Box<dyn EncryptBlocks<N>>>) -> Self {
        Ivs { kind, essiv }
    }

    /// Fills `ivs` with those of the sectors `first`, `first + step`, …
    pub(super) fn fill(&self, first: u64, step: u64, ivs: &mut [Array<u8, N>]) {
        let mut sector = first;
        for iv in ivs.iter_mut() {
            self.write_number(sector, iv);
            sector = sector.wrapping_add(step);
        }
        if let Some(cipher) = &self.essiv {
            cipher.encrypt_blocks(ivs);
        }
    }

    fn write_number(&self, sector: u64, iv: &mut Array<u8, N>) {
        iv.fill(0);
        let (start, end) = (8.min(N::USIZE), N::USIZE - 8.min(N::USIZE));
        match self.kind {
            IvGen::Null => {}
            IvGen::Plain => iv[..4].copy_from_slice(&sector.to_le_bytes()[..4]),
            IvGen::Plain64 | IvGen::Essiv => iv[..start].copy_from_slice(&sector.to_le_bytes()),
            IvGen::Plain64Be => iv[end..].copy_from_slice(&sector.to_be_bytes()),
            IvGen::Benbi => {
                let block = sector.wrapping_mul(512 / N::USIZE as u64).wrapping_add(1);
                iv[end..].copy_from_slice(&block.to_be_bytes());
            }
        }
    }
}

impl<N: ArraySize> fmt::Debug for Ivs<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipher::consts::{U8, U16};

    fn iv16(kind: IvGen, sector: u64) -> [u8; 16] {
        let mut ivs = [Array::<u8, U16>::default(); 2];
        Ivs::new(kind, None).fill(sector.wrapping_sub(8), 8, &mut ivs);
        ivs[1].into()
    }

    #[test]
    fn each_generator_puts_the_number_where_dm_crypt_does() {
        let sector = 0x0102_0304_0506_0708;
        assert_eq!(iv16(IvGen::Plain, sector), [8, 7, 6, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(iv16(IvGen::Plain64, sector), [8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(iv16(IvGen::Plain64Be, sector), [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(iv16(IvGen::Benbi, 8), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(iv16(IvGen::Null, sector), [0; 16]);
    }

    #[test]
    fn eight_byte_blocks_hold_the_whole_number() {
        let mut ivs = [Array::<u8, U8>::default(); 1];
        Ivs::new(IvGen::Plain64, None).fill(0x0102_0304_0506_0708, 1, &mut ivs);
        assert_eq!(ivs[0], [8, 7, 6, 5, 4, 3, 2, 1]);
        Ivs::new(IvGen::Benbi, None).fill(1, 1, &mut ivs);
        assert_eq!(ivs[0], [0, 0, 0, 0, 0, 0, 0, 65]);
    }
}
