//! The options of LUKS images: what opening takes, what creating takes, and what their values mean.

use super::secret::missing;
use crate::crypto::{Cipher, CipherSpec, HashAlg, IvGen, Mode};
use block::Result;
use block::graph::{CreateKind, CreateOption, CreateOptions};
use serde::Deserialize;

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
pub(super) static CREATE: [CreateOption; 9] = [
    option("size", CreateKind::Size, "Virtual disk size"),
    option("key-secret", CreateKind::Str, "ID of the secret that provides the keyslot passphrase"),
    option("cipher-alg", CreateKind::Str, "Name of encryption cipher algorithm"),
    option("cipher-mode", CreateKind::Str, "Name of encryption cipher mode"),
    option("ivgen-alg", CreateKind::Str, "Name of IV generator algorithm"),
    option("ivgen-hash-alg", CreateKind::Str, "Name of IV generator hash algorithm"),
    option("hash-alg", CreateKind::Str, "Name of encryption hash algorithm"),
    option("iter-time", CreateKind::Num, "Time to spend in PBKDF in milliseconds"),
    option("detached-header", CreateKind::Bool, "Create a detached LUKS header"),
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
    /// Processor time that opening the image is to take, in milliseconds.
    pub(super) iter_time: u64,
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
            iter_time: given.iter_time.unwrap_or(2000),
            detached: given.detached_header.unwrap_or(false),
        })
    }
}
