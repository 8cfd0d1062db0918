//! The door to the block ciphers' wide paths: a job is compiled once per backend, inside its target features.
//!
//! `aes` picks AES-NI, VAES-256 or VAES-512 at run time and hands the chosen backend to a closure. A [`Job`] is such a
//! closure for either direction. Its `run` and all it calls must be `#[inline(always)]`: only then is our own
//! arithmetic (tweaks, chaining, XOR) compiled with the same vector registers as the cipher.

use std::marker::PhantomData;

use cipher::array::{Array, ArraySize};
use cipher::consts::U64;
use cipher::inout::InOutBuf;
use cipher::typenum::Unsigned;
use cipher::{
    Block, BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend,
    BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, ParBlocks, ParBlocksSizeUser,
};

/// One direction of a cipher's backend.
pub(super) trait Backend: ParBlocksSizeUser {
    /// Transforms as many blocks as the backend likes best, in place.
    fn wide(&self, blocks: &mut ParBlocks<Self>);

    /// Transforms fewer blocks than that, in place.
    fn tail(&self, blocks: &mut [Block<Self>]);
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
    fn wide(&self, blocks: &mut ParBlocks<Self>) {
        self.0.encrypt_par_blocks_inplace(blocks);
    }

    #[inline(always)]
    fn tail(&self, blocks: &mut [Block<Self>]) {
        self.0.encrypt_tail_blocks_inplace(blocks);
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
    fn wide(&self, blocks: &mut ParBlocks<Self>) {
        self.0.decrypt_par_blocks_inplace(blocks);
    }

    #[inline(always)]
    fn tail(&self, blocks: &mut [Block<Self>]) {
        self.0.decrypt_tail_blocks_inplace(blocks);
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

    /// Makes the mode's output of the cipher's output in `work`; `data` still has the input, and gets the output.
    fn after(&mut self, at: usize, work: &mut [Array<u8, N>], data: InOutBuf<'_, '_, Array<u8, N>>);
}

/// No chaining at all: the job of ecb.
pub(super) struct ByItself;

impl<N: ArraySize> Steps<N> for ByItself {
    #[inline(always)]
    fn before(&mut self, _: usize, input: &[Array<u8, N>], work: &mut [Array<u8, N>]) {
        copy(work, input);
    }

    #[inline(always)]
    fn after(&mut self, _: usize, work: &mut [Array<u8, N>], mut data: InOutBuf<'_, '_, Array<u8, N>>) {
        copy(data.get_out(), work);
    }
}

/// Blocks that are worked on at a time: what the widest backend takes at once, 1 KiB of 16-byte blocks. Narrow backends
/// get as many, because the compiler makes bad code of a cipher whose input and output it can keep in registers.
pub(super) type Batch<N> = Array<Array<u8, N>, U64>;

/// The job that sends `data` through the cipher in batches, between two `steps`.
pub(super) struct Batches<'i, 'o, N: ArraySize, S> {
    pub(super) data: InOutBuf<'i, 'o, Array<u8, N>>,
    pub(super) steps: S,
}

impl<N: ArraySize, S: Steps<N>> Job<N> for Batches<'_, '_, N, S> {
    #[inline(always)]
    fn run<B: Backend<BlockSize = N>>(mut self, backend: &B) {
        let (mut work, mut at) = (Batch::<N>::default(), 0);
        let mut rest = self.data;
        while !rest.is_empty() {
            let part = rest.len().min(work.len());
            let (data, after) = rest.split_at(part);
            self.steps.before(at, data.get_in(), &mut work[..part]);
            transform(backend, &mut work, part);
            self.steps.after(at, &mut work[..part], data);
            (at, rest) = (at + part, after);
        }
    }
}

/// Transforms the first `part` of `work`, each block by itself; what the others hold afterwards is undefined.
///
/// It is written so that each backend function is called in one place, else the compiler stops inlining it.
#[inline(always)]
pub(super) fn transform<B: Backend>(backend: &B, work: &mut Batch<B::BlockSize>, part: usize) {
    let width = B::ParBlocksSize::USIZE;
    // A wide call costs about as much as half its blocks one by one.
    let wide_calls = ((part + width / 2) / width).min(work.len() / width);
    let (wide, _) = Array::slice_as_chunks_mut(work);
    wide[..wide_calls].iter_mut().for_each(|blocks| backend.wide(blocks));
    if let Some(tail) = work.get_mut(wide_calls * width..part).filter(|tail| !tail.is_empty()) {
        backend.tail(tail);
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
