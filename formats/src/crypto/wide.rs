//! The door to the block ciphers' wide paths: a job is compiled once per backend, inside its target features.
//!
//! `aes` picks AES-NI, VAES-256 or VAES-512 at run time and hands the chosen backend to a closure. A [`Job`] is such a
//! closure for either direction. Its `run` and all it calls must be `#[inline(always)]`: only then is our own
//! arithmetic (tweaks, chaining, XOR) compiled with the same vector registers as the cipher.

use std::marker::PhantomData;

use cipher::array::{Array, ArraySize};
use cipher::inout::InOutBuf;
use cipher::typenum::Unsigned;
use cipher::{
    Block, BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend,
    BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, ParBlocks, ParBlocksSizeUser,
};

/// One direction of a cipher's backend.
pub(super) trait Backend: ParBlocksSizeUser {
    /// Transforms one block in place.
    fn one(&self, block: &mut Block<Self>);

    /// Transforms as many blocks as the backend likes best, in place.
    fn wide(&self, blocks: &mut ParBlocks<Self>);
}

/// Work on a backend of `N`-byte blocks.
pub(super) trait Job<N: ArraySize> {
    /// Does the work. Implementations are `#[inline(always)]`.
    fn run<B: Backend<BlockSize = N>>(self, backend: &B);
}

struct Enc<'a, B>(&'a B);
struct Dec<'a, B>(&'a B);

impl<B: BlockSizeUser> BlockSizeUser for Enc<'_, B> {
    type BlockSize = B::BlockSize;
}

impl<B: ParBlocksSizeUser> ParBlocksSizeUser for Enc<'_, B> {
    type ParBlocksSize = B::ParBlocksSize;
}

impl<B: BlockCipherEncBackend> Backend for Enc<'_, B> {
    #[inline(always)]
    fn one(&self, block: &mut Block<Self>) {
        self.0.encrypt_block_inplace(block);
    }

    #[inline(always)]
    fn wide(&self, blocks: &mut ParBlocks<Self>) {
        self.0.encrypt_par_blocks_inplace(blocks);
    }
}

impl<B: BlockSizeUser> BlockSizeUser for Dec<'_, B> {
    type BlockSize = B::BlockSize;
}

impl<B: ParBlocksSizeUser> ParBlocksSizeUser for Dec<'_, B> {
    type ParBlocksSize = B::ParBlocksSize;
}

impl<B: BlockCipherDecBackend> Backend for Dec<'_, B> {
    #[inline(always)]
    fn one(&self, block: &mut Block<Self>) {
        self.0.decrypt_block_inplace(block);
    }

    #[inline(always)]
    fn wide(&self, blocks: &mut ParBlocks<Self>) {
        self.0.decrypt_par_blocks_inplace(blocks);
    }
}

struct Closure<N, J>(J, PhantomData<N>);

impl<N: ArraySize, J> BlockSizeUser for Closure<N, J> {
    type BlockSize = N;
}

impl<N: ArraySize, J: Job<N>> BlockCipherEncClosure for Closure<N, J> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = N>>(self, backend: &B) {
        self.0.run(&Enc(backend));
    }
}

impl<N: ArraySize, J: Job<N>> BlockCipherDecClosure for Closure<N, J> {
    #[inline(always)]
    fn call<B: BlockCipherDecBackend<BlockSize = N>>(self, backend: &B) {
        self.0.run(&Dec(backend));
    }
}

/// Runs `job` on the encrypting backend of `cipher`.
pub(super) fn encrypt_with<C: BlockCipherEncrypt>(cipher: &C, job: impl Job<C::BlockSize>) {
    cipher.encrypt_with_backend(Closure(job, PhantomData));
}

/// Runs `job` on the decrypting backend of `cipher`.
pub(super) fn decrypt_with<C: BlockCipherDecrypt>(cipher: &C, job: impl Job<C::BlockSize>) {
    cipher.decrypt_with_backend(Closure(job, PhantomData));
}

/// Encrypts each of `blocks` by itself, in place.
pub(super) fn encrypt_blocks<C: BlockCipherEncrypt>(cipher: &C, blocks: &mut [Block<C>]) {
    encrypt_with(cipher, Batches { data: blocks.into(), steps: ByItself });
}

/// What a mode does to a batch of blocks before and after the cipher. `at` is the index of the batch's first block.
pub(super) trait Steps<N: ArraySize> {
    /// Fills `work` with the cipher's input.
    fn before(&mut self, at: usize, input: &[Array<u8, N>], work: &mut [Array<u8, N>]);

    /// Makes the mode's output of the cipher's output in `work`; `data` still has the input.
    fn after(&mut self, at: usize, work: &[Array<u8, N>], data: InOutBuf<'_, '_, Array<u8, N>>);
}

/// No chaining at all: the job of ecb.
pub(super) struct ByItself;

impl<N: ArraySize> Steps<N> for ByItself {
    #[inline(always)]
    fn before(&mut self, _: usize, input: &[Array<u8, N>], work: &mut [Array<u8, N>]) {
        copy(work, input);
    }

    #[inline(always)]
    fn after(&mut self, _: usize, work: &[Array<u8, N>], mut data: InOutBuf<'_, '_, Array<u8, N>>) {
        copy(data.get_out(), work);
    }
}

/// The job that sends `data` through the cipher in batches as wide as the backend likes, between two `steps`.
pub(super) struct Batches<'i, 'o, N: ArraySize, S> {
    pub(super) data: InOutBuf<'i, 'o, Array<u8, N>>,
    pub(super) steps: S,
}

impl<N: ArraySize, S: Steps<N>> Job<N> for Batches<'_, '_, N, S> {
    #[inline(always)]
    fn run<B: Backend<BlockSize = N>>(mut self, backend: &B) {
        let mut work = ParBlocks::<B>::default();
        let (batches, tail) = self.data.into_chunks::<B::ParBlocksSize>();
        let mut at = 0;
        for batch in batches {
            self.steps.before(at, batch.get_in(), &mut work);
            backend.wide(&mut work);
            self.steps.after(at, &work, batch.into_buf());
            at += B::ParBlocksSize::USIZE;
        }
        if !tail.is_empty() {
            let part = tail.len();
            self.steps.before(at, tail.get_in(), &mut work[..part]);
            transform_part(backend, &mut work, part);
            self.steps.after(at, &work[..part], tail);
        }
    }
}

/// Transforms the first `part` of `work`; whole when that is faster, so the rest of `work` is undefined afterwards.
#[inline(always)]
pub(super) fn transform_part<B: Backend>(backend: &B, work: &mut ParBlocks<B>, part: usize) {
    // A wide call costs about as much as half its blocks one by one.
    if part * 2 >= work.len() {
        backend.wide(work);
    } else {
        work[..part].iter_mut().for_each(|block| backend.one(block));
    }
}

/// `to = from`, block by block.
#[inline(always)]
pub(super) fn copy<N: ArraySize>(to: &mut [Array<u8, N>], from: &[Array<u8, N>]) {
    Array::slice_as_flattened_mut(to).copy_from_slice(Array::slice_as_flattened(from));
}

/// `to ^= with`, block by block.
#[inline(always)]
pub(super) fn xor<N: ArraySize>(to: &mut [Array<u8, N>], with: &[Array<u8, N>]) {
    let (to, with) = (Array::slice_as_flattened_mut(to), Array::slice_as_flattened(with));
    to.iter_mut().zip(with).for_each(|(a, b)| *a ^= b);
}

/// `to = a ^ b`, block by block.
#[inline(always)]
pub(super) fn xor_to<N: ArraySize>(to: &mut [Array<u8, N>], a: &[Array<u8, N>], b: &[Array<u8, N>]) {
    let to = Array::slice_as_flattened_mut(to);
    let (a, b) = (Array::slice_as_flattened(a), Array::slice_as_flattened(b));
    to.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (a, b))| *to = a ^ b);
}
