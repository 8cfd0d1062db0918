//! Changes of LUKS2 key slots.
//!
//! A slot's area is not bound to its number, so a slot that is overwritten gets its new material elsewhere, under a
//! number that was free; when that opens, the old material is overwritten, and one change of the metadata gives the new
//! slot the old number. Where neither area nor number is free, it is overwritten in its place, which a power cut can
//! spoil; the rules above this ask for `--force` then.

use super::document::Object;
use super::load::Header;
use super::metadata::{AREA_ALIGN, Id, MAX_OBJECTS, Priority};
use crate::crypto::{CipherSpec, HashAlg};
use crate::luks::area::Area;
use crate::luks::calibrate;
use crate::luks::derive::{Bounds, Derivation};
use crate::luks::keys::{KeyStore, NewKey};
use crate::luks::keyslot::{KeySlot, Proof, VolumeKey, Wrapping};
use crate::luks::search::Search;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use block::{Error, Result};
use serde_json::{Value, json};
use std::sync::Arc;

/// The key slots of a LUKS2 header that may be changed.
#[derive(Debug)]
pub(crate) struct Luks2Keys<'a> {
    area: &'a Area,
    header: Header,
    bounds: Bounds,
}

impl<'a> Luks2Keys<'a> {
    /// Reads the header in `area`.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    pub(crate) fn load(area: &'a Area, bounds: Bounds) -> Result<Self> {
        Ok(Luks2Keys { area, header: Header::read(area)?, bounds })
    }

    /// The header as it is by now.
    pub(crate) fn into_header(self) -> Header {
        self.header
    }

    fn proof(&self) -> Result<(Id, Arc<Proof>)> {
        let (id, digest) = self
            .header
            .metadata
            .payload_digest()
            .ok_or_else(|| Error::corrupt("LUKS2 metadata has no digest for the payload"))?;
        let proof = digest.proof.clone().map_err(Error::unsupported)?;
        Ok((id, Arc::new(proof)))
    }

    fn id(slot: usize) -> Id {
        Id::try_from(slot).expect("slots are numbered below 32")
    }

    /// The lowest place in the key slot area where `len` bytes are free.
    fn place(&self, len: u64) -> Option<u64> {
        let metadata = &self.header.metadata;
        metadata.gap(metadata.keyslots.values().map(|slot| slot.area.clone()).collect(), len)
    }

    /// Writes a slot's material and then the metadata that has it under `id`.
    fn put(&mut self, id: Id, at: u64, slot: NewSlot<'_>) -> Result<()> {
        let (digest, proof) = self.proof()?;
        let NewSlot { key, passphrase, wrapping, derivation, priority } = slot;
        let number = id as usize;
        let engine = KeySlot { number, derivation: derivation.clone(), wrapping, at, proof };
        engine.store(self.area, key, passphrase)?;
        let mut document = self.header.document.clone();
        let mut value = describe(at, &wrapping, &derivation);
        match priority {
            Priority::Normal => {}
            other => value["priority"] = other.number().into(),
        }
        document.object("keyslots")?.set(&id.to_string(), &value)?;
        let mut ids = self.header.metadata.digests[&digest].keyslots.clone();
        if !ids.contains(&id) {
            ids.push(id);
        }
        set_ids(&mut document, "digests", digest, &ids)?;
        self.header.commit(self.area, document)
    }

    /// Takes slot `id` out of the document.
    fn without(&self, id: Id) -> Result<Object> {
        let mut document = self.header.document.clone();
        document.object("keyslots")?.remove(&id.to_string());
        for (digest, found) in &self.header.metadata.digests {
            if found.keyslots.contains(&id) {
                set_ids(&mut document, "digests", *digest, &others(&found.keyslots, id))?;
            }
        }
        for (token, found) in &self.header.metadata.tokens {
            if found.keyslots.contains(&id) {
                set_ids(&mut document, "tokens", *token, &others(&found.keyslots, id))?;
            }
        }
        Ok(document)
    }

    fn wipe(&self, id: Id) -> Result<()> {
        let area = &self.header.metadata.keyslots[&id].area;
        let len = usize::try_from(area.end - area.start).expect("key slot areas have at most 128 MiB");
        self.area.wipe(area.start, len)
    }

    /// Gives the slot that was put under `spare` the number `id`, whose material is gone.
    fn take_over(&mut self, spare: Id, id: Id) -> Result<()> {
        let mut document = self.header.document.clone();
        document.object("keyslots")?.rename(&spare.to_string(), &id.to_string());
        for (digest, found) in &self.header.metadata.digests {
            if found.keyslots.contains(&spare) {
                set_ids(&mut document, "digests", *digest, &others(&found.keyslots, spare))?;
            }
        }
        self.header.commit(self.area, document)
    }

    /// How the new slot hides the key: as cryptsetup does, with what the payload is encrypted with if that serves.
    fn wrapping(&self, key: &VolumeKey) -> Result<Wrapping> {
        let key_bytes = key.as_bytes().len();
        let existing =
            self.header.payload_slots().find_map(|(_, slot)| Some(slot.mechanism.as_ref().ok()?.1));
        if let Some(wrapping) = existing.filter(|wrapping| wrapping.key_bytes == key_bytes) {
            return Ok(wrapping);
        }
        let cipher = CipherSpec::parse_dm("aes-xts-plain64", 64)?;
        Ok(Wrapping { cipher, hash: HashAlg::Sha256, key_bytes })
    }
}

/// What is to be in a slot.
struct NewSlot<'a> {
    key: &'a VolumeKey,
    passphrase: &'a [u8],
    wrapping: Wrapping,
    derivation: Derivation,
    /// That of the slot it takes the place of.
    priority: Priority,
}

fn others(ids: &[Id], without: Id) -> Vec<Id> {
    ids.iter().copied().filter(|id| *id != without).collect()
}

fn set_ids(document: &mut Object, section: &str, id: Id, keyslots: &[Id]) -> Result<()> {
    let names: Vec<Value> = keyslots.iter().map(|id| Value::from(id.to_string())).collect();
    document.object(section)?.object(&id.to_string())?.set("keyslots", &Value::from(names))
}

/// Bytes of the area of a slot.
pub(super) fn area_bytes(key_bytes: usize) -> u64 {
    (key_bytes as u64 * crate::crypto::af::STRIPES as u64).next_multiple_of(AREA_ALIGN)
}

/// A key slot as cryptsetup writes it.
pub(super) fn describe(at: u64, wrapping: &Wrapping, derivation: &Derivation) -> Value {
    let kdf = match derivation {
        Derivation::Pbkdf2 { hash, iterations, salt } => json!({
            "type": "pbkdf2",
            "hash": hash.name(),
            "iterations": iterations,
            "salt": STANDARD.encode(salt),
        }),
        Derivation::Argon2 { variant, cost, salt } => json!({
            "type": variant.name(),
            "time": cost.time,
            "memory": cost.memory,
            "cpus": cost.cpus,
            "salt": STANDARD.encode(salt),
        }),
    };
    json!({
        "type": "luks2",
        "key_size": wrapping.key_bytes,
        "af": {"type": "luks1", "stripes": crate::crypto::af::STRIPES, "hash": wrapping.hash.name()},
        "area": {
            "type": "raw",
            "offset": at.to_string(),
            "size": area_bytes(wrapping.key_bytes).to_string(),
            "encryption": wrapping.cipher.to_string(),
            "key_size": wrapping.cipher.key_bytes(),
        },
        "kdf": kdf,
    })
}

impl KeyStore for Luks2Keys<'_> {
    fn slots(&self) -> usize {
        MAX_OBJECTS
    }

    fn used(&self) -> Vec<usize> {
        self.header.metadata.keyslots.keys().map(|id| *id as usize).collect()
    }

    fn has_spare(&self) -> bool {
        let sizes = self.header.payload_slots().map(|(_, slot)| slot.area.end - slot.area.start);
        self.free().is_some() && sizes.max().is_none_or(|len| self.place(len).is_some())
    }

    fn active(&self) -> Vec<usize> {
        let slots = self.header.payload_slots().filter(|(_, slot)| slot.mechanism.is_ok());
        slots.map(|(id, _)| id as usize).collect()
    }

    fn free(&self) -> Option<usize> {
        (0..MAX_OBJECTS).find(|slot| !self.header.metadata.keyslots.contains_key(&Self::id(*slot)))
    }

    fn check_writable(&self) -> Result<()> {
        self.header.check_requirements()
    }

    fn key_slots(&self, all: bool) -> Vec<KeySlot> {
        if all { self.header.all_key_slots() } else { self.header.key_slots() }
    }

    fn search(&self, slots: Vec<KeySlot>) -> Result<Search<'_>> {
        Search::new(slots, |at, to: &mut [u8]| self.area.read(at, to), self.bounds)
    }

    fn fill(&mut self, slot: usize, key: &VolumeKey, passphrase: &[u8], new: &NewKey) -> Result<()> {
        let id = Self::id(slot);
        let occupied = self.header.metadata.keyslots.contains_key(&id);
        if occupied && !self.active().contains(&slot) {
            let text = format!("Key slot {slot} does not belong to the payload and is not overwritten");
            return Err(Error::invalid(text));
        }
        let wrapping = self.wrapping(key)?;
        let derivation = calibrate::luks2(wrapping.hash, wrapping.slot_key_bytes(), new)?;
        let priority = self.header.metadata.keyslots.get(&id).map_or(Priority::Normal, |slot| slot.priority);
        let new = NewSlot { key, passphrase, wrapping, derivation, priority };
        let len = area_bytes(wrapping.key_bytes);
        let spare = if occupied { self.free().map(Self::id) } else { Some(id) };
        match (spare, self.place(len)) {
            (Some(spare), Some(at)) => {
                self.put(spare, at, new)?;
                if occupied {
                    self.wipe(id)?;
                    self.take_over(spare, id)?;
                }
                Ok(())
            }
            _ if occupied && fits(&self.header, id, len) => {
                let at = self.header.metadata.keyslots[&id].area.start;
                self.put(id, at, new)
            }
            _ => Err(Error::invalid("The key slot area has no room for another key slot")
                .with_hint("Remove a key slot that is not needed any more first.")),
        }
    }

    fn erase(&mut self, slot: usize) -> Result<()> {
        let id = Self::id(slot);
        if !self.used().contains(&slot) {
            return Ok(());
        }
        self.wipe(id)?;
        let document = self.without(id)?;
        self.header.commit(self.area, document)
    }
}

fn fits(header: &Header, id: Id, len: u64) -> bool {
    let area = &header.metadata.keyslots[&id].area;
    area.end - area.start >= len
}
