//! Hash algorithms chosen at run time: names, digests, and the door through which generic code reaches the hash type.
//!
//! One table row per algorithm gives its names and size; one `match` ([`HashAlg::dispatch`]) gives its type. Key
//! derivation and the anti-forensic splitter go through that match once per call, not once per block.

use digest::{Digest, FixedOutput, KeyInit, Update};
use hmac::{Hmac, SimpleHmac};
use secret::{Error, Result};

use super::algorithms::{Absent, Category, unknown_value};

/// A hash algorithm, for key derivation, the anti-forensic splitter and ESSIV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum HashAlg {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
    Sm3,
    Whirlpool,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
    Blake2b512,
    Blake2s256,
}

/// A table row of [`HashAlg`].
struct HashRow {
    hash: HashAlg,
    /// The name in QEMU's options and in LUKS headers.
    name: &'static str,
    /// Another spelling that the kernel or older headers use.
    alias: Option<&'static str>,
    digest_bytes: usize,
}

const fn row(hash: HashAlg, name: &'static str, digest_bytes: usize) -> HashRow {
    HashRow { hash, name, alias: None, digest_bytes }
}

/// In the order of the enum, so that the discriminant is the index.
static HASHES: [HashRow; 15] = [
    row(HashAlg::Md5, "md5", 16),
    row(HashAlg::Sha1, "sha1", 20),
    row(HashAlg::Sha224, "sha224", 28),
    row(HashAlg::Sha256, "sha256", 32),
    row(HashAlg::Sha384, "sha384", 48),
    row(HashAlg::Sha512, "sha512", 64),
    HashRow { alias: Some("rmd160"), ..row(HashAlg::Ripemd160, "ripemd160", 20) },
    row(HashAlg::Sm3, "sm3", 32),
    HashRow { alias: Some("wp512"), ..row(HashAlg::Whirlpool, "whirlpool", 64) },
    row(HashAlg::Sha3_224, "sha3-224", 28),
    row(HashAlg::Sha3_256, "sha3-256", 32),
    row(HashAlg::Sha3_384, "sha3-384", 48),
    row(HashAlg::Sha3_512, "sha3-512", 64),
    row(HashAlg::Blake2b512, "blake2b-512", 64),
    row(HashAlg::Blake2s256, "blake2s-256", 32),
];

/// Code that is generic over the hash type, to be run by [`HashAlg::dispatch`].
pub(super) trait WithHash {
    type Output;

    /// Runs with `D` as the hash and `M` as HMAC over it.
    fn run<D, M>(self) -> Self::Output
    where
        D: Digest,
        M: Update + FixedOutput + KeyInit + Clone + Send + Sync;
}

impl HashAlg {
    /// Every hash we have, in the order help texts print them.
    pub fn all() -> impl Iterator<Item = Self> {
        HASHES.iter().map(|row| row.hash)
    }

    fn row(self) -> &'static HashRow {
        &HASHES[self as usize]
    }

    /// The name in QEMU's options and in LUKS headers: `sha256`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Bytes of a digest.
    pub fn digest_bytes(self) -> usize {
        self.row().digest_bytes
    }

    /// The hash an option value names; `option` is the option's name (`hash-alg`, `ivgen-hash-alg`).
    ///
    /// # Errors
    /// QEMU's sentence about the value; for a known hash that is not built in, what there is instead.
    pub fn from_option(option: &str, value: &str) -> Result<Self> {
        Self::find(value).ok_or_else(|| match Absent::find(Category::Hash, value) {
            Some(absent) => unknown_value(option, value, []).with_hint(absent.hint(value)),
            None => unknown_value(option, value, Self::all().map(Self::name)),
        })
    }

    /// The hash a LUKS header names.
    ///
    /// # Errors
    /// "Hash algorithm 'x' not supported".
    pub fn from_header(name: &str) -> Result<Self> {
        Self::find(name).ok_or_else(|| {
            let error = Error::unsupported(format!("Hash algorithm '{name}' not supported"));
            match Absent::find(Category::Hash, name) {
                Some(absent) => error.with_hint(absent.hint(name)),
                None => {
                    let names: Vec<_> = Self::all().map(Self::name).collect();
                    error.with_hint(format!("hashes built in: {}", names.join(", ")))
                }
            }
        })
    }

    fn find(name: &str) -> Option<Self> {
        HASHES.iter().find(|row| row.name == name || row.alias == Some(name)).map(|row| row.hash)
    }

    /// The digest of the concatenation of `parts`, into `out`, which is [`HashAlg::digest_bytes`] long.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn digest_into(self, parts: &[&[u8]], out: &mut [u8]) {
        struct DigestInto<'a>(&'a [&'a [u8]], &'a mut [u8]);
        impl WithHash for DigestInto<'_> {
            type Output = ();
            fn run<D: Digest, M>(self) {
                let mut hash = D::new();
                self.0.iter().for_each(|part| hash.update(part));
                self.1.copy_from_slice(&hash.finalize());
            }
        }
        self.dispatch(DigestInto(parts, out));
    }

    /// Runs `f` with this algorithm's type.
    pub(super) fn dispatch<F: WithHash>(self, f: F) -> F::Output {
        match self {
            HashAlg::Md5 => f.run::<md5::Md5, Hmac<md5::Md5>>(),
            HashAlg::Sha1 => f.run::<sha1::Sha1, Hmac<sha1::Sha1>>(),
            HashAlg::Sha224 => f.run::<sha2::Sha224, Hmac<sha2::Sha224>>(),
            HashAlg::Sha256 => f.run::<sha2::Sha256, Hmac<sha2::Sha256>>(),
            HashAlg::Sha384 => f.run::<sha2::Sha384, Hmac<sha2::Sha384>>(),
            HashAlg::Sha512 => f.run::<sha2::Sha512, Hmac<sha2::Sha512>>(),
            HashAlg::Ripemd160 => f.run::<ripemd::Ripemd160, Hmac<ripemd::Ripemd160>>(),
            HashAlg::Sm3 => f.run::<sm3::Sm3, Hmac<sm3::Sm3>>(),
            HashAlg::Whirlpool => f.run::<whirlpool::Whirlpool, Hmac<whirlpool::Whirlpool>>(),
            HashAlg::Sha3_224 => f.run::<sha3::Sha3_224, SimpleHmac<sha3::Sha3_224>>(),
            HashAlg::Sha3_256 => f.run::<sha3::Sha3_256, SimpleHmac<sha3::Sha3_256>>(),
            HashAlg::Sha3_384 => f.run::<sha3::Sha3_384, SimpleHmac<sha3::Sha3_384>>(),
            HashAlg::Sha3_512 => f.run::<sha3::Sha3_512, SimpleHmac<sha3::Sha3_512>>(),
            HashAlg::Blake2b512 => f.run::<blake2::Blake2b512, SimpleHmac<blake2::Blake2b512>>(),
            HashAlg::Blake2s256 => f.run::<blake2::Blake2s256, SimpleHmac<blake2::Blake2s256>>(),
        }
    }
}
