//! The names of ciphers, modes and IV generators: one static table row each.
//!
//! Every algorithm has two spellings, the one of QEMU's options (`aes-256`) and the one that LUKS headers and dm-crypt
//! share (`aes`). Both live here and nowhere else, and so do the algorithms we know by name but do not have. What an
//! algorithm *does* is in the module of the mode; how they combine is [`CipherSpec`](super::CipherSpec).

use secret::{Error, Result};

use super::HashAlg;

/// A block cipher with its key size, as QEMU's `cipher-alg` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    Cast5_128,
    Serpent128,
    Serpent192,
    Serpent256,
    Twofish128,
    Twofish192,
    Twofish256,
}

/// A table row of [`Cipher`].
struct CipherRow {
    cipher: Cipher,
    qemu: &'static str,
    family: &'static str,
    /// The family as QEMU writes it in a sentence.
    title: &'static str,
    key_bytes: usize,
    block_bytes: usize,
}

const fn row(
    cipher: Cipher,
    qemu: &'static str,
    (family, title, block_bytes): (&'static str, &'static str, usize),
    key_bytes: usize,
) -> CipherRow {
    CipherRow { cipher, qemu, family, title, key_bytes, block_bytes }
}

const AES: (&str, &str, usize) = ("aes", "AES", 16);
const CAST5: (&str, &str, usize) = ("cast5", "Cast5", 8);
const SERPENT: (&str, &str, usize) = ("serpent", "Serpent", 16);
const TWOFISH: (&str, &str, usize) = ("twofish", "Twofish", 16);

/// In the order of the enum, so that the discriminant is the index.
static CIPHERS: [CipherRow; 10] = [
    row(Cipher::Aes128, "aes-128", AES, 16),
    row(Cipher::Aes192, "aes-192", AES, 24),
    row(Cipher::Aes256, "aes-256", AES, 32),
    row(Cipher::Cast5_128, "cast5-128", CAST5, 16),
    row(Cipher::Serpent128, "serpent-128", SERPENT, 16),
    row(Cipher::Serpent192, "serpent-192", SERPENT, 24),
    row(Cipher::Serpent256, "serpent-256", SERPENT, 32),
    row(Cipher::Twofish128, "twofish-128", TWOFISH, 16),
    row(Cipher::Twofish192, "twofish-192", TWOFISH, 24),
    row(Cipher::Twofish256, "twofish-256", TWOFISH, 32),
];

impl Cipher {
    /// Every cipher we have, in the order help texts print them.
    pub fn all() -> impl Iterator<Item = Self> {
        CIPHERS.iter().map(|row| row.cipher)
    }

    fn row(self) -> &'static CipherRow {
        &CIPHERS[self as usize]
    }

    /// QEMU's `cipher-alg` spelling: `aes-256`.
    pub fn name(self) -> &'static str {
        self.row().qemu
    }

    /// The name in a LUKS header and in dm-crypt: `aes`.
    pub fn family(self) -> &'static str {
        self.row().family
    }

    /// Bytes of one key of the cipher itself (a mode may need more: see [`Mode::key_bytes`]).
    pub fn key_bytes(self) -> usize {
        self.row().key_bytes
    }

    /// Bytes of one cipher block: 16, or 8 for cast5.
    pub fn block_bytes(self) -> usize {
        self.row().block_bytes
    }

    /// The cipher an option value names, such as `cipher-alg=aes-256`; `option` is the option's name.
    ///
    /// # Errors
    /// QEMU's sentence about the value; for a cipher that is known but not built in, what there is instead.
    pub fn from_option(option: &str, value: &str) -> Result<Self> {
        CIPHERS.iter().find(|row| row.qemu == value).map(|row| row.cipher).ok_or_else(|| {
            match Absent::find(Category::Cipher, value) {
                Some(absent) => Error::unsupported(format!("Algorithm '{value}' not supported"))
                    .with_hint(absent.hint(value)),
                None => unknown_value(option, value, Self::all().map(Self::name)),
            }
        })
    }

    /// The cipher a LUKS header names by family and size of one cipher key in bytes.
    ///
    /// # Errors
    /// "Algorithm 'x' with key size n bytes not supported".
    pub fn from_header(family: &str, key_bytes: usize) -> Result<Self> {
        let of_family = || CIPHERS.iter().filter(|row| row.family == family);
        if let Some(row) = of_family().find(|row| row.key_bytes == key_bytes) {
            return Ok(row.cipher);
        }
        let error =
            Error::unsupported(format!("Algorithm '{family}' with key size {key_bytes} bytes not supported"));
        let sizes: Vec<String> = of_family().map(|row| row.key_bytes.to_string()).collect();
        Err(match (sizes.is_empty(), Absent::find(Category::Cipher, family)) {
            (false, _) => error.with_hint(format!("{family} keys have {} bytes", sizes.join(", "))),
            (true, Some(absent)) => error.with_hint(absent.hint(family)),
            (true, None) => error.with_hint(format!("ciphers built in: {}", families())),
        })
    }

    /// The cipher of the same family whose key is as long as a digest of `hash`, which ESSIV encrypts sectors with.
    ///
    /// # Errors
    /// QEMU's sentence when the family has no such key size.
    pub fn for_essiv(self, hash: HashAlg) -> Result<Self> {
        let (this, bytes) = (self.row(), hash.digest_bytes());
        let fits = |row: &&CipherRow| row.family == this.family && row.key_bytes == bytes;
        CIPHERS.iter().find(fits).map(|row| row.cipher).ok_or_else(|| {
            let text = match self {
                Cipher::Cast5_128 => format!("Cipher {} not supported with essiv", this.qemu),
                _ => format!("No {} cipher with key size {bytes} available", this.title),
            };
            let usable = HashAlg::all().filter(|h| {
                CIPHERS.iter().any(|row| row.family == this.family && row.key_bytes == h.digest_bytes())
            });
            let names: Vec<_> = usable.map(HashAlg::name).collect();
            Error::unsupported(text).with_hint(format!(
                "the digest of essiv's hash becomes a key of {}: {}",
                this.family,
                names.join(", ")
            ))
        })
    }
}

fn families() -> String {
    let mut names: Vec<_> = CIPHERS.iter().map(|row| row.family).collect();
    names.dedup();
    names.join(", ")
}

/// A mode of operation: how the blocks of one sector hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// XEX with ciphertext stealing (IEEE 1619): two keys, tweak doubled from block to block.
    Xts,
    /// Cipher block chaining within a sector.
    Cbc,
    /// Counter mode: the IV counts up, big-endian, within a sector.
    Ctr,
    /// Each block by itself; the IV is not used.
    Ecb,
    /// Liskov-Rivest-Wagner (draft IEEE P1619): the cipher's key and a 16-byte tweak key.
    Lrw,
}

static MODES: [(Mode, &str); 5] =
    [(Mode::Xts, "xts"), (Mode::Cbc, "cbc"), (Mode::Ctr, "ctr"), (Mode::Ecb, "ecb"), (Mode::Lrw, "lrw")];

impl Mode {
    /// Every mode we have.
    pub fn all() -> impl Iterator<Item = Self> {
        MODES.iter().map(|(mode, _)| *mode)
    }

    /// The name, which QEMU, LUKS headers and dm-crypt share.
    pub fn name(self) -> &'static str {
        MODES[self as usize].1
    }

    /// Bytes of the whole (volume) key when the cipher's own key has `cipher_key` bytes.
    pub fn key_bytes(self, cipher_key: usize) -> usize {
        match self {
            Mode::Xts => cipher_key * 2,
            Mode::Lrw => cipher_key + 16,
            Mode::Cbc | Mode::Ctr | Mode::Ecb => cipher_key,
        }
    }

    /// Bytes of the cipher's own key in a volume key of `volume_key` bytes (rounded down if it does not divide).
    pub fn cipher_key_bytes(self, volume_key: usize) -> usize {
        match self {
            Mode::Xts => volume_key / 2,
            Mode::Lrw => volume_key.saturating_sub(16),
            Mode::Cbc | Mode::Ctr | Mode::Ecb => volume_key,
        }
    }

    /// The mode an option value names.
    ///
    /// # Errors
    /// QEMU's sentence about the value; for a known mode that is not built in, what there is instead.
    pub fn from_option(option: &str, value: &str) -> Result<Self> {
        Self::find(value).ok_or_else(|| match Absent::find(Category::Mode, value) {
            Some(absent) => unknown_value(option, value, []).with_hint(absent.hint(value)),
            None => unknown_value(option, value, Self::all().map(Self::name)),
        })
    }

    /// The mode a LUKS header names.
    ///
    /// # Errors
    /// "Cipher mode 'x' not supported".
    pub fn from_header(name: &str) -> Result<Self> {
        Self::find(name).ok_or_else(|| {
            let error = Error::unsupported(format!("Cipher mode '{name}' not supported"));
            match Absent::find(Category::Mode, name) {
                Some(absent) => error.with_hint(absent.hint(name)),
                None => error.with_hint(format!("modes built in: {}", join(Self::all().map(Self::name)))),
            }
        })
    }

    fn find(name: &str) -> Option<Self> {
        MODES.iter().find(|(_, n)| *n == name).map(|(mode, _)| *mode)
    }
}

/// How the sector number becomes the IV of a sector. Numbers count 512-byte units whatever the sector size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IvGen {
    /// The low 32 bits of the sector number, little-endian.
    Plain,
    /// The sector number, 64 bits little-endian.
    Plain64,
    /// The sector number, 64 bits big-endian, at the end of the IV.
    Plain64Be,
    /// The `plain64` IV encrypted with the hash of the volume key as key.
    Essiv,
    /// The number of the sector's first cipher block, from 1, 64 bits big-endian at the end of the IV (for lrw).
    Benbi,
    /// Always zero.
    Null,
}

static IVGENS: [(IvGen, &str); 6] = [
    (IvGen::Plain, "plain"),
    (IvGen::Plain64, "plain64"),
    (IvGen::Plain64Be, "plain64be"),
    (IvGen::Essiv, "essiv"),
    (IvGen::Benbi, "benbi"),
    (IvGen::Null, "null"),
];

impl IvGen {
    /// Every IV generator we have.
    pub fn all() -> impl Iterator<Item = Self> {
        IVGENS.iter().map(|(ivgen, _)| *ivgen)
    }

    /// The name, which QEMU, LUKS headers and dm-crypt share.
    pub fn name(self) -> &'static str {
        IVGENS[self as usize].1
    }

    /// The generator an option value names.
    ///
    /// # Errors
    /// QEMU's sentence about the value; for a known generator that is not built in, what there is instead.
    pub fn from_option(option: &str, value: &str) -> Result<Self> {
        Self::find(value).ok_or_else(|| match Absent::find(Category::IvGen, value) {
            Some(absent) => unknown_value(option, value, []).with_hint(absent.hint(value)),
            None => unknown_value(option, value, Self::all().map(Self::name)),
        })
    }

    /// The generator a LUKS header names.
    ///
    /// # Errors
    /// "IV generator 'x' not supported".
    pub fn from_header(name: &str) -> Result<Self> {
        Self::find(name).ok_or_else(|| {
            let error = Error::unsupported(format!("IV generator '{name}' not supported"));
            match Absent::find(Category::IvGen, name) {
                Some(absent) => error.with_hint(absent.hint(name)),
                None => {
                    error.with_hint(format!("IV generators built in: {}", join(Self::all().map(Self::name))))
                }
            }
        })
    }

    fn find(name: &str) -> Option<Self> {
        IVGENS.iter().find(|(_, n)| *n == name).map(|(ivgen, _)| *ivgen)
    }
}

fn join<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// QEMU's sentence about an option value outside its enumeration; the hint lists what there is.
pub(super) fn unknown_value<'a>(option: &str, value: &str, have: impl IntoIterator<Item = &'a str>) -> Error {
    let error = Error::invalid(format!("Parameter '{option}' does not accept value '{value}'"));
    match join(have) {
        names if names.is_empty() => error,
        names => error.with_hint(format!("values of {option}: {names}")),
    }
}

/// What an algorithm is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Category {
    Cipher,
    Mode,
    IvGen,
    Hash,
    Kdf,
}

impl Category {
    /// The word for tables and sentences.
    pub fn name(self) -> &'static str {
        match self {
            Category::Cipher => "cipher",
            Category::Mode => "mode",
            Category::IvGen => "ivgen",
            Category::Hash => "hash",
            Category::Kdf => "kdf",
        }
    }
}

/// Algorithms of LUKS headers, dm-crypt or QEMU that we know by name and do not have.
pub(super) struct Absent {
    category: Category,
    names: &'static [&'static str],
    instead: &'static str,
}

const STRONG_CIPHERS: &str = "aes-256, serpent-256 or twofish-256";
const STRONG_HASHES: &str = "sha256 or sha512";

static ABSENT: [Absent; 8] = [
    Absent {
        category: Category::Cipher,
        names: &[
            "sm4",
            "camellia",
            "camellia-128",
            "camellia-192",
            "camellia-256",
            "aria",
            "seed",
            "cast6",
            "anubis",
            "khazad",
            "tea",
            "xtea",
            "blowfish",
            "idea",
            "gost89",
            "kuznyechik",
            "magma",
            "xchacha12,aes",
            "xchacha20,aes",
            "aegis128",
        ],
        instead: STRONG_CIPHERS,
    },
    Absent {
        category: Category::Cipher,
        names: &["des", "3des", "des3_ede", "rc4", "arc4"],
        instead: "aes-256 (this one is broken or too short)",
    },
    Absent {
        category: Category::Cipher,
        names: &["cipher_null", "null"],
        instead: "a raw image (the null cipher encrypts nothing)",
    },
    Absent {
        category: Category::Mode,
        names: &["adiantum", "hctr2", "gcm", "ccm", "pcbc", "cfb", "ofb", "cmc", "eme", "random"],
        instead: "xts",
    },
    Absent {
        category: Category::IvGen,
        names: &["eboiv", "lmk", "tcw", "elephant", "random"],
        instead: "plain64, or essiv with cbc",
    },
    Absent {
        category: Category::Hash,
        names: &[
            "stribog256",
            "stribog512",
            "streebog256",
            "streebog512",
            "blake2b-160",
            "blake2b-256",
            "blake2b-384",
            "blake2s-128",
            "blake2s-160",
            "blake2s-224",
            "sha512-256",
            "shake256",
        ],
        instead: STRONG_HASHES,
    },
    Absent {
        category: Category::Hash,
        names: &["md4", "tiger", "tgr192", "tgr128", "gost", "crc32", "rmd128", "rmd256", "rmd320"],
        instead: STRONG_HASHES,
    },
    Absent {
        category: Category::Kdf,
        names: &["argon2i", "argon2id", "argon2d", "scrypt"],
        instead: "pbkdf2",
    },
];

impl Absent {
    pub(super) fn find(category: Category, name: &str) -> Option<&'static Self> {
        ABSENT.iter().find(|row| row.category == category && row.names.contains(&name))
    }

    pub(super) fn hint(&self, name: &str) -> String {
        let what = self.category.name();
        format!("the {what} {name} is known but not built in; there is {}", self.instead)
    }
}

/// One line of [`support`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// What the algorithm is for.
    pub category: Category,
    /// QEMU's spelling where there is one, else that of LUKS headers.
    pub name: &'static str,
    /// `None` when it is built in, else what there is instead.
    pub instead: Option<&'static str>,
}

/// Every algorithm we know, with what there is instead of those we do not have: the crypto support query.
pub fn support() -> Vec<Support> {
    let have = |category| move |name| Support { category, name, instead: None };
    let absent = ABSENT.iter().flat_map(|row| {
        let Absent { category, names, instead } = row;
        names.iter().map(|name| Support { category: *category, name, instead: Some(*instead) })
    });
    Cipher::all()
        .map(Cipher::name)
        .map(have(Category::Cipher))
        .chain(Mode::all().map(Mode::name).map(have(Category::Mode)))
        .chain(IvGen::all().map(IvGen::name).map(have(Category::IvGen)))
        .chain(HashAlg::all().map(HashAlg::name).map(have(Category::Hash)))
        .chain([have(Category::Kdf)("pbkdf2")])
        .chain(absent)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_is_in_the_order_of_its_enum() {
        assert!(CIPHERS.iter().enumerate().all(|(i, row)| row.cipher as usize == i));
        assert!(MODES.iter().enumerate().all(|(i, row)| row.0 as usize == i));
        assert!(IVGENS.iter().enumerate().all(|(i, row)| row.0 as usize == i));
    }

    #[test]
    fn every_name_that_is_printed_is_parsed_back() {
        for cipher in Cipher::all() {
            assert_eq!(Cipher::from_option("cipher-alg", cipher.name()).unwrap(), cipher);
            assert_eq!(Cipher::from_header(cipher.family(), cipher.key_bytes()).unwrap(), cipher);
        }
        for mode in Mode::all() {
            assert_eq!(Mode::from_option("cipher-mode", mode.name()).unwrap(), mode);
            assert_eq!(mode.cipher_key_bytes(mode.key_bytes(24)), 24);
        }
        for ivgen in IvGen::all() {
            assert_eq!(IvGen::from_header(ivgen.name()).unwrap(), ivgen);
        }
    }

    #[test]
    fn a_known_cipher_that_is_not_built_in_is_named_with_what_there_is_instead() {
        let error = Cipher::from_option("cipher-alg", "sm4").unwrap_err();
        assert_eq!(error.to_string(), "Algorithm 'sm4' not supported");
        assert_eq!(
            error.hint(),
            Some("the cipher sm4 is known but not built in; there is aes-256, serpent-256 or twofish-256")
        );
        let error = Cipher::from_header("camellia", 32).unwrap_err();
        assert_eq!(error.to_string(), "Algorithm 'camellia' with key size 32 bytes not supported");
        assert!(error.hint().unwrap().contains("camellia is known"));
    }

    #[test]
    fn an_unknown_option_value_reads_as_in_qemu_and_lists_the_values() {
        let error = Cipher::from_option("cipher-alg", "foo").unwrap_err();
        assert_eq!(error.to_string(), "Parameter 'cipher-alg' does not accept value 'foo'");
        assert!(error.hint().unwrap().contains("cast5-128"));
        let error = Mode::from_option("cipher-mode", "adiantum").unwrap_err();
        assert!(error.hint().unwrap().ends_with("there is xts"));
    }

    #[test]
    fn a_wrong_key_size_lists_the_sizes_of_that_cipher() {
        let error = Cipher::from_header("aes", 20).unwrap_err();
        assert_eq!(error.to_string(), "Algorithm 'aes' with key size 20 bytes not supported");
        assert_eq!(error.hint(), Some("aes keys have 16, 24, 32 bytes"));
    }

    #[test]
    fn essiv_takes_the_cipher_whose_key_is_as_long_as_the_digest() {
        assert_eq!(Cipher::Aes128.for_essiv(HashAlg::Sha256).unwrap(), Cipher::Aes256);
        assert_eq!(Cipher::Cast5_128.for_essiv(HashAlg::Md5).unwrap(), Cipher::Cast5_128);
        let error = Cipher::Aes256.for_essiv(HashAlg::Sha1).unwrap_err();
        assert_eq!(error.to_string(), "No AES cipher with key size 20 available");
        assert!(error.hint().unwrap().contains("sha256"));
        let error = Cipher::Cast5_128.for_essiv(HashAlg::Sha256).unwrap_err();
        assert_eq!(error.to_string(), "Cipher cast5-128 not supported with essiv");
    }

    #[test]
    fn the_support_table_has_no_name_twice_in_a_category() {
        let table = support();
        for (i, a) in table.iter().enumerate() {
            assert!(!table[..i].iter().any(|b| (b.category, b.name) == (a.category, a.name)), "{}", a.name);
        }
        assert!(table.iter().any(|row| row.name == "serpent-192" && row.instead.is_none()));
    }
}
