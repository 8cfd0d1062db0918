//! The options of LUKS images: what opening takes, what creating takes, and what their values mean.

use super::derive::Variant;
use super::keys::{ITER_TIME, Kind, NewKey};
use super::secret::missing;
use crate::crypto::{Cipher, CipherSpec, HashAlg, IvGen, Mode};
use block::graph::{CreateKind, CreateOption, CreateOptions};
use block::{Error, Result};
use serde::Deserialize;
use std::num::NonZeroU32;

/// Runtime options.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct OpenOptions {
    /// The id of the secret that opens a key slot.
    pub(super) key_secret: Option<String>,
}

const fn option(name: &'static str, kind: CreateKind, help: &'static str) -> CreateOption {
    CreateOption { name, kind, help, default: None }
}

/// Creation options, in the order in which they are printed.
pub(super) static CREATE: [CreateOption; 20] = [
    option("size", CreateKind::Size, "Virtual disk size"),
    option("key-secret", CreateKind::Str, "ID of the secret that provides the keyslot passphrase"),
    option("cipher-alg", CreateKind::Str, "Name of encryption cipher algorithm"),
    option("cipher-mode", CreateKind::Str, "Name of encryption cipher mode"),
    option("ivgen-alg", CreateKind::Str, "Name of IV generator algorithm"),
    option("ivgen-hash-alg", CreateKind::Str, "Name of IV generator hash algorithm"),
    option("hash-alg", CreateKind::Str, "Name of encryption hash algorithm"),
    option("iter-time", CreateKind::Num, "Time to spend in PBKDF in milliseconds"),
    option("detached-header", CreateKind::Bool, "Create a detached LUKS header"),
    option("version", CreateKind::Num, "Version of the LUKS format (1, 2)"),
    option("sector-size", CreateKind::Size, "LUKS2: size of an encrypted sector (512 to 4096)"),
    option("pbkdf", CreateKind::Str, "LUKS2: key derivation (pbkdf2, argon2i, argon2id)"),
    option("pbkdf-iterations", CreateKind::Num, "Cost of the key derivation, instead of iter-time"),
    option("pbkdf-memory", CreateKind::Num, "LUKS2: memory for Argon2 in KiB"),
    option("pbkdf-parallel", CreateKind::Num, "LUKS2: lanes of Argon2"),
    option("label", CreateKind::Str, "LUKS2: label"),
    option("subsystem", CreateKind::Str, "LUKS2: subsystem"),
    option("uuid", CreateKind::Str, "UUID of the container"),
    option("metadata-size", CreateKind::Size, "LUKS2: size of each copy of the metadata"),
    option("keyslots-size", CreateKind::Size, "LUKS2: size of the area for key slots"),
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Given {
    size: Option<u64>,
    key_secret: Option<String>,
    cipher_alg: Option<String>,
    cipher_mode: Option<String>,
    ivgen_alg: Option<String>,
    ivgen_hash_alg: Option<String>,
    hash_alg: Option<String>,
    iter_time: Option<u64>,
    detached_header: Option<bool>,
    version: Option<u64>,
    sector_size: Option<u64>,
    pbkdf: Option<String>,
    pbkdf_iterations: Option<u64>,
    pbkdf_memory: Option<u64>,
    pbkdf_parallel: Option<u64>,
    label: Option<String>,
    subsystem: Option<String>,
    uuid: Option<String>,
    metadata_size: Option<u64>,
    keyslots_size: Option<u64>,
}

/// A version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// LUKS1, which every program knows.
    One,
    /// LUKS2.
    Two,
}

/// What only LUKS2 has.
#[derive(Debug, Default)]
pub(super) struct Luks2Options {
    /// Bytes of a sector; chosen by the size unless given.
    pub(super) sector_size: Option<u64>,
    pub(super) label: String,
    pub(super) subsystem: String,
    pub(super) uuid: Option<String>,
    /// Bytes of one copy of the metadata.
    pub(super) metadata_size: Option<u64>,
    /// Bytes of the area for key slots.
    pub(super) keyslots_size: Option<u64>,
}

/// What a new image is to be.
#[derive(Debug)]
pub(super) struct NewImage {
    /// Bytes of the payload.
    pub(super) size: u64,
    /// The id of the secret for key slot 0.
    pub(super) key_secret: String,
    /// What the payload is encrypted with.
    pub(super) cipher: CipherSpec,
    /// For key derivation and the anti-forensic splitter.
    pub(super) hash: HashAlg,
    /// What opening the image is to cost.
    pub(super) key: NewKey,
    /// Which version it is to be.
    pub(super) version: Version,
    /// What there is only in version 2.
    pub(super) luks2: Luks2Options,
    /// Whether only the header is made.
    pub(super) detached: bool,
}

impl NewImage {
    /// The values given, completed with the defaults.
    ///
    /// # Errors
    /// A missing secret, a value that is not known, or algorithms that do not go together.
    pub(super) fn new(options: &CreateOptions) -> Result<Self> {
        let given: Given = options.parse()?;
        let version = given.version()?;
        let key = given.key()?;
        let hash = |name, text: Option<&str>| text.map(|text| HashAlg::from_option(name, text)).transpose();
        let text = given.cipher_alg.as_deref().unwrap_or("aes-256");
        let cipher = Cipher::from_option("cipher-alg", text)?;
        let mode = Mode::from_option("cipher-mode", given.cipher_mode.as_deref().unwrap_or("xts"))?;
        let ivgen = IvGen::from_option("ivgen-alg", given.ivgen_alg.as_deref().unwrap_or("plain64"))?;
        let ivgen_hash = match hash("ivgen-hash-alg", given.ivgen_hash_alg.as_deref())? {
            None if ivgen == IvGen::Essiv => Some(HashAlg::Sha256),
            given => given,
        };
        Ok(NewImage {
            size: given.size.unwrap_or(0),
            key_secret: given.key_secret.ok_or_else(missing)?,
            cipher: CipherSpec::new(cipher, mode, Some(ivgen), ivgen_hash)?,
            hash: hash("hash-alg", given.hash_alg.as_deref())?.unwrap_or(HashAlg::Sha256),
            key,
            detached: given.detached_header.unwrap_or(false),
            version,
            luks2: Luks2Options {
                sector_size: given.sector_size,
                label: given.label.unwrap_or_default(),
                subsystem: given.subsystem.unwrap_or_default(),
                uuid: given.uuid,
                metadata_size: given.metadata_size,
                keyslots_size: given.keyslots_size,
            },
        })
    }
}

impl Given {
    /// The version; what only version 2 has is refused with version 1.
    fn version(&self) -> Result<Version> {
        match self.version {
            Some(2) => return Ok(Version::Two),
            None | Some(1) => {}
            Some(other) => {
                let text = format!("Parameter 'version' does not accept value '{other}'");
                return Err(Error::invalid(text).with_hint("values of version: 1, 2"));
            }
        }
        let newer = [
            ("sector-size", self.sector_size.is_some()),
            ("pbkdf", self.pbkdf.as_deref().is_some_and(|name| name != "pbkdf2")),
            ("pbkdf-memory", self.pbkdf_memory.is_some()),
            ("pbkdf-parallel", self.pbkdf_parallel.is_some()),
            ("label", self.label.is_some()),
            ("subsystem", self.subsystem.is_some()),
            ("metadata-size", self.metadata_size.is_some()),
            ("keyslots-size", self.keyslots_size.is_some()),
        ];
        match newer.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::invalid(format!("LUKS1 has no '{name}'"))
                .with_hint("Add version=2 for a LUKS2 image.")),
            None => Ok(Version::One),
        }
    }

    fn key(&self) -> Result<NewKey> {
        let derivation = self.pbkdf.as_deref().map(kind).transpose()?;
        Ok(NewKey {
            iter_time: self.iter_time.unwrap_or(ITER_TIME),
            iterations: narrow("pbkdf-iterations", self.pbkdf_iterations)?.and_then(NonZeroU32::new),
            derivation: derivation.filter(|kind| self.version == Some(2) || *kind != Kind::Pbkdf2),
            memory: narrow("pbkdf-memory", self.pbkdf_memory)?,
            parallel: narrow("pbkdf-parallel", self.pbkdf_parallel)?,
        })
    }
}

/// A number as a header holds it.
///
/// # Errors
/// It is larger.
pub(super) fn narrow(name: &str, value: Option<u64>) -> Result<Option<u32>> {
    let narrow = |value: u64| {
        u32::try_from(value)
            .map_err(|_| Error::invalid(format!("Parameter '{name}' does not accept value '{value}'")))
    };
    value.map(narrow).transpose()
}

/// The key derivation of that name.
///
/// # Errors
/// There is none.
pub(crate) fn kind(name: &str) -> Result<Kind> {
    match name {
        "pbkdf2" => Ok(Kind::Pbkdf2),
        "argon2i" => Ok(Kind::Argon2(Variant::I)),
        "argon2id" => Ok(Kind::Argon2(Variant::Id)),
        other => Err(Error::invalid(format!("Parameter 'pbkdf' does not accept value '{other}'"))
            .with_hint("values of pbkdf: pbkdf2, argon2i, argon2id")),
    }
}
