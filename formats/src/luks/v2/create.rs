//! New LUKS2 containers, member for member as cryptsetup makes them.

use super::binary::{Binary, Names, SIZES};
use super::document::Object;
use super::keys::{area_bytes, describe};
use super::load::Header;
use super::metadata::AREA_ALIGN;
use crate::crypto::SectorSize;
use crate::crypto::kdf::{self, MIN_ITERATIONS};
use crate::luks::area::Area;
use crate::luks::calibrate;
use crate::luks::derive::Derivation;
use crate::luks::keyslot::{KeySlot, Proof, VolumeKey, Wrapping};
use crate::luks::options::{Luks2Options, NewImage};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use block::{Error, Result};
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of the whole header unless the user says otherwise.
const HEADER: u64 = 16 << 20;

/// The payload begins at a multiple of this.
const PAYLOAD_ALIGN: u64 = 1 << 20;

/// cryptsetup writes a new header three times before it is done, and counts.
const SEQID: u64 = 3;

/// Milliseconds that recognising the volume key takes.
const DIGEST_TIME: u64 = 125;

/// Where the parts of a new container go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::luks) struct Layout {
    /// Bytes of one copy of the metadata.
    metadata: u64,
    /// Bytes for key slots.
    keyslots: u64,
    /// Where the header ends, and the payload begins unless it is elsewhere.
    pub(in crate::luks) end: u64,
}

impl Layout {
    /// What the options come to.
    ///
    /// # Errors
    /// A size that the format does not have.
    pub(in crate::luks) fn new(options: &Luks2Options) -> Result<Self> {
        let metadata = options.metadata_size.unwrap_or(SIZES[0]);
        if !SIZES.contains(&metadata) {
            let text = format!("Parameter 'metadata-size' does not accept value '{metadata}'");
            return Err(Error::invalid(text).with_hint("It is a power of two from 16k to 4M."));
        }
        let keyslots = options.keyslots_size.unwrap_or(HEADER - 2 * metadata);
        if !keyslots.is_multiple_of(AREA_ALIGN) || keyslots == 0 || keyslots > 128 << 20 {
            let text = format!("Parameter 'keyslots-size' does not accept value '{keyslots}'");
            return Err(Error::invalid(text).with_hint("It is a multiple of 4096 up to 128M."));
        }
        Ok(Layout { metadata, keyslots, end: (2 * metadata + keyslots).next_multiple_of(PAYLOAD_ALIGN) })
    }
}

/// The sector size of a new payload of `size` bytes: the largest unless that does not divide it, as nobody could read
/// the rest.
///
/// # Errors
/// One was asked for that does not divide the size, or does not exist.
pub(in crate::luks) fn sector_size(asked: Option<u64>, size: u64) -> Result<SectorSize> {
    let Some(asked) = asked else {
        return SectorSize::new(if size.is_multiple_of(4096) { 4096 } else { 512 });
    };
    let sector = SectorSize::new(asked)?;
    match size.is_multiple_of(asked) {
        true => Ok(sector),
        false => Err(Error::invalid(format!("The size {size} is no multiple of the sector size {asked}"))
            .with_hint("Leave sector-size out for sectors of 512 bytes, or choose another size.")),
    }
}

/// Writes a header for a new volume key, with `passphrase` in slot 0. Gives the key.
///
/// # Errors
/// Those of the layer below, or names or sizes that do not fit.
pub(in crate::luks) fn create(
    area: &Area,
    new: &NewImage,
    passphrase: &[u8],
    slot: Derivation,
) -> Result<VolumeKey> {
    let layout = Layout::new(&new.luks2)?;
    let key = VolumeKey::generate(new.cipher.key_bytes())?;
    let wrapping = Wrapping { cipher: new.cipher, hash: new.hash, key_bytes: new.cipher.key_bytes() };
    let at = 2 * layout.metadata;
    if area_bytes(wrapping.key_bytes) > layout.keyslots {
        return Err(Error::invalid("The key slot area has no room for one key slot")
            .with_hint("Choose a larger keyslots-size."));
    }
    let proof = proof(new, &key)?;
    let document = Object::parse(&metadata(new, &layout, at, &wrapping, &slot, &proof)?.to_string())?;
    let engine = KeySlot { number: 0, derivation: slot, wrapping, at, proof: Arc::new(proof) };
    engine.store(area, &key, passphrase)?;
    let uuid = match &new.luks2.uuid {
        Some(uuid) => uuid.clone(),
        None => crate::luks::create::random_uuid()?,
    };
    let names = Names { uuid: &uuid, label: &new.luks2.label, subsystem: &new.luks2.subsystem };
    Header::create(area, Binary::new(layout.metadata, SEQID, &names)?, document)?;
    Ok(key)
}

fn proof(new: &NewImage, key: &VolumeKey) -> Result<Proof> {
    let bytes = new.hash.digest_bytes();
    let iterations = match new.key.iterations {
        Some(_) => MIN_ITERATIONS,
        None => kdf::calibrate(new.hash, bytes, DIGEST_TIME.min(new.key.iter_time))?,
    };
    let derivation = Derivation::Pbkdf2 { hash: new.hash, iterations, salt: calibrate::salt()? };
    Proof::of(key, derivation, bytes)
}

fn metadata(
    new: &NewImage,
    layout: &Layout,
    at: u64,
    wrapping: &Wrapping,
    slot: &Derivation,
    proof: &Proof,
) -> Result<Value> {
    let Derivation::Pbkdf2 { hash, iterations, salt } = &proof.derivation else {
        return Err(Error::invalid("Volume keys are recognised by pbkdf2"));
    };
    let offset = if new.detached { 0 } else { layout.end };
    let sector = sector_size(new.luks2.sector_size, new.size)?;
    Ok(json!({
        "keyslots": {"0": describe(at, wrapping, slot)},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt",
            "offset": offset.to_string(),
            "size": "dynamic",
            "iv_tweak": "0",
            "encryption": new.cipher.to_string(),
            "sector_size": sector.bytes(),
        }},
        "digests": {"0": {
            "type": "pbkdf2",
            "keyslots": ["0"],
            "segments": ["0"],
            "hash": hash.name(),
            "iterations": iterations,
            "salt": STANDARD.encode(salt),
            "digest": STANDARD.encode(&proof.value),
        }},
        "config": {
            "json_size": (layout.metadata - super::binary::BYTES as u64).to_string(),
            "keyslots_size": layout.keyslots.to_string(),
        },
    }))
}
