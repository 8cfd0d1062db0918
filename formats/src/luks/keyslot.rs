//! Key slots: from a passphrase to the volume key, and from a volume key to a slot's material.
//!
//! A slot's key is derived from the passphrase; it encrypts the volume key, which the anti-forensic splitter has spread
//! over 4000 stripes. Lives here: that mechanism, which both versions of the format share. Not here: how headers describe
//! slots, which of them are tried ([`search`](super::search)), where passphrases come from ([`secret`](super::secret)) and
//! what the volume key is used for.
//!
//! Invariant: keys, and material that is not encrypted, are in memory that is wiped ([`SecretBytes`]).

use super::area::Area;
use super::derive::{Bounds, Derivation, Excess, Rates};
use super::search::ReadMaterial;
use crate::crypto::{self, CipherSpec, HashAlg, SectorSize, af};
use secret::{Error, Kind, Result, SecretBytes};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// The key that the payload is encrypted with.
#[derive(Debug)]
pub(crate) struct VolumeKey(SecretBytes);

impl VolumeKey {
    /// A new random key of `len` bytes.
    ///
    /// # Errors
    /// The system has no random numbers or no memory.
    pub(super) fn generate(len: usize) -> Result<Self> {
        let mut key = SecretBytes::zeroed(len)?;
        super::random(&mut key)?;
        Ok(VolumeKey(key))
    }

    /// The key's bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What tells the right volume key from a wrong one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    /// How the key becomes the value.
    pub(super) derivation: Derivation,
    /// What it must become.
    pub(super) value: Vec<u8>,
}

impl Proof {
    /// The proof by which `key` will be recognised.
    ///
    /// # Errors
    /// The system has no memory.
    pub(super) fn of(key: &VolumeKey, derivation: Derivation, bytes: usize) -> Result<Self> {
        let value = derivation.key(key.as_bytes(), bytes)?.to_vec();
        Ok(Proof { derivation, value })
    }

    /// Whether `key` is the right one; `false` too when `stop` is set meanwhile.
    fn recognises(&self, stop: &AtomicBool, key: &VolumeKey) -> Result<bool> {
        let mut value = vec![0; self.value.len()];
        let done = self.derivation.derive(stop, key.as_bytes(), &mut value)?;
        Ok(done && value.ct_eq(&self.value).into())
    }
}

/// How the volume key is hidden in a slot's material.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrapping {
    /// What the material is encrypted with; sectors are numbered from the material's first.
    pub(super) cipher: CipherSpec,
    /// The hash of the anti-forensic splitter.
    pub(super) hash: HashAlg,
    /// Bytes of the volume key.
    pub(super) key_bytes: usize,
}

impl Wrapping {
    /// Bytes of the material, whole sectors.
    pub(super) fn material_bytes(&self) -> usize {
        (self.key_bytes * af::STRIPES).next_multiple_of(SectorSize::B512.bytes())
    }

    /// Bytes of a slot's own key.
    pub(super) fn slot_key_bytes(&self) -> usize {
        self.cipher.key_bytes()
    }

    /// The material that hides `key` under the slot's key.
    ///
    /// # Errors
    /// The system has no random numbers or no memory.
    pub(super) fn seal(&self, key: &VolumeKey, slot_key: &[u8]) -> Result<SecretBytes> {
        let split = af::split(self.hash, key.as_bytes(), af::STRIPES, super::random)?;
        let mut material = SecretBytes::zeroed(self.material_bytes())?;
        material[..split.len()].copy_from_slice(&split);
        crypto::new(&self.cipher, slot_key, SectorSize::B512)?.encrypt(0, &mut material);
        Ok(material)
    }

    /// The key hidden in `material`; a wrong slot key gives a wrong volume key.
    ///
    /// # Errors
    /// The system has no memory.
    pub(super) fn unseal(&self, material: &mut SecretBytes, slot_key: &[u8]) -> Result<VolumeKey> {
        crypto::new(&self.cipher, slot_key, SectorSize::B512)?.decrypt(0, material);
        let mut key = SecretBytes::zeroed(self.key_bytes)?;
        af::merge(self.hash, &material[..self.key_bytes * af::STRIPES], &mut key)?;
        Ok(VolumeKey(key))
    }
}

/// A key slot in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeySlot {
    /// Its number.
    pub(super) number: usize,
    /// How a passphrase becomes the slot's key.
    pub(super) derivation: Derivation,
    /// How that key hides the volume key.
    pub(super) wrapping: Wrapping,
    /// Where the material is, in bytes from the start of the header.
    pub(super) at: u64,
    /// By what the volume key is recognised.
    pub(super) proof: Arc<Proof>,
}

impl KeySlot {
    fn slot_key(&self, passphrase: &[u8]) -> Result<SecretBytes> {
        self.derivation.key(passphrase, self.wrapping.slot_key_bytes())
    }

    /// The material that hides `key` under `passphrase`.
    ///
    /// # Errors
    /// The system has no random numbers or no memory.
    pub(super) fn seal(&self, key: &VolumeKey, passphrase: &[u8]) -> Result<SecretBytes> {
        self.wrapping.seal(key, &self.slot_key(passphrase)?)
    }

    /// Writes material that hides `key` under `passphrase`, makes it durable, and proves that it opens.
    ///
    /// # Errors
    /// Those of the layer below, or what was read back is not what was written.
    pub(super) fn store(&self, area: &Area, key: &VolumeKey, passphrase: &[u8]) -> Result<()> {
        let slot_key = self.slot_key(passphrase)?;
        area.write(self.at, &self.wrapping.seal(key, &slot_key)?)?;
        area.flush()?;
        let mut back = SecretBytes::zeroed(self.wrapping.material_bytes())?;
        area.read(self.at, &mut back)?;
        match self.wrapping.unseal(&mut back, &slot_key)?.as_bytes().ct_eq(key.as_bytes()).into() {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Io,
                format!("The key material of slot {} does not read back as it was written", self.number),
            )),
        }
    }

    /// What trying it costs beyond `bounds`, if anything; what is certainly cheap enough is not measured.
    ///
    /// # Errors
    /// The processor-time clock cannot be read.
    pub(super) fn excess(&self, bounds: Bounds, rates: &mut Rates) -> Result<Option<Excess>> {
        let memory = self.derivation.memory().max(self.proof.derivation.memory());
        if memory > bounds.memory {
            return Ok(Some(Excess::Memory(memory)));
        }
        if self.longest() <= bounds.time {
            return Ok(None);
        }
        let time = self.duration(rates)?;
        Ok((time > bounds.time).then_some(Excess::Time(time)))
    }

    /// How long trying it takes on the slowest machine.
    pub(super) fn longest(&self) -> Duration {
        let proof = self.proof.derivation.longest(self.proof.value.len());
        self.derivation.longest(self.wrapping.slot_key_bytes()) + proof
    }

    /// About how long trying it takes here: its own derivation, and that of the volume key's digest.
    ///
    /// # Errors
    /// The processor-time clock cannot be read.
    pub(super) fn duration(&self, rates: &mut Rates) -> Result<Duration> {
        let proof = self.proof.derivation.duration(self.proof.value.len(), rates)?;
        Ok(self.derivation.duration(self.wrapping.slot_key_bytes(), rates)? + proof)
    }

    /// The volume key, if `passphrase` opens the slot; `None` too when `stop` is set meanwhile.
    ///
    /// # Errors
    /// Its material cannot be read, or there is no memory.
    pub(super) fn open_unless(
        &self,
        stop: &AtomicBool,
        read: &ReadMaterial<'_>,
        passphrase: &[u8],
    ) -> Result<Option<VolumeKey>> {
        let mut slot_key = SecretBytes::zeroed(self.wrapping.slot_key_bytes())?;
        if !self.derivation.derive(stop, passphrase, &mut slot_key)? {
            return Ok(None);
        }
        let mut material = SecretBytes::zeroed(self.wrapping.material_bytes())?;
        read(self.at, &mut material)?;
        let key = self.wrapping.unseal(&mut material, &slot_key)?;
        Ok(self.proof.recognises(stop, &key)?.then_some(key))
    }
}
