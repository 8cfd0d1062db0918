//! A cipher, a mode and an IV generator that go together, parsed from and printed as LUKS headers and dm-crypt write it.
//!
//! Invariant: a [`CipherSpec`] can be built into a [`SectorCipher`](super::SectorCipher); combinations that cannot are
//! refused when the specification is made.

use std::fmt;

use secret::{Error, Result};

use super::{Cipher, HashAlg, IvGen, Mode};

/// Cipher, mode and IV generator of an encrypted image: `aes-xts-plain64` with its key size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CipherSpec {
    cipher: Cipher,
    mode: Mode,
    ivgen: Option<IvGen>,
    ivgen_hash: Option<HashAlg>,
}

impl CipherSpec {
    /// Combines the parts. `ivgen` may be missing only where the mode has no IV (ecb). `ivgen_hash` is needed by essiv;
    /// other generators do not use it, but it is kept, because headers name it and it is printed.
    ///
    /// # Errors
    /// The mode needs 16-byte blocks and the cipher has 8-byte ones; essiv without a hash, or with one whose digest is
    /// not a key size of the cipher; a missing IV generator.
    pub fn new(
        cipher: Cipher,
        mode: Mode,
        ivgen: Option<IvGen>,
        ivgen_hash: Option<HashAlg>,
    ) -> Result<Self> {
        match (ivgen, ivgen_hash) {
            (Some(IvGen::Essiv), None) => {
                return Err(Error::invalid("Missing IV generator hash specification")
                    .with_hint("essiv needs a hash: essiv:sha256"));
            }
            (Some(IvGen::Essiv), Some(hash)) => {
                cipher.for_essiv(hash)?;
            }
            (None, _) if mode != Mode::Ecb => {
                return Err(Error::invalid(format!(
                    "Unexpected cipher mode string format '{}'",
                    mode.name()
                ))
                .with_hint(format!("an IV generator must follow: {}-plain64", mode.name())));
            }
            _ => {}
        }
        if matches!(mode, Mode::Xts | Mode::Lrw) && cipher.block_bytes() != 16 {
            return Err(Error::unsupported(format!("Unsupported cipher mode {}", mode.name()))
                .with_hint(format!("{} has 8-byte blocks: cbc or ctr work with it", cipher.name())));
        }
        Ok(CipherSpec { cipher, mode, ivgen, ivgen_hash })
    }

    /// Parses the two fields of a LUKS1 header, such as `aes` and `cbc-essiv:sha256`, for a volume key of `key_bytes`.
    ///
    /// # Errors
    /// QEMU's sentence about the part that is unknown, and those of [`CipherSpec::new`].
    pub fn parse(cipher_name: &str, cipher_mode: &str, key_bytes: usize) -> Result<Self> {
        let (mode, ivgen) = match cipher_mode.split_once('-') {
            Some((mode, ivgen)) => (mode, Some(ivgen)),
            None if cipher_mode == Mode::Ecb.name() => (cipher_mode, None),
            None => {
                let text = format!("Unexpected cipher mode string format '{cipher_mode}'");
                return Err(Error::unsupported(text)
                    .with_hint("a mode and an IV generator belong there: xts-plain64"));
            }
        };
        let (ivgen, hash) = match ivgen.and_then(|s| s.split_once(':')) {
            Some((ivgen, hash)) => (Some(ivgen), Some(HashAlg::from_header(hash)?)),
            None => (ivgen, None),
        };
        let mode = Mode::from_header(mode)?;
        let cipher = Cipher::from_header(cipher_name, mode.cipher_key_bytes(key_bytes))?;
        Self::new(cipher, mode, ivgen.map(IvGen::from_header).transpose()?, hash)
    }

    /// Parses dm-crypt's (and LUKS2's) spelling in one word, such as `aes-xts-plain64`, for a key of `key_bytes`.
    ///
    /// # Errors
    /// As [`CipherSpec::parse`].
    pub fn parse_dm(word: &str, key_bytes: usize) -> Result<Self> {
        let (cipher, mode) = word.split_once('-').unwrap_or((word, ""));
        Self::parse(cipher, mode, key_bytes)
    }

    /// The block cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The mode of operation.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The IV generator; `None` only for ecb written without one.
    pub fn ivgen(&self) -> Option<IvGen> {
        self.ivgen
    }

    /// The hash named beside the IV generator.
    pub fn ivgen_hash(&self) -> Option<HashAlg> {
        self.ivgen_hash
    }

    /// Bytes of the volume key: two cipher keys for xts, cipher and tweak key for lrw.
    pub fn key_bytes(&self) -> usize {
        self.mode.key_bytes(self.cipher.key_bytes())
    }

    /// The mode field of a LUKS1 header: `xts-plain64`, `cbc-essiv:sha256`, `ecb`.
    pub fn mode_string(&self) -> String {
        let mut text = self.mode.name().to_owned();
        if let Some(ivgen) = self.ivgen {
            text.push('-');
            text.push_str(ivgen.name());
        }
        if let Some(hash) = self.ivgen_hash {
            text.push(':');
            text.push_str(hash.name());
        }
        text
    }
}

/// dm-crypt's spelling: `aes-xts-plain64`.
impl fmt::Display for CipherSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.cipher.family(), self.mode_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, mode: &str, key: usize) -> String {
        CipherSpec::parse(name, mode, key).unwrap_err().to_string()
    }

    #[test]
    fn what_is_parsed_is_printed_back() {
        for (word, key) in [
            ("aes-xts-plain64", 48),
            ("serpent-cbc-essiv:sha256", 24),
            ("twofish-lrw-benbi", 48),
            ("aes-ecb", 16),
            ("aes-xts-plain64:sha256", 64),
            ("cast5-cbc-essiv:md5", 16),
        ] {
            let spec = CipherSpec::parse_dm(word, key).unwrap();
            assert_eq!(spec.to_string(), word);
            assert_eq!(spec.key_bytes(), key, "{word}");
        }
    }

    #[test]
    fn header_errors_read_as_in_qemu_and_come_in_its_order() {
        assert_eq!(error("foo", "xts", 64), "Unexpected cipher mode string format 'xts'");
        assert_eq!(error("foo", "xts-plain:zip", 64), "Hash algorithm 'zip' not supported");
        assert_eq!(error("foo", "bar-plain64", 64), "Cipher mode 'bar' not supported");
        assert_eq!(error("foo", "xts-bar", 64), "Algorithm 'foo' with key size 32 bytes not supported");
        assert_eq!(error("aes", "xts-plain64", 0), "Algorithm 'aes' with key size 0 bytes not supported");
        assert_eq!(error("aes", "xts-", 64), "IV generator '' not supported");
        assert_eq!(error("aes", "cbc-essiv", 32), "Missing IV generator hash specification");
        assert_eq!(error("aes", "cbc-essiv:sha1", 32), "No AES cipher with key size 20 available");
        assert_eq!(error("cast5", "xts-plain64", 32), "Unsupported cipher mode xts");
        assert_eq!(error("cast5", "xts-essiv:sha256", 32), "Cipher cast5-128 not supported with essiv");
        assert_eq!(error("aes", "", 32), "Unexpected cipher mode string format ''");
    }
}
