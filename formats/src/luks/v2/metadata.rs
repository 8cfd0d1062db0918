//! The metadata of LUKS2: a JSON value to a validated model.
//!
//! What cryptsetup refuses is refused here, by the path of the member that is wrong. What concerns a single key slot and
//! only matters when that is used (an algorithm we do not have, an impossible cost) does not spoil the others: such a
//! slot is kept with the reason why it cannot be used.
//!
//! Invariant: of a [`Metadata`] all references lead somewhere, key slot areas lie in the key slot area and apart from
//! each other, segments lie behind it, and whatever is encrypted has a digest.

use super::binary::Binary;
use super::value::At;
use crate::crypto::{CipherSpec, HashAlg};
use crate::luks::derive::{ArgonCost, Derivation, Variant};
use crate::luks::keyslot::{Proof, Wrapping};
use block::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;

/// Objects of one kind there may be.
pub(super) const MAX_OBJECTS: usize = 32;

/// Key slot areas begin and end at multiples of this.
pub(super) const AREA_ALIGN: u64 = 4096;

/// The most bytes all key slots together may take.
const MAX_KEYSLOTS_SIZE: u64 = 128 << 20;

/// Where a new or existing object is.
pub(super) type Id = u32;

/// How a key slot is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// Before the others.
    Prefer,
    /// In its turn.
    Normal,
    /// Only when it is named.
    Ignore,
}

impl Priority {
    /// The number in a header.
    pub(super) fn number(self) -> u32 {
        match self {
            Priority::Ignore => 0,
            Priority::Normal => 1,
            Priority::Prefer => 2,
        }
    }
}

/// A key slot.
#[derive(Debug, Clone)]
pub(super) struct Keyslot {
    /// `luks2` or `reencrypt`.
    pub(super) kind: String,
    /// Where its material is.
    pub(super) area: Range<u64>,
    /// How it is tried.
    pub(super) priority: Priority,
    /// What its derivation is called.
    pub(super) kdf: Option<String>,
    /// How a passphrase opens it, or why we cannot try.
    pub(super) mechanism: Result<(Derivation, Wrapping), String>,
    /// Stripes as they are written; programs go by 4000 whatever stands there.
    pub(super) stripes: Option<u64>,
}

/// What a volume key is recognised by.
#[derive(Debug, Clone)]
pub(super) struct Digest {
    pub(super) keyslots: Vec<Id>,
    pub(super) segments: Vec<Id>,
    /// How it is checked, or why we cannot.
    pub(super) proof: Result<Proof, String>,
}

/// A part of the payload.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) kind: String,
    pub(super) offset: u64,
    /// Bytes; `None`: all that is left.
    pub(super) size: Option<u64>,
    pub(super) flags: Vec<String>,
    /// Of segments that are encrypted.
    pub(super) crypt: Option<Crypt>,
}

/// How a segment is encrypted.
#[derive(Debug, Clone)]
pub(super) struct Crypt {
    pub(super) iv_tweak: u64,
    pub(super) encryption: String,
    pub(super) sector_size: u64,
    /// The kind of integrity protection, if there is any.
    pub(super) integrity: Option<String>,
}

/// Something that says how a passphrase is obtained.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: String,
    pub(super) keyslots: Vec<Id>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    pub(super) keyslots: BTreeMap<Id, Keyslot>,
    pub(super) tokens: BTreeMap<Id, Token>,
    pub(super) segments: BTreeMap<Id, Segment>,
    pub(super) digests: BTreeMap<Id, Digest>,
    /// Bytes of the area for key slots.
    pub(super) keyslots_size: u64,
    pub(super) flags: Vec<String>,
    /// What a program must know to use the container.
    pub(super) requirements: Vec<String>,
    /// Bytes of one copy of the header.
    header_size: u64,
}

impl Metadata {
    /// Parses and checks the whole of the metadata.
    ///
    /// # Errors
    /// The first member that is wrong, by its path.
    pub(super) fn parse(value: &Value, binary: &Binary) -> Result<Self> {
        let root = At::root(value);
        let config = root.member("config")?;
        let metadata = Metadata {
            keyslots: objects(&root, "keyslots", keyslot)?,
            tokens: objects(&root, "tokens", token)?,
            segments: objects(&root, "segments", segment)?,
            digests: objects(&root, "digests", digest)?,
            keyslots_size: config.member("keyslots_size")?.size()?,
            flags: config.optional("flags").map_or(Ok(Vec::new()), |flags| flags.texts())?,
            requirements: requirements(&config)?,
            header_size: binary.size,
        };
        let json_size = config.member("json_size")?;
        if json_size.size()? != binary.json_bytes() {
            return Err(json_size.wrong("does not fit the size of the header"));
        }
        metadata.check_config(&config)?;
        metadata.check_areas()?;
        metadata.check_segments()?;
        metadata.check_references()?;
        Ok(metadata)
    }

    /// The area for key slots.
    pub(super) fn keyslots_area(&self) -> Range<u64> {
        let start = 2 * self.header_size;
        start..start + self.keyslots_size
    }

    /// The lowest place in the area for key slots where `len` bytes are free that are not `taken`.
    pub(super) fn gap(&self, mut taken: Vec<Range<u64>>, len: u64) -> Option<u64> {
        let whole = self.keyslots_area();
        taken.sort_by_key(|area| area.start);
        let mut at = whole.start;
        for area in taken {
            if area.start >= at + len {
                break;
            }
            at = at.max(area.end.next_multiple_of(AREA_ALIGN));
        }
        (at + len <= whole.end).then_some(at)
    }

    /// Segments that are there now; the others belong to a re-encryption.
    pub(super) fn regular(&self) -> impl Iterator<Item = (Id, &Segment)> {
        let backup = |segment: &Segment| segment.flags.iter().any(|flag| flag.starts_with("backup-"));
        self.segments.iter().filter(move |(_, segment)| !backup(segment)).map(|(id, segment)| (*id, segment))
    }

    /// The digest of the payload.
    pub(super) fn payload_digest(&self) -> Option<(Id, &Digest)> {
        let (segment, _) = self.regular().next()?;
        self.digests.iter().find(|(_, d)| d.segments.contains(&segment)).map(|(id, digest)| (*id, digest))
    }

    fn check_config(&self, config: &At<'_>) -> Result<()> {
        let size = config.member("keyslots_size")?;
        if !self.keyslots_size.is_multiple_of(AREA_ALIGN) || self.keyslots_size > MAX_KEYSLOTS_SIZE {
            return Err(size.wrong("is no multiple of 4096 up to 128 MiB"));
        }
        let first = self.segments.values().map(|s| s.offset).min().unwrap_or(0);
        if first != 0 && first < self.keyslots_area().end {
            return Err(size.wrong("reaches into the payload"));
        }
        Ok(())
    }

    fn check_areas(&self) -> Result<()> {
        let whole = self.keyslots_area();
        let mut areas: Vec<_> = self.keyslots.iter().map(|(id, slot)| (slot.area.clone(), *id)).collect();
        areas.sort_by_key(|(area, _)| area.start);
        for (area, id) in &areas {
            if area.start < whole.start || area.end > whole.end {
                let text = format!("LUKS2 metadata: the area of key slot {id} is outside the key slot area");
                return Err(Error::corrupt(text));
            }
        }
        match areas.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
            Some(pair) => Err(Error::corrupt(format!(
                "LUKS2 metadata: the areas of key slots {} and {} overlap",
                pair[0].1, pair[1].1
            ))),
            None => Ok(()),
        }
    }

    fn check_segments(&self) -> Result<()> {
        let wrong = |text: &str| Err(Error::corrupt(format!("LUKS2 metadata: {text}")));
        if self.regular().next().is_none() {
            return wrong("there is no segment");
        }
        if !(0..).zip(self.segments.keys()).all(|(want, id)| want == *id) {
            return wrong("the numbers of segments have a gap");
        }
        let regular: Vec<_> = self.regular().map(|(_, segment)| segment).collect();
        let (_, before) = regular.split_last().expect("there is at least one");
        if before.iter().any(|segment| segment.size.is_none()) {
            return wrong("a segment that is not the last has no size");
        }
        let crypt = self.segments.iter().filter(|(_, segment)| segment.crypt.is_some());
        match crypt.map(|(id, _)| id).find(|id| !self.digests.values().any(|d| d.segments.contains(id))) {
            Some(id) => wrong(&format!("segment {id} is encrypted and has no digest")),
            None => Ok(()),
        }
    }

    fn check_references(&self) -> Result<()> {
        let dangling = |what: &str, id: Id, kind: &str, to: Id| {
            Err(Error::corrupt(format!(
                "LUKS2 metadata: {what} {id} refers to {kind} {to}, which does not exist"
            )))
        };
        let slots = |ids: &[Id]| ids.iter().copied().find(|id| !self.keyslots.contains_key(id));
        let mut owned = BTreeMap::new();
        for (id, digest) in &self.digests {
            if let Some(to) = slots(&digest.keyslots) {
                return dangling("digest", *id, "key slot", to);
            }
            if let Some(to) = digest.segments.iter().find(|to| !self.segments.contains_key(to)) {
                return dangling("digest", *id, "segment", *to);
            }
            for slot in &digest.keyslots {
                if owned.insert(slot, id).is_some() {
                    let text = format!("LUKS2 metadata: key slot {slot} belongs to two digests");
                    return Err(Error::corrupt(text));
                }
            }
        }
        for (id, token) in &self.tokens {
            if let Some(to) = slots(&token.keyslots) {
                return dangling("token", *id, "key slot", to);
            }
        }
        match self.keyslots.keys().find(|id| !owned.contains_key(id)) {
            Some(id) => Err(Error::corrupt(format!("LUKS2 metadata: key slot {id} belongs to no digest"))),
            None => Ok(()),
        }
    }
}

fn objects<T>(root: &At<'_>, name: &str, parse: fn(&At<'_>) -> Result<T>) -> Result<BTreeMap<Id, T>> {
    let all = root.member(name)?;
    let members = all.members()?;
    if members.len() > MAX_OBJECTS {
        return Err(all.wrong(&format!("has {} members, more than {MAX_OBJECTS}", members.len())));
    }
    members.iter().map(|member| Ok((member.id()?, parse(member)?))).collect()
}

fn requirements(config: &At<'_>) -> Result<Vec<String>> {
    let Some(all) = config.optional("requirements") else { return Ok(Vec::new()) };
    all.members()?;
    all.optional("mandatory").map_or(Ok(Vec::new()), |mandatory| mandatory.texts())
}

fn keyslot(at: &At<'_>) -> Result<Keyslot> {
    let kind = at.member("type")?.text()?.to_owned();
    at.member("key_size")?.number()?;
    let area = at.member("area")?;
    let (offset, size) = (area.member("offset")?.size()?, area.member("size")?.size()?);
    let end = offset.checked_add(size).ok_or_else(|| area.wrong("is beyond all files"))?;
    let priority = match at.optional("priority").map(|p| p.number()).transpose()? {
        None | Some(1) => Priority::Normal,
        Some(2) => Priority::Prefer,
        Some(_) => Priority::Ignore,
    };
    let mut slot = Keyslot {
        area: offset..end,
        priority,
        kdf: None,
        mechanism: Err(format!("key slots of type '{kind}' hold no key")),
        stripes: None,
        kind,
    };
    match slot.kind.as_str() {
        "reencrypt" => {}
        "luks2" => {
            let kdf = at.member("kdf")?;
            let af = at.member("af")?;
            af.member("type")?.must_be("luks1")?;
            area.member("type")?.must_be("raw")?;
            slot.stripes = Some(af.member("stripes")?.number()?);
            slot.kdf = Some(kdf.member("type")?.text()?.to_owned());
            slot.mechanism = mechanism(at, size).map_err(|e| e.to_string());
        }
        other => return Err(at.wrong(&format!("is of type '{other}', which is not known"))),
    }
    Ok(slot)
}

/// How the slot is opened; an error is about this slot alone.
fn mechanism(at: &At<'_>, size: u64) -> Result<(Derivation, Wrapping)> {
    let area = at.member("area")?;
    let key_bytes = bytes(&at.member("key_size")?)?;
    let cipher = CipherSpec::parse_dm(area.member("encryption")?.text()?, bytes(&area.member("key_size")?)?)?;
    if cipher.key_bytes() != bytes(&area.member("key_size")?)? {
        return Err(area.wrong("has a key size that its cipher does not take"));
    }
    let hash = HashAlg::from_header(at.member("af")?.member("hash")?.text()?)?;
    let wrapping = Wrapping { cipher, hash, key_bytes };
    if wrapping.material_bytes() as u64 > size {
        return Err(area.wrong("is too small for the key"));
    }
    Ok((derivation(&at.member("kdf")?)?, wrapping))
}

/// Bytes of a key: what no cipher takes is refused before anything is allocated.
fn bytes(at: &At<'_>) -> Result<usize> {
    match at.number()? {
        bytes @ 1..=512 => Ok(bytes as usize),
        other => Err(at.wrong(&format!("is {other}, no size of a key"))),
    }
}

fn derivation(kdf: &At<'_>) -> Result<Derivation> {
    let salt = kdf.member("salt")?.base64()?;
    let number = |name: &str| {
        let at = kdf.member(name)?;
        u32::try_from(at.number()?).map_err(|_| at.wrong("is too large"))
    };
    let variant = match kdf.member("type")?.text()? {
        "pbkdf2" => {
            let hash = HashAlg::from_header(kdf.member("hash")?.text()?)?;
            let iterations =
                NonZeroU32::new(number("iterations")?).ok_or_else(|| kdf.wrong("has no iterations"))?;
            return Ok(Derivation::Pbkdf2 { hash, iterations, salt });
        }
        "argon2i" => Variant::I,
        "argon2id" => Variant::Id,
        other => return Err(Error::unsupported(format!("Key derivation '{other}' is not supported"))),
    };
    let cost = ArgonCost { time: number("time")?, memory: number("memory")?, cpus: number("cpus")? };
    Ok(Derivation::Argon2 { variant, cost, salt })
}

fn digest(at: &At<'_>) -> Result<Digest> {
    at.member("type")?.text()?;
    Ok(Digest {
        keyslots: at.member("keyslots")?.ids()?,
        segments: at.member("segments")?.ids()?,
        proof: proof(at).map_err(|e| e.to_string()),
    })
}

fn proof(at: &At<'_>) -> Result<Proof> {
    at.member("type")?.must_be("pbkdf2")?;
    let derivation = derivation(at)?;
    let value = at.member("digest")?.base64()?;
    match value.len() {
        1..=64 => Ok(Proof { derivation, value }),
        other => Err(at.wrong(&format!("has a digest of {other} bytes"))),
    }
}

fn segment(at: &At<'_>) -> Result<Segment> {
    let kind = at.member("type")?.text()?.to_owned();
    let offset = at.member("offset")?;
    let size = at.member("size")?;
    let bytes = match size.text()? {
        "dynamic" => None,
        _ => Some(size.size()?),
    };
    let start = offset.size()?;
    if !start.is_multiple_of(block::SECTOR) {
        return Err(offset.wrong("is no multiple of 512"));
    }
    if bytes == Some(0) || bytes.is_some_and(|bytes| start.checked_add(bytes).is_none()) {
        return Err(size.wrong("is no size of a segment"));
    }
    let crypt = (kind == "crypt").then(|| crypt(at)).transpose()?;
    let unit = crypt.as_ref().map_or(block::SECTOR, |crypt| crypt.sector_size);
    if bytes.is_some_and(|bytes| unit > 0 && !bytes.is_multiple_of(unit)) {
        return Err(size.wrong("is no multiple of the sector size"));
    }
    let flags = at.optional("flags").map_or(Ok(Vec::new()), |flags| flags.texts())?;
    Ok(Segment { kind, offset: start, size: bytes, flags, crypt })
}

fn crypt(at: &At<'_>) -> Result<Crypt> {
    let sector_size = at.member("sector_size")?;
    let encryption = at.member("encryption")?;
    if encryption.text()?.is_empty() {
        return Err(encryption.wrong("is empty"));
    }
    if !matches!(sector_size.number()?, 512 | 1024 | 2048 | 4096) {
        return Err(sector_size.wrong("is none of 512, 1024, 2048 and 4096"));
    }
    let integrity = at
        .optional("integrity")
        .map(|integrity| -> Result<_> { Ok(integrity.member("type")?.text()?.to_owned()) });
    Ok(Crypt {
        iv_tweak: at.member("iv_tweak")?.size()?,
        encryption: encryption.text()?.to_owned(),
        sector_size: sector_size.number()?,
        integrity: integrity.transpose()?,
    })
}

fn token(at: &At<'_>) -> Result<Token> {
    let kind = at.member("type")?;
    match kind.text()? {
        "" => Err(kind.wrong("is empty")),
        text => Ok(Token { kind: text.to_owned(), keyslots: at.member("keyslots")?.ids()? }),
    }
}
