//! Key slots of LUKS1: from the header's fields to what [`keyslot`](super::keyslot) works with, and their changes.
//!
//! A change touches nothing of the header but the fields of one slot, so whatever else a header says stays as it was
//! written. The header straddles a sector, and slot 6 lies on both sides: a slot that becomes active gets its salt
//! first, and then, in a write of its own, the one word in the first sector that makes it active.

use super::area::Area;
use super::calibrate::pbkdf2_iterations;
use super::derive::{Bounds, Derivation};
use super::header::{self, Digest, Header, Pbkdf2, Placement, SALT_BYTES, SLOTS};
use super::keys::{self, KeyStore, NewKey};
use super::keyslot::{KeySlot, Proof, VolumeKey, Wrapping};
use super::search::Search;
use crate::crypto::kdf;
use block::{Error, Kind, Result};
use std::num::NonZeroU32;
use std::sync::Arc;

impl Pbkdf2 {
    /// New parameters with a random salt.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn new(iterations: NonZeroU32) -> Result<Self> {
        let mut salt = [0; SALT_BYTES];
        super::random(&mut salt)?;
        Ok(Pbkdf2 { iterations, salt })
    }
}

impl Digest {
    /// The digest by which `key` will be recognised.
    pub(super) fn of(key: &VolumeKey, hash: crate::crypto::HashAlg, pbkdf2: Pbkdf2) -> Self {
        let mut digest = Digest { pbkdf2, value: Default::default() };
        kdf::pbkdf2(hash, key.as_bytes(), &pbkdf2.salt, pbkdf2.iterations, &mut digest.value);
        digest
    }
}

impl Header {
    fn derivation(&self, pbkdf2: Pbkdf2) -> Derivation {
        Derivation::Pbkdf2 { hash: self.hash, iterations: pbkdf2.iterations, salt: pbkdf2.salt.to_vec() }
    }

    fn wrapping(&self) -> Wrapping {
        Wrapping { cipher: self.cipher, hash: self.hash, key_bytes: self.cipher.key_bytes() }
    }

    fn proof(&self) -> Arc<Proof> {
        let Digest { pbkdf2, value } = self.digest;
        Arc::new(Proof { derivation: self.derivation(pbkdf2), value: value.to_vec() })
    }

    /// Slot `number` as it is when its passphrase is derived with `pbkdf2`.
    pub(super) fn key_slot(&self, number: usize, pbkdf2: Pbkdf2) -> KeySlot {
        KeySlot {
            number,
            derivation: self.derivation(pbkdf2),
            wrapping: self.wrapping(),
            at: self.slots[number].material.bytes(),
            proof: self.proof(),
        }
    }

    /// Bytes of a slot's material.
    pub(super) fn material_bytes(&self) -> usize {
        self.wrapping().material_bytes()
    }

    /// Where the last slot's material ends.
    pub(super) fn material_end(&self) -> u64 {
        let last = self.slots.iter().map(|slot| slot.material.bytes()).max().unwrap_or(0);
        last + (self.material_bytes() as u64).next_multiple_of(4096)
    }

    /// The slots in use, in order.
    pub(super) fn key_slots(&self) -> Vec<KeySlot> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(number, slot)| Some(self.key_slot(number, slot.pbkdf2?))).collect()
    }
}

/// The key slots of a LUKS1 header that may be changed.
#[derive(Debug)]
pub(super) struct Luks1Keys<'a> {
    area: &'a Area,
    bytes: [u8; header::BYTES],
    header: Header,
    bounds: Bounds,
}

impl<'a> Luks1Keys<'a> {
    /// Reads the header in `area`.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    pub(super) fn load(area: &'a Area, placement: Placement, bounds: Bounds) -> Result<Self> {
        let mut bytes = [0; header::BYTES];
        area.read(0, &mut bytes)?;
        let header = Header::parse(&bytes, placement)?;
        Ok(Luks1Keys { area, bytes, header, bounds })
    }

    /// The header as it is by now.
    pub(super) fn into_header(self) -> Header {
        self.header
    }

    /// Fills a slot in its place.
    fn put(&mut self, slot: usize, key: &VolumeKey, passphrase: &[u8], iterations: NonZeroU32) -> Result<()> {
        let pbkdf2 = Pbkdf2::new(iterations)?;
        self.header.key_slot(slot, pbkdf2).store(self.area, key, passphrase)?;
        self.activate(slot, pbkdf2)
    }

    /// Marks a slot as in use whose material is there.
    fn activate(&mut self, slot: usize, pbkdf2: Pbkdf2) -> Result<()> {
        self.header.slots[slot].pbkdf2 = Some(pbkdf2);
        header::put_slot(&mut self.bytes, slot, Some(&pbkdf2));
        header::set_active(&mut self.bytes, slot, false);
        self.write_header()?;
        header::set_active(&mut self.bytes, slot, true);
        self.write_header()
    }

    /// Copies a slot that is in use to one that is free; the material does not depend on its place.
    pub(super) fn copy(&mut self, from: usize, to: usize) -> Result<()> {
        let Some(pbkdf2) = self.header.slots[from].pbkdf2 else { return Ok(()) };
        let mut material = vec![0; self.header.material_bytes()];
        self.area.read(self.header.slots[from].material.bytes(), &mut material)?;
        self.put_material(to, pbkdf2, &material)
    }

    /// Puts material that was made before into a slot.
    pub(super) fn put_material(&mut self, slot: usize, pbkdf2: Pbkdf2, material: &[u8]) -> Result<()> {
        self.area.write(self.header.slots[slot].material.bytes(), material)?;
        self.area.flush()?;
        self.activate(slot, pbkdf2)
    }

    /// The header as it is by now.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    fn write_header(&mut self) -> Result<()> {
        self.area.write(0, &self.bytes)?;
        self.area.flush()
    }
}

impl KeyStore for Luks1Keys<'_> {
    fn slots(&self) -> usize {
        SLOTS
    }

    fn used(&self) -> Vec<usize> {
        self.active()
    }

    fn has_spare(&self) -> bool {
        self.free().is_some()
    }

    fn active(&self) -> Vec<usize> {
        self.header.active().map(|(number, ..)| number).collect()
    }

    fn key_slots(&self, _all: bool) -> Vec<KeySlot> {
        self.header.key_slots()
    }

    fn search(&self, slots: Vec<KeySlot>) -> Result<Search<'_>> {
        Search::new(slots, |at, to: &mut [u8]| self.area.read(at, to), self.bounds)
    }

    fn fill(&mut self, slot: usize, key: &VolumeKey, passphrase: &[u8], new: &NewKey) -> Result<()> {
        if matches!(new.derivation, Some(keys::Kind::Argon2(_))) {
            return Err(Error::unsupported("LUKS1 key slots have no key derivation but pbkdf2")
                .with_hint("LUKS2 has argon2id: img convert -O luks -o version=2"));
        }
        let bytes = self.header.wrapping().slot_key_bytes();
        let iterations = pbkdf2_iterations(self.header.hash, bytes, new)?;
        let spare = self.free().filter(|_| self.header.slots[slot].pbkdf2.is_some());
        if let Some(spare) = spare {
            // Half-way through, a slot that is overwritten in its place opens with neither passphrase.
            self.put(spare, key, passphrase, iterations)?;
        }
        self.put(slot, key, passphrase, iterations)?;
        spare.map_or(Ok(()), |spare| self.erase(spare))
    }

    fn erase(&mut self, slot: usize) -> Result<()> {
        let material = self.header.slots[slot].material.bytes();
        self.area.wipe(material, self.header.material_bytes())?;
        self.header.slots[slot].pbkdf2 = None;
        header::put_slot(&mut self.bytes, slot, None);
        self.write_header()
    }

    fn free(&self) -> Option<usize> {
        self.header.slots.iter().position(|slot| slot.pbkdf2.is_none())
    }

    fn check_writable(&self) -> Result<()> {
        Ok(())
    }
}

/// What cannot be changed because it cannot be read.
pub(super) fn wrong_key() -> Error {
    Error::new(Kind::WrongKey, super::secret::WRONG)
}
