//! Encrypted images: from the header and the options to a cipher, and the encryption header of new images.
//!
//! With `luks`, sectors are numbered by where they are in the file for data, so moved clusters are encrypted anew; with
//! legacy `aes` by where they are in the guest's disk. Compressed clusters are not encrypted, as in QEMU.

use super::extension::CryptoHeader;
use super::header::{CryptMethod, Header};
use super::image::Qcow2;
use super::options::Qcow2Options;
use crate::crypto::SectorCipher;
use crate::encrypt::{self, EncryptOptions};
use crate::luks::derive::Bounds;
use crate::luks::embedded::{Embedded, NewHeader};
use crate::luks::keys::amend::Context;
use crate::mapped::{GuestOffset, HostOffset, PayloadCipher};
use block::graph::{CreateOptions, Env, OpenCtx};
use block::keys::Keys;
use block::{Child, Error, Result, SECTOR, ZeroFlags};
use serde_json::{Map, Value};
use std::sync::Arc;

/// How an open image is encrypted.
#[derive(Debug, Default)]
pub(super) struct Encryption {
    /// Encrypts the payload; `None` where there is nothing to encrypt, or only metadata is wanted.
    pub(super) cipher: Option<Arc<dyn PayloadCipher>>,
    /// The LUKS header, and how it was opened.
    pub(super) luks: Option<Arc<Luks>>,
}

/// The LUKS header of an open image.
#[derive(Debug)]
pub(super) struct Luks {
    header: Embedded,
    /// The id of the secret that opened it.
    key_secret: Option<String>,
}

/// Encrypts sectors by their place in the file.
#[derive(Debug)]
struct LuksPayload(Arc<dyn SectorCipher>);

impl PayloadCipher for LuksPayload {
    fn encrypt(&self, _guest: GuestOffset, host: HostOffset, sectors: &mut [u8]) -> Result<()> {
        self.0.encrypt(host.0 / SECTOR, sectors);
        Ok(())
    }

    fn decrypt(&self, _guest: GuestOffset, host: HostOffset, sectors: &mut [u8]) -> Result<()> {
        self.0.decrypt(host.0 / SECTOR, sectors);
        Ok(())
    }
}

/// The encryption of an image, keyed if its contents are wanted.
///
/// # Errors
/// A missing or wrong key, or options that do not fit the image.
pub(super) fn open(
    ctx: &OpenCtx<'_>,
    options: &Qcow2Options,
    header: &Header,
    file: &Child,
) -> Result<Encryption> {
    let given = options.encrypt.as_ref();
    let method = match header.crypt {
        CryptMethod::None => None,
        CryptMethod::Aes => Some("aes"),
        CryptMethod::Luks => Some("luks"),
    };
    let luks = match header.crypt {
        CryptMethod::Luks => Some(read_luks(ctx, given, header, file)?),
        _ => None,
    };
    EncryptOptions::check(given, method)?;
    let cipher = match (header.crypt, &luks) {
        (CryptMethod::Aes, _) => {
            encrypt::open_aes(ctx, given, options.legacy_aes_write.unwrap_or(false))?.map(Arc::from)
        }
        (_, Some(luks)) if !ctx.flags.no_io => {
            let secret = EncryptOptions::secret(given, ctx.env)?;
            let cipher = luks.header.unlock(secret)?;
            Some(Arc::new(LuksPayload(cipher)) as Arc<dyn PayloadCipher>)
        }
        _ => None,
    };
    Ok(Encryption { cipher, luks: luks.map(Arc::new) })
}

fn read_luks(
    ctx: &OpenCtx<'_>,
    given: Option<&EncryptOptions>,
    header: &Header,
    file: &Child,
) -> Result<Luks> {
    // Parsing a header refuses this method without the extension.
    let CryptoHeader { offset, len } = header.extensions.crypto.unwrap_or(CryptoHeader { offset: 0, len: 0 });
    let size = header.geometry.cluster_size();
    if !offset.is_multiple_of(size) {
        let text = format!("Encryption header offset '{offset}' is not a multiple of cluster size '{size}'");
        return Err(Error::corrupt(text));
    }
    Ok(Luks {
        header: Embedded::read(file, offset, len, Bounds::of(&ctx.flags))?,
        key_secret: given.and_then(|given| given.key_secret.clone()),
    })
}

impl Luks {
    /// The key slots.
    pub(super) fn keys(&self) -> Option<&dyn Keys> {
        self.header.keys()
    }

    /// The members of `encrypt` in what `info` prints.
    pub(super) fn info(&self) -> Value {
        let mut members = Map::from_iter([("format".to_owned(), Value::from("luks"))]);
        if let Value::Object(all) = self.header.info() {
            members.extend(all);
        }
        Value::Object(members)
    }
}

/// Changes the key slots of an image that is encrypted with LUKS, as the `encrypt.` options say.
///
/// # Errors
/// Options that do not fit together, or the file's.
pub(super) fn amend(image: &Qcow2, options: &CreateOptions, env: Env<'_>, force: bool) -> Result<()> {
    let Some(luks) = &image.luks else {
        return Err(Error::invalid("Can't amend encryption options - encryption not present"));
    };
    let mut own = CreateOptions::amending(&crate::luks::ROW);
    let names: Vec<_> = own.table().iter().map(|option| option.name).collect();
    for name in names {
        if let Some(value) = options.get(&format!("encrypt.{name}")) {
            own.set(name, &value_text(&value))?;
        }
    }
    let with = Context { env, key_secret: luks.key_secret.as_deref(), force };
    luks.header.amend(&own, &with)
}

fn value_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// How a new image is to be encrypted.
pub(super) enum NewEncryption<'a> {
    /// Not at all.
    None,
    /// With legacy AES, which was asked for by name.
    Aes,
    /// With LUKS.
    Luks(Box<NewHeader<'a>>),
}

/// What the creation options say about encryption.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The legacy switch.
    pub(super) encryption: bool,
    /// The options `encrypt.*`.
    pub(super) encrypt: Option<Value>,
    /// Legacy AES is allowed.
    pub(super) legacy_write: bool,
}

impl Wanted {
    /// The options `encrypt.*` without `encrypt.format`, and that.
    fn parts(&self) -> Result<(Option<String>, Map<String, Value>)> {
        let mut rest = match &self.encrypt {
            Some(Value::Object(map)) => map.clone(),
            _ => Map::new(),
        };
        crate::luks::embedded::check_version(&rest)?;
        let format = rest.remove("format").map(|format| value_text(&format));
        let aes = encrypt::legacy_switch(self.encryption, format.as_deref())?;
        let format = if aes { Some("aes".to_owned()) } else { format };
        match format.as_deref() {
            None if self.encrypt.is_some() => Err(Error::invalid("Parameter 'encrypt.format' is missing")),
            None | Some("aes" | "luks") => Ok((format, rest)),
            Some(other) => Err(Error::invalid(format!("Parameter 'format' does not accept value '{other}'"))),
        }
    }

    /// Bytes that the key slots take.
    ///
    /// # Errors
    /// Options that do not go together, or a missing secret.
    pub(super) fn key_area(&self, env: Env<'_>) -> Result<u64> {
        // What is said of an encryption that is not asked for takes no room.
        let asked =
            self.encryption || self.encrypt.as_ref().is_some_and(|given| given.get("format").is_some());
        if !asked {
            return Ok(0);
        }
        let (format, rest) = self.parts()?;
        match format.as_deref() {
            Some("luks") if !rest.contains_key("key-secret") => Err(encrypt::missing()),
            Some("luks") => crate::luks::embedded::measure(env, &rest),
            _ => Ok(0),
        }
    }

    /// Checks it and looks secrets up.
    ///
    /// # Errors
    /// Options that do not go together, legacy AES, or a missing secret.
    pub(super) fn plan<'a>(&self, env: Env<'a>) -> Result<NewEncryption<'a>> {
        let (format, rest) = self.parts()?;
        match format.as_deref() {
            None => Ok(NewEncryption::None),
            Some("aes") => {
                if let Some(name) = rest.keys().find(|name| *name != "key-secret") {
                    return Err(Error::invalid(format!("Parameter 'encrypt.{name}' is unexpected")));
                }
                let key_secret = rest.get("key-secret").map(value_text);
                let options = EncryptOptions { format, key_secret };
                encrypt::may_create(env, Some(&options), self.legacy_write)?;
                Ok(NewEncryption::Aes)
            }
            Some(_) if !rest.contains_key("key-secret") => Err(encrypt::missing()),
            Some(_) => NewHeader::new(env, &rest).map(Box::new).map(NewEncryption::Luks),
        }
    }
}

impl Qcow2 {
    /// Gives a new image its encryption header, or the mark of legacy AES.
    ///
    /// # Errors
    /// No room, or the file's.
    pub(super) fn encrypt_new(&self, encryption: &NewEncryption<'_>) -> Result<()> {
        match encryption {
            NewEncryption::None => return Ok(()),
            NewEncryption::Aes => self.lock().header.crypt = CryptMethod::Aes,
            NewEncryption::Luks(new) => {
                let g = self.geometry;
                let len = new.len();
                let at = self.lock().allocate(g.clusters(len))?;
                self.file.write_zeroes(at.0..at.0 + g.round_up(len), ZeroFlags::empty())?;
                new.write(&self.file, at.0)?;
                let mut meta = self.lock();
                meta.header.crypt = CryptMethod::Luks;
                meta.header.extensions.crypto = Some(CryptoHeader { offset: at.0, len });
            }
        }
        self.lock().write_header()
    }
}
