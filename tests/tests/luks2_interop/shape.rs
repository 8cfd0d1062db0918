//! The matrix: key derivation, sector size, cipher, and where the header is.

/// A key derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kdf {
    Pbkdf2,
    Argon2i,
    Argon2id,
}

impl Kdf {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kdf::Pbkdf2 => "pbkdf2",
            Kdf::Argon2i => "argon2i",
            Kdf::Argon2id => "argon2id",
        }
    }

    /// cryptsetup's options for the least cost.
    pub(crate) fn cheap(self) -> String {
        match self {
            Kdf::Pbkdf2 => "--pbkdf pbkdf2 --pbkdf-force-iterations 1000".to_owned(),
            argon => format!(
                "--pbkdf {} --pbkdf-force-iterations 4 --pbkdf-memory 64 --pbkdf-parallel 2",
                argon.name()
            ),
        }
    }

    /// The same for our `key`.
    pub(crate) fn cost(self) -> &'static str {
        match self {
            Kdf::Pbkdf2 => "--pbkdf-iterations 1000",
            _ => "--pbkdf-iterations 4 --pbkdf-memory 64 --pbkdf-parallel 2",
        }
    }

    /// The same for our `create`.
    fn options(self) -> String {
        match self {
            Kdf::Pbkdf2 => "pbkdf=pbkdf2,pbkdf-iterations=1000".to_owned(),
            argon => {
                format!("pbkdf={},pbkdf-iterations=4,pbkdf-memory=64,pbkdf-parallel=2", argon.name())
            }
        }
    }
}

/// Parameters of one image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) kdf: Kdf,
    pub(crate) sector: u32,
    /// For `--cipher`, and for `-o`.
    pub(crate) cipher: (&'static str, &'static str),
    pub(crate) key_bits: u32,
    pub(crate) detached: bool,
}

const XTS: (&str, &str) = ("aes-xts-plain64", "cipher-alg=aes-256,cipher-mode=xts");
const XTS_128: (&str, &str) = ("aes-xts-plain64", "cipher-alg=aes-128,cipher-mode=xts");
const ESSIV: (&str, &str) = ("aes-cbc-essiv:sha256", "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv");
const CTR: (&str, &str) = ("aes-ctr-plain64", "cipher-alg=aes-192,cipher-mode=ctr");

const XTS_PLAIN: (&str, &str) = ("aes-xts-plain", "cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain");
const CBC_192: (&str, &str) = ("aes-cbc-plain64", "cipher-alg=aes-192,cipher-mode=cbc");
const CBC: (&str, &str) = ("aes-cbc-plain64", "cipher-alg=aes-128,cipher-mode=cbc");

/// Ciphers and the bits of their keys: those that cryptsetup has without the kernel's crypto.
const CIPHERS: [((&str, &str), u32); 7] =
    [(XTS, 512), (XTS_128, 256), (ESSIV, 256), (CTR, 192), (CBC, 128), (XTS_PLAIN, 512), (CBC_192, 192)];

/// The whole of the matrix when `BLOCKIMG_LONG` is set, and else [`few`].
pub(crate) fn shapes() -> Vec<Shape> {
    if std::env::var_os("BLOCKIMG_LONG").is_none() {
        return few();
    }
    let mut all = Vec::new();
    for kdf in [Kdf::Pbkdf2, Kdf::Argon2i, Kdf::Argon2id] {
        for sector in [512, 1024, 2048, 4096] {
            for (cipher, key_bits) in CIPHERS {
                for detached in [false, true] {
                    all.push(Shape { kdf, sector, cipher, key_bits, detached });
                }
            }
        }
    }
    all
}

/// Every derivation with every sector size, every cipher with both, and every one of them with a detached header.
fn few() -> Vec<Shape> {
    let shape = |kdf, sector, cipher, key_bits, detached| Shape { kdf, sector, cipher, key_bits, detached };
    vec![
        shape(Kdf::Argon2id, 4096, XTS, 512, false),
        shape(Kdf::Argon2id, 512, ESSIV, 256, true),
        shape(Kdf::Argon2i, 4096, ESSIV, 256, false),
        shape(Kdf::Argon2i, 512, XTS, 512, false),
        shape(Kdf::Pbkdf2, 4096, CTR, 192, true),
        shape(Kdf::Pbkdf2, 512, CTR, 192, false),
        shape(Kdf::Pbkdf2, 2048, XTS_128, 256, false),
        shape(Kdf::Argon2id, 1024, XTS_128, 256, true),
    ]
}

impl Shape {
    /// What `-o` takes.
    pub(crate) fn options(&self) -> String {
        format!("version=2,sector-size={},{},{}", self.sector, self.cipher.1, self.kdf.options())
    }

    /// The same for cryptsetup.
    pub(crate) fn format(&self) -> String {
        let Shape { sector, cipher, key_bits, kdf, .. } = self;
        format!(
            "--type luks2 --sector-size {sector} --cipher {} --key-size {key_bits} {}",
            cipher.0,
            kdf.cheap()
        )
    }

    /// How cryptsetup is told where image and header are.
    pub(crate) fn device(&self, name: &str) -> String {
        if self.detached { format!("--header {name}.header {name}") } else { name.to_owned() }
    }

    /// The same for us, with the id of a secret.
    pub(crate) fn image(&self, name: &str, secret: &str) -> String {
        let image = format!("driver=luks,file.filename={name},key-secret={secret}");
        if self.detached { format!("{image},header.filename={name}.header") } else { image }
    }
}
