//! Private keys, encrypted ones included: PKCS #8 with a scheme of PKCS #5 or the old one of PKCS #12, and the form of its own
//! that OpenSSL wrote before.
//!
//! Key material lives in buffers that are wiped; the library that signs keeps its own copy and wipes that.

use super::files;
use crate::{Error, Kind, Result, Secret};
use cbc::cipher::array::Array;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use des::TdesEde3;
use digest::Digest;
use pem::Pem;
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::SigningKey;
use std::sync::Arc;
use x509_parser::asn1_rs::{FromDer, Integer, OctetString, Oid, Sequence};
use zeroize::{Zeroize, Zeroizing};

/// The most rounds of key derivation a file may ask for: seconds, not hours.
const MAX_ROUNDS: u32 = 10_000_000;

/// Loads the key of `file`, which may be encrypted.
///
/// # Errors
/// No key in it, none we can use, or a password that is missing or wrong.
pub(super) fn load(file: &str, password: Option<&Secret>) -> Result<Arc<dyn SigningKey>> {
    let sections = Sections(files::sections(file)?);
    let Some(section) = sections.0.iter().find(|section| section.tag().ends_with("PRIVATE KEY")) else {
        // One text for both, as the tool we stand in for.
        return Err(files::missing(file, "PRIVATE KEY", 1));
    };
    let der = decrypted(section, file, password)?;
    let der: PrivateKeyDer<'_> = match section.tag() {
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(&der[..]).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(&der[..]).into(),
        "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => PrivatePkcs8KeyDer::from(&der[..]).into(),
        other => return Err(Error::unsupported(format!("Keys of the kind '{other}' are not supported"))),
    };
    any_supported_type(&der).map_err(|_| {
        Error::unsupported("The key is malformed, too short or of a kind that is not supported")
            .with_hint(format!("{file} must hold an RSA key of 2048 to 8192 bits, an ECDSA key (P-256, P-384, P-521) or an Ed25519 key."))
    })
}

/// The sections of a file with a key, wiped when dropped.
struct Sections(Vec<Pem>);

impl Drop for Sections {
    fn drop(&mut self) {
        for section in self.0.drain(..) {
            section.into_contents().zeroize();
        }
    }
}

/// The key in clear.
fn decrypted(section: &Pem, file: &str, password: Option<&Secret>) -> Result<Zeroizing<Vec<u8>>> {
    let legacy = section.headers().get("DEK-Info");
    let encrypted = section.tag() == "ENCRYPTED PRIVATE KEY" || legacy.is_some();
    if !encrypted {
        return Ok(Zeroizing::new(section.contents().to_vec()));
    }
    let Some(secret) = password else {
        return Err(Error::new(Kind::WrongKey, "Decryption has failed.").with_hint(format!(
            "{file} is encrypted: make a secret with its password and name it with passwordid=ID."
        )));
    };
    let password = secret.as_utf8()?.as_bytes();
    let clear = match legacy {
        Some(info) => legacy_decrypt(section.contents(), info, password),
        None => pkcs8_decrypt(section.contents(), password),
    };
    clear.map_err(|failure| match failure {
        Failure::Wrong => {
            let hint = format!("The secret '{}' is not the password of {file}.", secret.id());
            let hint = match secret.without_line_end() {
                Some(_) => format!("{hint} It ends in a line end, which is part of it."),
                None => hint,
            };
            Error::new(Kind::WrongKey, "Decryption has failed.").with_hint(hint)
        }
        Failure::Unknown(what) => Error::unsupported(format!(
            "Decryption has failed: {what} is not supported"
        ))
        .with_hint(format!("Encrypt the key anew: openssl pkcs8 -topk8 -v2 aes-256-cbc -in {file} -out NEW")),
    })
}

/// Why a key is not decrypted.
enum Failure {
    /// What comes out is no key.
    Wrong,
    /// A scheme we do not have.
    Unknown(String),
}

fn pkcs8_decrypt(der: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if let Some(old) = pkcs12_scheme(der) {
        return old.decrypt(password);
    }
    let info = EncryptedPrivateKeyInfoRef::try_from(der)
        .map_err(|_| Failure::Unknown("its encryption scheme".into()))?;
    let document = info.decrypt(password).map_err(|e| match e {
        pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::DecryptFailed) => Failure::Wrong,
        pkcs8::Error::EncryptedPrivateKey(_) => Failure::Unknown("its encryption scheme".into()),
        // Decrypted, and no key.
        _ => Failure::Wrong,
    })?;
    Ok(document.to_bytes())
}

/// `pbeWithSHAAnd3-KeyTripleDES-CBC` of PKCS #12, which older tools put into PKCS #8.
struct Pkcs12<'a> {
    salt: &'a [u8],
    rounds: u32,
    data: &'a [u8],
}

/// The scheme, if it is this one: `SEQUENCE { SEQUENCE { oid, SEQUENCE { salt, rounds } }, data }`.
fn pkcs12_scheme(der: &[u8]) -> Option<Pkcs12<'_>> {
    let (_, outer) = Sequence::from_der(der).ok()?;
    let outer: &[u8] = borrowed(&outer)?;
    let (rest, algorithm) = Sequence::from_der(outer).ok()?;
    let (parameters, oid) = Oid::from_der(borrowed(&algorithm)?).ok()?;
    if oid.to_id_string() != "1.2.840.113549.1.12.1.3" {
        return None;
    }
    let (_, parameters) = Sequence::from_der(parameters).ok()?;
    let (rounds, salt) = OctetString::from_der(borrowed(&parameters)?).ok()?;
    let (_, rounds) = Integer::from_der(rounds).ok()?;
    let (_, data) = OctetString::from_der(rest).ok()?;
    let rounds = rounds.as_u32().ok().filter(|n| (1..=MAX_ROUNDS).contains(n))?;
    Some(Pkcs12 { salt: octets(salt)?, rounds, data: octets(data)? })
}

fn borrowed<'a>(sequence: &Sequence<'a>) -> Option<&'a [u8]> {
    match sequence.content {
        std::borrow::Cow::Borrowed(content) => Some(content),
        std::borrow::Cow::Owned(_) => None,
    }
}

fn octets(string: OctetString<'_>) -> Option<&[u8]> {
    match string.into_cow() {
        std::borrow::Cow::Borrowed(content) => Some(content),
        std::borrow::Cow::Owned(_) => None,
    }
}

impl Pkcs12<'_> {
    fn decrypt(&self, password: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let text = std::str::from_utf8(password).map_err(|_| Failure::Wrong)?;
        // Big-endian UTF-16 with a NUL at the end.
        let wide: Zeroizing<Vec<u8>> =
            Zeroizing::new(text.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect());
        let key = self.derive(&wide, 1, 24);
        let iv = self.derive(&wide, 2, 8);
        cbc_decrypt::<TdesEde3>(&key, &iv, self.data)
    }

    /// The key derivation of RFC 7292, B.2, with SHA-1 (blocks of 64 bytes).
    fn derive(&self, password: &[u8], purpose: u8, len: usize) -> Zeroizing<Vec<u8>> {
        const BLOCK: usize = 64;
        let fill = |from: &[u8]| -> Vec<u8> {
            let len = from.len().div_ceil(BLOCK) * BLOCK;
            from.iter().copied().cycle().take(len).collect()
        };
        let mut input = Zeroizing::new(fill(self.salt));
        let mut repeated = Zeroizing::new(fill(password));
        input.append(&mut repeated);
        let mut out = Zeroizing::new(Vec::with_capacity(len + 20));
        while out.len() < len {
            let mut a = sha1::Sha1::new_with_prefix([purpose; BLOCK]).chain_update(&*input).finalize();
            for _ in 1..self.rounds {
                a = sha1::Sha1::digest(a);
            }
            out.extend_from_slice(&a);
            let b = Zeroizing::new(fill(&a));
            for block in input.chunks_mut(BLOCK) {
                add_one_and(block, &b[..BLOCK]);
            }
            a.zeroize();
        }
        out.truncate(len);
        out
    }
}

/// `block = block + b + 1`, as numbers, modulo their size.
fn add_one_and(block: &mut [u8], b: &[u8]) {
    let mut carry = 1u16;
    for (x, y) in block.iter_mut().zip(b).rev() {
        carry += u16::from(*x) + u16::from(*y);
        *x = (carry & 0xff) as u8;
        carry >>= 8;
    }
}

/// OpenSSL's own form: the key is derived from the password and the first eight bytes of the IV by MD5.
fn legacy_decrypt(data: &[u8], info: &str, password: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let (cipher, iv) = info.split_once(',').ok_or(Failure::Wrong)?;
    let iv = from_hex(iv.trim()).filter(|iv| iv.len() >= 8).ok_or(Failure::Wrong)?;
    let derive = |len| legacy_key(password, &iv[..8], len);
    match cipher.trim() {
        "AES-128-CBC" => cbc_decrypt::<aes::Aes128>(&derive(16), &iv, data),
        "AES-192-CBC" => cbc_decrypt::<aes::Aes192>(&derive(24), &iv, data),
        "AES-256-CBC" => cbc_decrypt::<aes::Aes256>(&derive(32), &iv, data),
        "DES-EDE3-CBC" => cbc_decrypt::<TdesEde3>(&derive(24), &iv, data),
        other => Err(Failure::Unknown(format!("the cipher {other}"))),
    }
}

fn legacy_key(password: &[u8], salt: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(len + 16));
    let mut last = Zeroizing::new(Vec::new());
    while key.len() < len {
        let digest =
            md5::Md5::new().chain_update(&*last).chain_update(password).chain_update(salt).finalize();
        last = Zeroizing::new(digest.to_vec());
        key.extend_from_slice(&last);
    }
    key.truncate(len);
    key
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let (pairs, rest) = digits.as_ref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[a, b]| a * 16 + b).collect())
}

/// Decrypts and takes the padding off; padding that is none, or contents that are no DER, mean a wrong key.
fn cbc_decrypt<C>(key: &[u8], iv: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure>
where
    C: BlockCipherDecrypt + KeyInit,
{
    let mut cipher = cbc::Decryptor::<C>::new_from_slices(key, iv).map_err(|_| Failure::Wrong)?;
    let mut clear = Zeroizing::new(data.to_vec());
    let (blocks, rest) = Array::slice_as_chunks_mut(&mut clear);
    if !rest.is_empty() {
        return Err(Failure::Wrong);
    }
    cipher.decrypt_blocks(blocks);
    let padding = clear.last().copied().unwrap_or_default();
    let keep = clear.len().checked_sub(padding.into()).ok_or(Failure::Wrong)?;
    let padded = padding > 0 && clear[keep..].iter().all(|b| *b == padding);
    if !padded || clear.first() != Some(&0x30) {
        return Err(Failure::Wrong);
    }
    clear.truncate(keep);
    Ok(clear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_key_derivation_is_that_of_openssl() {
        // openssl enc -aes-256-cbc -md md5 -k swordfish -S 0001020304050607 -P
        let want = "AF5AC4EC9B009315E67970E91C509D70DAF45BE9FEAFB95151ED96DD6A2E734A";
        let key = legacy_key(b"swordfish", &[0, 1, 2, 3, 4, 5, 6, 7], 32);
        assert_eq!(Some(key.to_vec()), from_hex(want));
    }

    #[test]
    fn sums_carry_from_the_last_byte_on() {
        let mut block = [0x00, 0xff, 0xff];
        add_one_and(&mut block, &[0, 0, 0]);
        assert_eq!(block, [1, 0, 0]);
        add_one_and(&mut block, &[0xff, 0, 0]);
        assert_eq!(block, [0, 0, 1]);
    }
}
