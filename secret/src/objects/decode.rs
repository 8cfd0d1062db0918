//! From the bytes a secret was given as to the secret: base64 and AES-256-CBC, as QEMU's `secret` objects use them.
//!
//! Where the secret came from does not matter here. Hints name the object and the option at fault.

use super::{Registry, Request};
use crate::{Error, Kind, Result, SecretBytes};
use aes::Aes256;
use aes::cipher::{Array, BlockModeDecrypt, KeyIvInit};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use zeroize::Zeroize;

/// How the bytes of a secret are written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// As they are.
    #[default]
    Raw,
    /// In base64.
    Base64,
}

/// What to do with the bytes a secret was given as.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    pub(super) format: Format,
    /// The id of the secret that holds the key with which this one is encrypted.
    pub(super) keyid: Option<&'a str>,
    /// The initialisation vector, in base64.
    pub(super) iv: Option<&'a str>,
}

const KEY_LEN: usize = 32;
const BLOCK: usize = 16;

impl Decoder<'_> {
    /// Decodes and decrypts `given`, which came from the option `option` of the object being made.
    ///
    /// # Errors
    /// Bad base64, or, with a key: no such secret, wrong lengths, padding that shows the key to be wrong.
    pub(super) fn decode(
        &self,
        request: &Request<'_>,
        given: SecretBytes,
        option: &str,
    ) -> Result<SecretBytes> {
        let Some(keyid) = self.keyid else { return self.unformat(request.id, given, option) };
        let key = key(request.registry, request.id, keyid)?;
        let iv = self.iv(request.id)?;
        let mut data = self.unformat(request.id, given, option)?;
        if data.len() % BLOCK != 0 {
            let text = format!("Length {} must be a multiple of block size {BLOCK}", data.len());
            return Err(Error::invalid(text).with_hint(format!(
                "The encrypted data of object '{}' is not whole AES blocks; if it is base64, add format=base64.",
                request.id
            )));
        }
        let mut cipher = cbc::Decryptor::<Aes256>::new_from_slices(key, &iv).expect("lengths were checked");
        let (blocks, _) = Array::slice_as_chunks_mut(&mut data);
        cipher.decrypt_blocks(blocks);
        unpad(&mut data).map_err(|e| {
            e.with_hint(format!(
                "The key in object '{keyid}', the iv or the data is not what object '{}' was encrypted with.",
                request.id
            ))
        })?;
        Ok(data)
    }

    fn unformat(&self, id: &str, given: SecretBytes, option: &str) -> Result<SecretBytes> {
        match self.format {
            Format::Raw => Ok(given),
            Format::Base64 => from_base64(&given).map_err(|e| e.with_hint(base64_hint(id, option))),
        }
    }

    fn iv(&self, id: &str) -> Result<SecretBytes> {
        let Some(text) = self.iv else {
            let hint =
                format!("Add iv= to object '{id}': the 16 bytes, in base64, that it was encrypted with.");
            return Err(Error::invalid("IV is required to decrypt secret").with_hint(hint));
        };
        let iv = from_base64(text.as_bytes()).map_err(|e| e.with_hint(base64_hint(id, "iv")))?;
        if iv.len() != BLOCK {
            let hint = format!(
                "Option 'iv' of object '{id}' has the wrong length; openssl rand -base64 16 makes one."
            );
            let text = format!("IV should be {BLOCK} bytes in length not {}", iv.len());
            return Err(Error::invalid(text).with_hint(hint));
        }
        Ok(iv)
    }
}

fn key<'a>(registry: &'a Registry, id: &str, keyid: &str) -> Result<&'a [u8]> {
    if keyid == id {
        return Err(Error::invalid(format!("Secret with id '{id}' has no data"))
            .with_hint(format!("Object '{id}' cannot decrypt itself: keyid= must name another secret.")));
    }
    let key = registry.secret(keyid).map_err(|e| match e.kind() {
        Kind::NotFound => e.with_hint(format!(
            "Objects are made in the order given: put the --object of '{keyid}' before that of '{id}', which needs it."
        )),
        _ => e,
    })?;
    if key.as_bytes().len() != KEY_LEN {
        return Err(Error::invalid(format!("Key should be {KEY_LEN} bytes in length")).with_hint(format!(
            "Object '{keyid}', the key of object '{id}', holds {} bytes; openssl rand -base64 32 makes one for \
             format=base64.",
            key.as_bytes().len()
        )));
    }
    Ok(key.as_bytes())
}

/// Takes off the padding, whose length is its last byte. As in QEMU, none is accepted and the rest is not looked at.
fn unpad(data: &mut SecretBytes) -> Result<()> {
    let Some(&padding) = data.last() else { return Ok(()) };
    let padding = usize::from(padding);
    if padding > BLOCK {
        let text = format!("Incorrect number of padding bytes ({padding}) found on decrypted data");
        return Err(Error::invalid(text));
    }
    data.truncate(data.len() - padding);
    Ok(())
}

fn base64_hint(id: &str, option: &str) -> String {
    format!(
        "What option '{option}' of object '{id}' gives must be base64: A-Z a-z 0-9 + / = and newlines, nothing else."
    )
}

/// Quanta of four characters, whatever the unused bits of the last one are.
const QUANTUM: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// Decodes base64 as leniently as QEMU: newlines anywhere, `=` anywhere, an incomplete last quantum is dropped.
fn from_base64(text: &[u8]) -> Result<SecretBytes> {
    if text.contains(&0) {
        return Err(Error::invalid("Base64 data contains embedded NUL characters"));
    }
    let valid = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'\n');
    if !text.iter().all(valid) {
        return Err(Error::invalid("Base64 data contains invalid characters"));
    }
    let mut out = SecretBytes::zeroed(text.len() / 4 * 3)?;
    let mut filled = 0;
    let mut characters = text.iter().copied().filter(|b| *b != b'\n');
    while let Some(mut quantum) = take4(&mut characters) {
        // `=` counts as six zero bits; the bytes that end in the third and fourth character are left out for it.
        let dropped = [(2, 1), (3, 2)].map(|(at, byte)| (quantum[at] == b'=').then_some(byte));
        quantum.iter_mut().filter(|b| **b == b'=').for_each(|b| *b = b'A');
        let mut bytes = [0; 3];
        QUANTUM.decode_slice(quantum, &mut bytes).expect("four characters of the alphabet are three bytes");
        for byte in (0..3).filter(|i| !dropped.contains(&Some(*i))) {
            out[filled] = bytes[byte];
            filled += 1;
        }
        quantum.zeroize();
        bytes.zeroize();
    }
    out.truncate(filled);
    Ok(out)
}

fn take4(characters: &mut impl Iterator<Item = u8>) -> Option<[u8; 4]> {
    Some([characters.next()?, characters.next()?, characters.next()?, characters.next()?])
}
