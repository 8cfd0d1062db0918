//! Serpent, arranged so that the compiler encrypts several blocks side by side.
//!
//! RustCrypto's Serpent is pure 32-bit logic on one block. Where its loop over blocks is compiled on its own, once, the
//! compiler turns it into vector code that is three times as fast; inlined in every mode, it does not. So all of it
//! goes through two functions that are never inlined.

use cipher::array::Array;
use cipher::consts::U16;
use cipher::inout::{InOut, InOutBuf};
use cipher::{
    BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend,
    BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, InvalidLength, Key, KeyInit, KeySizeUser,
    ParBlocksSizeUser,
};

type Block = Array<u8, U16>;

/// Serpent with a key of 16, 24 or 32 bytes.
pub(super) struct Serpent(::serpent::Serpent);

impl Serpent {
    #[inline(never)]
    fn encrypt_many(&self, blocks: &mut [Block]) {
        self.0.encrypt_blocks(blocks);
    }

    #[inline(never)]
    fn decrypt_many(&self, blocks: &mut [Block]) {
        self.0.decrypt_blocks(blocks);
    }
}

impl KeySizeUser for Serpent {
    type KeySize = U16;
}

impl KeyInit for Serpent {
    fn new(key: &Key<Self>) -> Self {
        Serpent(::serpent::Serpent::new(key))
    }

    fn new_from_slice(key: &[u8]) -> Result<Self, InvalidLength> {
        ::serpent::Serpent::new_from_slice(key).map(Serpent)
    }
}

impl BlockSizeUser for Serpent {
    type BlockSize = U16;
}

impl ParBlocksSizeUser for Serpent {
    type ParBlocksSize = U16;
}

impl BlockCipherEncrypt for Serpent {
    fn encrypt_with_backend(&self, f: impl BlockCipherEncClosure<BlockSize = U16>) {
        f.call(self);
    }
}

impl BlockCipherDecrypt for Serpent {
    fn decrypt_with_backend(&self, f: impl BlockCipherDecClosure<BlockSize = U16>) {
        f.call(self);
    }
}

impl BlockCipherEncBackend for Serpent {
    fn encrypt_block(&self, block: InOut<'_, '_, Block>) {
        self.encrypt_many(std::slice::from_mut(block.into_out_with_copied_in()));
    }

    fn encrypt_par_blocks(&self, blocks: InOut<'_, '_, Array<Block, U16>>) {
        self.encrypt_many(blocks.into_out_with_copied_in());
    }

    fn encrypt_tail_blocks(&self, blocks: InOutBuf<'_, '_, Block>) {
        self.encrypt_many(blocks.into_out_with_copied_in());
    }
}

impl BlockCipherDecBackend for Serpent {
    fn decrypt_block(&self, block: InOut<'_, '_, Block>) {
        self.decrypt_many(std::slice::from_mut(block.into_out_with_copied_in()));
    }

    fn decrypt_par_blocks(&self, blocks: InOut<'_, '_, Array<Block, U16>>) {
        self.decrypt_many(blocks.into_out_with_copied_in());
    }

    fn decrypt_tail_blocks(&self, blocks: InOutBuf<'_, '_, Block>) {
        self.decrypt_many(blocks.into_out_with_copied_in());
    }
}
