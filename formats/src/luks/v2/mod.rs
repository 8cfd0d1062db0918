//! LUKS2: a header in two copies, each a binary part and JSON, and areas for key slots behind them.
//!
//! In the order of the bytes: [`binary`] (4096 bytes, checksum), [`document`] and [`value`] (JSON as text and as values),
//! [`metadata`] (what it says, checked), [`load`] (two copies: which counts, repair, writing). Above that: [`keys`]
//! (changes of key slots), [`create`], [`report`]. How a slot hides a key is the same as in LUKS1 and lives in
//! [`keyslot`](super::keyslot).
//!
//! What can be opened here: one segment, encrypted, without integrity protection, of a container that no re-encryption
//! is at work on. All else is recognised, and refused by name.

mod binary;
pub(super) mod create;
mod document;
mod keys;
mod load;
mod metadata;
mod report;
mod restore;
#[cfg(test)]
mod tests;
mod value;

pub(super) use keys::Luks2Keys;
pub(crate) use load::Header;

use super::container::Place;
use super::keyslot::{KeySlot, Proof};
use crate::crypto::{CipherSpec, SectorSize};
use block::{Error, Result};
use metadata::{Crypt, Digest, Id, Keyslot, Priority, Segment};
use std::sync::Arc;

impl Header {
    /// Where the payload is. Of what cannot be opened (see [`Header::cipher`]): where it begins.
    pub(super) fn place(&self) -> Place {
        let (_, segment) = self.segment();
        let (sector, first) = match &segment.crypt {
            Some(crypt) => (SectorSize::new(crypt.sector_size).unwrap_or(SectorSize::B512), crypt.iv_tweak),
            None => (SectorSize::B512, 0),
        };
        Place { start: segment.offset, len: segment.size, sector, first }
    }

    /// The first segment; there is one.
    fn segment(&self) -> (Id, &Segment) {
        self.metadata.regular().next().expect("metadata without a segment is refused")
    }

    /// What the payload is encrypted with, if it can be opened here.
    ///
    /// # Errors
    /// Why not, by the name of what is in the way.
    pub(super) fn cipher(&self) -> Result<CipherSpec> {
        self.check_requirements()?;
        if let Some((id, Digest { proof: Err(why), .. })) = self.metadata.payload_digest() {
            return Err(Error::unsupported(format!("LUKS2 digest {id} cannot be used: {why}")));
        }
        let crypt = match self.metadata.regular().collect::<Vec<_>>()[..] {
            [(_, Segment { crypt: Some(crypt), .. })] => crypt,
            [(id, segment)] => {
                let text =
                    format!("LUKS2 segment {id} is of type '{}', which is not supported", segment.kind);
                return Err(
                    Error::unsupported(text).with_hint("Only segments of type 'crypt' hold encrypted data.")
                );
            }
            ref several => {
                let text = format!("A LUKS2 payload in {} segments is not supported", several.len());
                return Err(Error::unsupported(text));
            }
        };
        self.payload_cipher(crypt)
    }

    fn payload_cipher(&self, crypt: &Crypt) -> Result<CipherSpec> {
        if let Some(kind) = &crypt.integrity {
            let text = format!("LUKS2 segment with integrity protection ({kind}) is not supported");
            return Err(Error::unsupported(text).with_hint(
                "Such a payload is laid out by dm-integrity: only cryptsetup on a machine with device-mapper reads it.",
            ));
        }
        let sizes =
            self.payload_slots().filter_map(|(_, slot)| Some(slot.mechanism.as_ref().ok()?.1.key_bytes));
        let key_bytes = sizes.max().unwrap_or(64);
        let cipher = CipherSpec::parse_dm(&crypt.encryption, key_bytes)?;
        if cipher.key_bytes() != key_bytes {
            let text =
                format!("Cipher {} with a key of {key_bytes} bytes is not supported", crypt.encryption);
            return Err(Error::corrupt(text));
        }
        Ok(cipher)
    }

    /// Refuses what a program must know about and we do not.
    ///
    /// # Errors
    /// The first such thing, by name.
    fn check_requirements(&self) -> Result<()> {
        let Some(name) = self.metadata.requirements.first() else { return Ok(()) };
        let text = format!("LUKS2 container with requirement '{name}' is not supported");
        Err(Error::unsupported(text).with_hint(match is_reencryption(name) {
            true => "A re-encryption was begun and has not ended: cryptsetup reencrypt --resume-only FILE ends it.",
            false => "Whoever made the container demands that only programs that know this feature touch it.",
        }))
    }

    /// Bytes of both copies of the metadata.
    pub(super) fn copies_bytes(&self) -> usize {
        usize::try_from(2 * self.binary.size).expect("a copy has at most 4 MiB")
    }

    /// Bytes of the header with all key slots.
    pub(super) fn header_bytes(&self) -> u64 {
        self.metadata.keyslots_area().end
    }

    /// The container's UUID.
    pub(super) fn uuid(&self) -> String {
        self.binary.uuid()
    }

    /// Whether a re-encryption was begun and has not ended.
    pub(super) fn in_reencryption(&self) -> bool {
        self.metadata.requirements.iter().any(|name| is_reencryption(name))
    }

    /// The key slots of the payload, in order of their numbers.
    fn payload_slots(&self) -> impl Iterator<Item = (Id, &Keyslot)> {
        let ids = self.metadata.payload_digest().map_or(&[][..], |(_, digest)| &digest.keyslots);
        self.metadata.keyslots.iter().filter(|(id, _)| ids.contains(id)).map(|(id, slot)| (*id, slot))
    }

    /// Fails if the payload has key slots and none of them can be tried.
    ///
    /// # Errors
    /// What is in the way of the first.
    pub(super) fn check_slots(&self) -> Result<()> {
        let mut slots = self.payload_slots();
        match slots.next() {
            Some((id, Keyslot { mechanism: Err(why), .. }))
                if slots.all(|(_, slot)| slot.mechanism.is_err()) =>
            {
                Err(Error::unsupported(format!("LUKS2 key slot {id} cannot be used: {why}")))
            }
            _ => Ok(()),
        }
    }

    /// The slots to try for the payload's key: preferred ones first, none that is to be ignored.
    pub(super) fn key_slots(&self) -> Vec<KeySlot> {
        let ignored = |slot: &KeySlot| {
            self.metadata.keyslots.get(&(slot.number as Id)).is_some_and(|s| s.priority == Priority::Ignore)
        };
        let mut slots = self.all_key_slots();
        slots.retain(|slot| !ignored(slot));
        slots
    }

    /// The slots of the payload that can be tried, preferred ones first.
    pub(super) fn all_key_slots(&self) -> Vec<KeySlot> {
        let Some((_, digest)) = self.metadata.payload_digest() else { return Vec::new() };
        let Ok(proof) = &digest.proof else { return Vec::new() };
        let proof = Arc::new(proof.clone());
        let mut slots: Vec<_> = self.payload_slots().collect();
        slots.sort_by_key(|(id, slot)| (slot.priority, *id));
        slots.into_iter().filter_map(|(id, slot)| slot.engine(id, &proof)).collect()
    }
}

impl Keyslot {
    /// The slot as the engine works with it, if we can use it.
    fn engine(&self, id: Id, proof: &Arc<Proof>) -> Option<KeySlot> {
        let (derivation, wrapping) = self.mechanism.as_ref().ok()?;
        Some(KeySlot {
            number: id as usize,
            derivation: derivation.clone(),
            wrapping: *wrapping,
            at: self.area.start,
            proof: Arc::clone(proof),
        })
    }
}

fn is_reencryption(requirement: &str) -> bool {
    requirement.starts_with("online-reencrypt") || requirement.starts_with("offline-reencrypt")
}
