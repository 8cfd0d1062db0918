//! Whole runs of sectors through a mode: the public [`SectorCipher`], its one implementation, and the constructor.
//!
//! [`Sectors`] cuts a run into batches, makes the IVs of a batch in one go and gives both to the [`SectorMode`]; a mode
//! sees blocks and IVs, never sector numbers.

use std::fmt;

use cipher::array::{Array, ArraySize};
use cipher::consts::{U8, U16};
use cipher::inout::InOutBuf;
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use secret::{Error, Result};
use zeroize::Zeroizing;

use super::cbc::Cbc;
use super::ctr::Ctr;
use super::ecb::Ecb;
use super::ivgen::{EncryptBlocks, Ivs};
use super::lrw::Lrw;
use super::serpent::Serpent;
use super::twofish::Twofish;
use super::xts::Xts;
use super::{Cipher, CipherSpec, IvGen, Mode};

/// Which way a cipher is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Direction {
    Encrypt,
    Decrypt,
}

/// Bytes of a sector, the unit that has an IV: 512 (LUKS1, qcow, qcow2), 1024, 2048 or 4096 (LUKS2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectorSize(usize);

impl SectorSize {
    /// 512 bytes.
    pub const B512: Self = SectorSize(512);

    /// A size in bytes.
    ///
    /// # Errors
    /// It is not 512, 1024, 2048 or 4096.
    pub fn new(bytes: u64) -> Result<Self> {
        match bytes {
            512 => Ok(SectorSize(512)),
            1024 => Ok(SectorSize(1024)),
            2048 => Ok(SectorSize(2048)),
            4096 => Ok(SectorSize(4096)),
            _ => Err(Error::unsupported(format!("Sector size {bytes} is not supported"))
                .with_hint("sectors have 512, 1024, 2048 or 4096 bytes")),
        }
    }

    /// The size in bytes.
    pub fn bytes(self) -> usize {
        self.0
    }
}

/// A keyed cipher over runs of sectors. `first` is the number of the run's first sector in units of 512 bytes, whatever
/// the sector size. Buffers are whole sectors.
///
/// # Panics
/// All methods panic when a buffer is not a whole number of sectors: callers align requests.
pub trait SectorCipher: Send + Sync + fmt::Debug {
    /// The sector size it was made for.
    fn sector_size(&self) -> SectorSize;

    /// Encrypts or decrypts, in place or from one buffer to another.
    fn apply(&self, direction: Direction, first: u64, data: InOutBuf<'_, '_, u8>);

    /// Encrypts `data` in place.
    fn encrypt(&self, first: u64, data: &mut [u8]) {
        self.apply(Direction::Encrypt, first, data.into());
    }

    /// Decrypts `data` in place.
    fn decrypt(&self, first: u64, data: &mut [u8]) {
        self.apply(Direction::Decrypt, first, data.into());
    }

    /// Encrypts `from` into `to`, which has the same length.
    fn encrypt_to(&self, first: u64, from: &[u8], to: &mut [u8]) {
        self.apply(Direction::Encrypt, first, InOutBuf::new(from, to).expect("both buffers have one length"));
    }

    /// Decrypts `from` into `to`, which has the same length.
    fn decrypt_to(&self, first: u64, from: &[u8], to: &mut [u8]) {
        self.apply(Direction::Decrypt, first, InOutBuf::new(from, to).expect("both buffers have one length"));
    }
}

/// A keyed mode of operation over blocks of `N` bytes.
pub(super) trait SectorMode<N: ArraySize>: Send + Sync {
    /// Transforms `ivs.len()` sectors of equal size; may use `ivs` as scratch.
    fn run(&self, direction: Direction, ivs: &mut [Array<u8, N>], blocks: InOutBuf<'_, '_, Array<u8, N>>);
}

/// Sectors whose IVs are made in one go: as many blocks as the widest backend takes.
const BATCH: usize = 64;

struct Sectors<N: ArraySize, M> {
    spec: CipherSpec,
    size: SectorSize,
    ivs: Ivs<N>,
    mode: M,
}

impl<N: ArraySize, M: SectorMode<N>> SectorCipher for Sectors<N, M> {
    fn sector_size(&self) -> SectorSize {
        self.size
    }

    fn apply(&self, direction: Direction, first: u64, data: InOutBuf<'_, '_, u8>) {
        assert!(data.len().is_multiple_of(self.size.0), "requests are whole sectors");
        let (mut rest, _) = data.into_chunks::<N>();
        let per_sector = self.size.0 / N::USIZE;
        let step = (self.size.0 / 512) as u64;
        let mut ivs: [Array<u8, N>; BATCH] = std::array::from_fn(|_| Array::default());
        let mut sector = first;
        while !rest.is_empty() {
            let sectors = (rest.len() / per_sector).min(BATCH);
            let (batch, after) = rest.split_at(sectors * per_sector);
            let ivs = &mut ivs[..sectors];
            self.ivs.fill(sector, step, ivs);
            self.mode.run(direction, ivs, batch);
            sector = sector.wrapping_add(sectors as u64 * step);
            rest = after;
        }
    }
}

impl<N: ArraySize, M> fmt::Debug for Sectors<N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SectorCipher({}, {} bytes)", self.spec, self.size.0)
    }
}

/// A sector cipher of `spec` keyed with `key`, the volume key.
///
/// # Errors
/// The key's length is not [`CipherSpec::key_bytes`].
pub fn new(spec: &CipherSpec, key: &[u8], size: SectorSize) -> Result<Box<dyn SectorCipher>> {
    if key.len() != spec.key_bytes() {
        let text = format!("Volume key has {} bytes, {spec} needs {}", key.len(), spec.key_bytes());
        return Err(Error::invalid(text));
    }
    let cipher = build(Keyed { spec: *spec, key, size });
    wipe_stack();
    cipher
}

/// Overwrites the stack frames that [`build`] used: key schedules are returned by value through them, a moved value is
/// not wiped, and a schedule begins with the key itself.
#[inline(never)]
#[expect(
    clippy::large_stack_arrays,
    reason = "it must be as deep as the frames it overwrites, 51 KiB when measured"
)]
fn wipe_stack() {
    std::hint::black_box(&mut [0_u8; 128 << 10]);
}

#[inline(never)]
fn build(keyed: Keyed<'_>) -> Result<Box<dyn SectorCipher>> {
    match keyed.spec.cipher() {
        Cipher::Aes128 => keyed.wide::<aes::Aes128>(),
        Cipher::Aes192 => keyed.wide::<aes::Aes192>(),
        Cipher::Aes256 => keyed.wide::<aes::Aes256>(),
        Cipher::Cast5_128 => keyed.narrow::<cast5::Cast5>(),
        Cipher::Serpent128 | Cipher::Serpent192 | Cipher::Serpent256 => keyed.wide::<Serpent>(),
        Cipher::Twofish128 | Cipher::Twofish192 | Cipher::Twofish256 => keyed.wide::<Twofish>(),
    }
}

/// What a block cipher must be able to do to serve in a sector cipher.
pub(super) trait BlockCipher:
    BlockCipherEncrypt + BlockCipherDecrypt + KeyInit + Send + Sync + 'static
{
}

impl<C: BlockCipherEncrypt + BlockCipherDecrypt + KeyInit + Send + Sync + 'static> BlockCipher for C {}

/// A cipher of 16-byte blocks.
pub(super) trait BlockCipher16: BlockCipher + BlockSizeUser<BlockSize = U16> {}

impl<C: BlockCipher + BlockSizeUser<BlockSize = U16>> BlockCipher16 for C {}

/// Keys a block cipher.
///
/// # Errors
/// The key's length is not one the cipher takes.
pub(super) fn keyed<C: KeyInit>(key: &[u8]) -> Result<C> {
    C::new_from_slice(key)
        .map_err(|_| Error::invalid(format!("Cipher key of {} bytes is not usable", key.len())))
}

/// The arguments of [`new`], on their way to the types they name.
struct Keyed<'a> {
    spec: CipherSpec,
    key: &'a [u8],
    size: SectorSize,
}

impl Keyed<'_> {
    /// A sector cipher over 16-byte blocks.
    fn wide<C: BlockCipher16>(self) -> Result<Box<dyn SectorCipher>> {
        match self.spec.mode() {
            Mode::Xts => self.boxed(Xts::<C>::new(self.key)?),
            Mode::Lrw => self.boxed(Lrw::<C>::new(self.key)?),
            _ => self.narrow::<C>(),
        }
    }

    /// A sector cipher in a mode that works with blocks of any size.
    fn narrow<C: BlockCipher>(self) -> Result<Box<dyn SectorCipher>>
    where
        C::BlockSize: EssivSize,
    {
        match self.spec.mode() {
            Mode::Cbc => self.boxed(Cbc::<C>(keyed(self.key)?)),
            Mode::Ctr => self.boxed(Ctr::<C>(keyed(self.key)?)),
            Mode::Ecb => self.boxed(Ecb::<C>(keyed(self.key)?)),
            Mode::Xts | Mode::Lrw => {
                Err(Error::unsupported(format!("Unsupported cipher mode {}", self.spec.mode().name())))
            }
        }
    }

    fn boxed<N: EssivSize, M: SectorMode<N> + 'static>(&self, mode: M) -> Result<Box<dyn SectorCipher>> {
        let kind = self.spec.ivgen().unwrap_or(IvGen::Null);
        let essiv = match kind {
            IvGen::Essiv => Some(self.essiv()?),
            _ => None,
        };
        Ok(Box::new(Sectors { spec: self.spec, size: self.size, ivs: Ivs::new(kind, essiv), mode }))
    }

    /// The cipher that makes ESSIV's IVs, keyed with the hash of the whole volume key.
    fn essiv<N: EssivSize>(&self) -> Result<Box<dyn EncryptBlocks<N>>> {
        let hash = self
            .spec
            .ivgen_hash()
            .ok_or_else(|| Error::invalid("Missing IV generator hash specification"))?;
        let mut salt = Zeroizing::new(vec![0; hash.digest_bytes()]);
        hash.digest_into(&[self.key], &mut salt);
        N::essiv(self.spec.cipher().for_essiv(hash)?, &salt)
    }
}

/// Block sizes, each with the ciphers that have it.
trait EssivSize: ArraySize {
    /// `cipher`, keyed, to encrypt single blocks of this size.
    fn essiv(cipher: Cipher, key: &[u8]) -> Result<Box<dyn EncryptBlocks<Self>>>;
}

impl EssivSize for U16 {
    fn essiv(cipher: Cipher, key: &[u8]) -> Result<Box<dyn EncryptBlocks<U16>>> {
        Ok(match cipher {
            Cipher::Aes128 => Box::new(keyed::<aes::Aes128Enc>(key)?),
            Cipher::Aes192 => Box::new(keyed::<aes::Aes192Enc>(key)?),
            Cipher::Aes256 => Box::new(keyed::<aes::Aes256Enc>(key)?),
            Cipher::Serpent128 | Cipher::Serpent192 | Cipher::Serpent256 => Box::new(keyed::<Serpent>(key)?),
            Cipher::Twofish128 | Cipher::Twofish192 | Cipher::Twofish256 => Box::new(keyed::<Twofish>(key)?),
            Cipher::Cast5_128 => return Err(wrong_block(cipher)),
        })
    }
}

impl EssivSize for U8 {
    fn essiv(cipher: Cipher, key: &[u8]) -> Result<Box<dyn EncryptBlocks<U8>>> {
        match cipher {
            Cipher::Cast5_128 => Ok(Box::new(keyed::<cast5::Cast5>(key)?)),
            _ => Err(wrong_block(cipher)),
        }
    }
}

fn wrong_block(cipher: Cipher) -> Error {
    Error::unsupported(format!("Cipher {} not supported with essiv", cipher.name()))
}
