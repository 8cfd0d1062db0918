//! The matrix: which algorithms there are, which of them go together, and which of the real tools know them.

use tests::pairwise::pairwise;

/// Ciphers by the names of `cipher-alg`, with the bytes of their keys.
const CIPHERS: [(&str, usize); 10] = [
    ("aes-128", 16),
    ("aes-192", 24),
    ("aes-256", 32),
    ("cast5-128", 16),
    ("serpent-128", 16),
    ("serpent-192", 24),
    ("serpent-256", 32),
    ("twofish-128", 16),
    ("twofish-192", 24),
    ("twofish-256", 32),
];

const MODES: [&str; 5] = ["xts", "cbc", "ctr", "ecb", "lrw"];

const IVGENS: [&str; 6] = ["plain", "plain64", "plain64be", "essiv", "benbi", "null"];

/// Hashes, the default first.
const HASHES: [&str; 15] = [
    "sha256",
    "md5",
    "sha1",
    "sha224",
    "sha384",
    "sha512",
    "ripemd160",
    "sm3",
    "whirlpool",
    "sha3-224",
    "sha3-256",
    "sha3-384",
    "sha3-512",
    "blake2b-512",
    "blake2s-256",
];

/// A real tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// qemu-img: creates, reads and writes.
    Qemu,
    /// cryptsetup: opens key slots; whole payloads by way of LUKS2 and offline re-encryption.
    Cryptsetup,
    /// nbdkit's luks filter: reads and writes.
    Nbdkit,
}

/// Algorithms of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Combination {
    pub(crate) cipher: &'static str,
    cipher_key: usize,
    pub(crate) mode: &'static str,
    pub(crate) ivgen: &'static str,
    pub(crate) hash: &'static str,
}

impl Combination {
    fn exists(&self) -> bool {
        // These modes are defined for blocks of 16 bytes.
        !(self.cipher == "cast5-128" && matches!(self.mode, "xts" | "lrw"))
    }

    /// Bytes of the volume key.
    pub(crate) fn key_bytes(&self) -> usize {
        match self.mode {
            "xts" => self.cipher_key * 2,
            "lrw" => self.cipher_key + 16,
            _ => self.cipher_key,
        }
    }

    /// The hash whose digest is a key of the cipher that essiv uses.
    fn ivgen_hash(&self) -> &'static str {
        if self.cipher == "cast5-128" { "md5" } else { "sha256" }
    }

    /// What `-o` takes, secret and iteration time aside.
    pub(crate) fn options(&self) -> String {
        let Combination { cipher, mode, ivgen, hash, .. } = self;
        let options = format!("cipher-alg={cipher},cipher-mode={mode},ivgen-alg={ivgen},hash-alg={hash}");
        match *ivgen {
            "essiv" => format!("{options},ivgen-hash-alg={}", self.ivgen_hash()),
            _ => options,
        }
    }

    /// What cryptsetup's `--cipher` takes.
    pub(crate) fn spec(&self) -> String {
        let family = self.cipher.split('-').next().expect("a name has a first part");
        let Combination { mode, ivgen, .. } = self;
        match *ivgen {
            "essiv" => format!("{family}-{mode}-{ivgen}:{}", self.ivgen_hash()),
            _ => format!("{family}-{mode}-{ivgen}"),
        }
    }

    /// Whether `peer` can open an image with these algorithms here.
    pub(crate) fn known_to(&self, peer: Peer) -> bool {
        let Combination { cipher, mode, ivgen, hash, .. } = *self;
        match peer {
            Peer::Qemu => {
                // It aborts on key material that is not whole sectors: 24-byte keys.
                let whole = (self.key_bytes() * 4000).is_multiple_of(512);
                let hashes = ["sha256", "md5", "sha1", "sha224", "sha384", "sha512", "ripemd160", "sm3"];
                whole
                    && mode != "lrw"
                    && matches!(ivgen, "plain" | "plain64" | "essiv")
                    && hashes.contains(&hash)
            }
            Peer::Cryptsetup => {
                // Without the kernel's crypto it has what OpenSSL has; benbi's numbers are only the kernel's.
                let openssl =
                    matches!((cipher, mode), ("aes-128" | "aes-192" | "aes-256", "xts" | "cbc" | "ctr"));
                openssl && (cipher, mode) != ("aes-192", "xts") && hash != "md5"
            }
            Peer::Nbdkit => {
                matches!((cipher, mode), ("aes-128" | "aes-256", "xts" | "cbc"))
                    && matches!(ivgen, "plain" | "plain64")
                    && ["sha256", "md5", "sha1", "sha224", "sha384", "sha512"].contains(&hash)
            }
        }
    }

    /// Why no peer here proves an image's payload; `None` if one does.
    pub(crate) fn unproven(&self) -> Option<&'static str> {
        let proven = [Peer::Qemu, Peer::Cryptsetup, Peer::Nbdkit].into_iter().any(|peer| self.known_to(peer));
        let kernel_iv = matches!(self.ivgen, "plain64be" | "benbi" | "null");
        match proven {
            true => None,
            false if self.mode == "lrw" => {
                Some("only the kernel has lrw: test vectors of IEEE P1619 in formats")
            }
            false if kernel_iv => Some("only the kernel has this IV generator with this cipher"),
            false if self.key_bytes() == 24 => {
                Some("qemu-img aborts on 24-byte keys: test vectors in formats")
            }
            false => Some("unexplained"),
        }
    }
}

/// Every cipher, mode and IV generator that go together, with sha256.
pub(crate) fn ciphers() -> Vec<Combination> {
    let modes = |(cipher, cipher_key)| {
        let ivgens =
            move |mode| IVGENS.map(|ivgen| Combination { cipher, cipher_key, mode, ivgen, hash: HASHES[0] });
        MODES.into_iter().flat_map(ivgens)
    };
    CIPHERS.into_iter().flat_map(modes).filter(Combination::exists).collect()
}

/// Every hash, with one cipher.
pub(crate) fn hashes() -> Vec<Combination> {
    let cipher = Combination { cipher: "aes-128", cipher_key: 16, mode: "xts", ivgen: "plain64", hash: "" };
    HASHES.map(|hash| Combination { hash, ..cipher }).to_vec()
}

/// What is tested of `all`: everything where time does not matter (`BLOCKIMG_LONG`), else a choice in which every pair
/// of cipher, mode and IV generator that occurs at all occurs at least once.
pub(crate) fn choose(all: Vec<Combination>) -> Vec<Combination> {
    if std::env::var_os("BLOCKIMG_LONG").is_some() { all } else { pairwise(all, pairs) }
}

fn pairs(of: &Combination) -> Vec<[&'static str; 2]> {
    vec![[of.cipher, of.mode], [of.cipher, of.ivgen], [of.mode, of.ivgen]]
}

#[test]
fn a_pairwise_choice_has_every_pair() {
    let all = ciphers();
    let chosen = pairwise(all.clone(), pairs);
    let seen: Vec<_> = chosen.iter().flat_map(pairs).collect();
    assert!(all.iter().flat_map(pairs).all(|pair| seen.contains(&pair)));
    assert!(chosen.len() * 3 < all.len(), "{} of {}", chosen.len(), all.len());
}

#[test]
fn what_no_peer_proves_has_a_reason() {
    let unproven = |of: &Combination| of.unproven().map(|reason| (*of, reason));
    for (combination, reason) in ciphers().iter().chain(&hashes()).filter_map(unproven) {
        assert_ne!(reason, "unexplained", "{combination:?}");
    }
}
