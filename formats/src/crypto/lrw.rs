//! LRW (draft IEEE P1619 of 2006, and the kernel's `lrw`): the tweak of a block is a second key times the block's number.
//!
//! The IV is the number of the sector's first block, a 128-bit big-endian integer (`benbi` makes such IVs); it goes up
//! by one from block to block. Products are in GF(2^128) with big-endian bytes.

use cipher::consts::U16;
use cipher::inout::InOutBuf;
use secret::{Error, Result};
use zeroize::Zeroizing;

use super::Direction;
use super::sectors::{BlockCipher16, SectorMode, keyed};
use super::xex::{self, Block16, Tweaks};

/// LRW over the cipher `C`.
pub(super) struct Lrw<C> {
    data: C,
    tweak: TweakKey,
}

impl<C: BlockCipher16> Lrw<C> {
    /// Keys it: the last 16 bytes of `key` are the tweak key, those before the cipher's.
    pub(super) fn new(key: &[u8]) -> Result<Self> {
        let (data, tweak) =
            key.split_last_chunk().ok_or_else(|| Error::invalid("Volume key is too short for lrw"))?;
        Ok(Lrw { data: keyed(data)?, tweak: TweakKey::new(u128::from_be_bytes(*tweak)) })
    }
}

impl<C: BlockCipher16> SectorMode<U16> for Lrw<C> {
    fn run(&self, direction: Direction, ivs: &mut [Block16], blocks: InOutBuf<'_, '_, Block16>) {
        xex::run(&self.data, direction, &self.tweak, ivs, blocks);
    }
}

/// The tweak key multiplied by every power of x, so that a product is a sum of them.
struct TweakKey {
    powers: Zeroizing<[u128; 128]>,
    /// Entry n: the tweak key times 2^(n+1) − 1, the difference a counter step with n low one-bits makes.
    steps: Zeroizing<[u128; 128]>,
}

impl TweakKey {
    fn new(key: u128) -> Self {
        let (mut powers, mut steps) = (Zeroizing::new([0; 128]), Zeroizing::new([0; 128]));
        let (mut power, mut sum) = (key, 0);
        for (to_power, to_step) in powers.iter_mut().zip(steps.iter_mut()) {
            sum ^= power;
            (*to_power, *to_step) = (power, sum);
            // The polynomial is x^128 + x^7 + x^2 + x + 1.
            power = (power << 1) ^ ((power >> 127) * 0x87);
        }
        TweakKey { powers, steps }
    }

    /// The tweak key times `number`, in the same time for every number.
    #[inline(always)]
    fn times(&self, number: u128) -> u128 {
        self.powers.iter().enumerate().fold(0, |sum, (bit, power)| sum ^ (power * (number >> bit & 1)))
    }
}

impl Tweaks for TweakKey {
    #[inline(always)]
    fn write(&self, start: &Block16, out: &mut [Block16]) {
        let mut number = u128::from_be_bytes((*start).into());
        let mut tweak = self.times(number);
        for block in out {
            *block = tweak.to_be_bytes().into();
            let ones = number.trailing_ones() as usize;
            tweak ^= self.steps[ones.min(127)];
            number = number.wrapping_add(1);
        }
    }
}
