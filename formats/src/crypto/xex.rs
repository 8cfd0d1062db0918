//! XOR, encrypt, XOR with a tweak per block: what xts and lrw have in common.
//!
//! A mode writes the tweaks of a group of sectors, here they are used while still in the first-level cache.

use cipher::array::Array;
use cipher::consts::U16;
use cipher::inout::InOutBuf;

use super::Direction;
use super::sectors::BlockCipher16;
use super::wide::{Backend, Batches, Job, Steps, decrypt_with, encrypt_with, xor_to};

/// A block, or a tweak.
pub(super) type Block16 = Array<u8, U16>;

/// Blocks of a group: 4 KiB, one sector of the largest size or eight of the smallest.
const GROUP: usize = 256;

/// Where tweaks come from.
pub(super) trait Tweaks {
    /// Writes the tweaks of one sector, one per block of `out`, from the sector's `start`. Implementations are
    /// `#[inline(always)]`.
    fn write(&self, start: &Block16, out: &mut [Block16]);
}

struct Masked<'a>(&'a [Block16]);

impl Steps<U16> for Masked<'_> {
    #[inline(always)]
    fn before(&mut self, at: usize, input: &[Block16], work: &mut [Block16]) {
        xor_to(work, input, &self.0[at..at + input.len()]);
    }

    #[inline(always)]
    fn after(&mut self, at: usize, work: &mut [Block16], mut data: InOutBuf<'_, '_, Block16>) {
        xor_to(data.get_out(), work, &self.0[at..at + work.len()]);
    }
}

struct Xex<'a, 'i, 'o, T> {
    tweaks: &'a T,
    starts: &'a [Block16],
    blocks: InOutBuf<'i, 'o, Block16>,
}

impl<T: Tweaks> Job<U16> for Xex<'_, '_, '_, T> {
    #[inline(always)]
    fn run<B: Backend<BlockSize = U16>>(self, backend: &B) {
        let per_sector = self.blocks.len() / self.starts.len();
        let mut tweaks = [Block16::default(); GROUP];
        let mut rest = self.blocks;
        for starts in self.starts.chunks(GROUP / per_sector) {
            let tweaks = &mut tweaks[..starts.len() * per_sector];
            for (start, out) in starts.iter().zip(tweaks.chunks_exact_mut(per_sector)) {
                self.tweaks.write(start, out);
            }
            let (data, after) = rest.split_at(tweaks.len());
            Batches { data, steps: Masked(tweaks) }.run(backend);
            rest = after;
        }
    }
}

/// Transforms the sectors in `blocks`, one for each of `starts`.
pub(super) fn run<C: BlockCipher16>(
    cipher: &C,
    direction: Direction,
    tweaks: &impl Tweaks,
    starts: &[Block16],
    blocks: InOutBuf<'_, '_, Block16>,
) {
    let job = Xex { tweaks, starts, blocks };
    match direction {
        Direction::Encrypt => encrypt_with(cipher, job),
        Direction::Decrypt => decrypt_with(cipher, job),
    }
}
