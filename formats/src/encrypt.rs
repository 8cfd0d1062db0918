//! What qcow and qcow2 share of encryption: the runtime options, and legacy AES.
//!
//! Legacy AES is AES-128 in CBC mode, keyed with the first 16 bytes of the passphrase itself. The IV of a sector is its
//! number in the guest's disk. It is weak in every part, and QEMU's emulators refuse such images; so they are read here,
//! and written only when asked for by name (`legacy-aes-write=on`, for forensics and test fixtures).

use crate::crypto::{self, Cipher, CipherSpec, IvGen, Mode, SectorCipher, SectorSize};
use crate::mapped::{GuestOffset, HostOffset, PayloadCipher};
use block::graph::{CreateKind, CreateOption, Env, OpenCtx};
use block::{Error, Kind, Result, SECTOR};
use secret::{Secret, SecretBytes};
use serde::Deserialize;

/// How to decrypt: the options `encrypt.*` of an open image.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct EncryptOptions {
    pub(crate) format: Option<String>,
    pub(crate) key_secret: Option<String>,
}

impl EncryptOptions {
    /// Checks that `format`, if it was given, is what the header says: `method`, or nothing.
    ///
    /// # Errors
    /// QEMU's sentence about the contradiction.
    pub(crate) fn check(options: Option<&Self>, method: Option<&str>) -> Result<()> {
        let Some(format) = options.and_then(|e| e.format.as_deref()) else { return Ok(()) };
        match method {
            Some(method) if method == format => Ok(()),
            Some(method) => Err(Error::invalid(format!(
                "Header reported '{method}' encryption format but options specify '{format}'"
            ))),
            None => Err(Error::invalid(format!(
                "No encryption in image header, but options specified format '{format}'"
            ))),
        }
    }

    /// The secret that the option `encrypt.key-secret` names.
    ///
    /// # Errors
    /// No such option, or no such secret.
    pub(crate) fn secret<'a>(options: Option<&Self>, env: Env<'a>) -> Result<&'a Secret> {
        let id = options.and_then(|e| e.key_secret.as_deref()).ok_or_else(missing)?;
        env.objects.secret(id)
    }
}

/// No secret was named.
pub(crate) fn missing() -> Error {
    Error::invalid("Parameter 'encrypt.key-secret' is required for cipher").with_hint(
        "Make a secret with --object secret,id=ID,file=PATH and name it among the image's options: encrypt.key-secret=ID",
    )
}

/// The cipher of an open image with legacy AES; `None` where only its metadata is wanted.
///
/// # Errors
/// A missing or unusable secret; or it is to be written and `allowed` is not set.
pub(crate) fn open_aes(
    ctx: &OpenCtx<'_>,
    options: Option<&EncryptOptions>,
    allowed: bool,
) -> Result<Option<Box<dyn PayloadCipher>>> {
    if ctx.flags.no_io {
        return Ok(None);
    }
    let secret = EncryptOptions::secret(options, ctx.env)?;
    if ctx.flags.writable {
        may_write(allowed)?;
    }
    Ok(Some(Box::new(LegacyAes::new(secret)?)))
}

/// Checks that an image with legacy AES may be open for writing.
///
/// # Errors
/// `allowed` is not set.
pub(crate) fn may_write(allowed: bool) -> Result<()> {
    if allowed { Ok(()) } else { Err(refusal("written")) }
}

/// Why images with legacy AES are not `done` (written, created), and what to do instead.
pub(crate) fn refusal(done: &str) -> Error {
    let text = format!(
        "Images with the legacy AES encryption are not {done}: it takes the passphrase itself for the key and its IVs can be predicted, so that it protects little"
    );
    Error::new(Kind::Unsupported, text).with_errno(nix::libc::EPERM).with_hint(
        "Use encrypt.format=luks (qcow2) or the luks format; 'img rescue' moves an old image there, and read-only it opens as it is. \
         legacy-aes-write=on lifts this for forensics and test fixtures.",
    )
}

/// The creation option that lifts the refusal. It is not advertised.
pub(crate) const LEGACY_WRITE: CreateOption =
    CreateOption { name: "legacy-aes-write", kind: CreateKind::Bool, help: "", default: None };

/// Checks that an image with legacy AES may be created with this secret.
///
/// # Errors
/// A missing or unusable secret; or `allowed` is not set.
pub(crate) fn may_create(env: Env<'_>, options: Option<&EncryptOptions>, allowed: bool) -> Result<()> {
    EncryptOptions::secret(options, env)?.as_utf8()?;
    if allowed { Ok(()) } else { Err(refusal("created")) }
}

/// Legacy AES, keyed.
#[derive(Debug)]
pub(crate) struct LegacyAes(Box<dyn SectorCipher>);

/// Bytes of the key.
const KEY: usize = 16;

impl LegacyAes {
    /// Keyed with the beginning of a passphrase, which must be text.
    ///
    /// # Errors
    /// It is not; or the system has no memory for secrets.
    pub(crate) fn new(secret: &Secret) -> Result<Self> {
        Self::from_passphrase(secret.as_utf8()?.as_bytes())
    }

    /// Keyed with the beginning of a passphrase.
    ///
    /// # Errors
    /// The system has no memory for secrets.
    pub(crate) fn from_passphrase(passphrase: &[u8]) -> Result<Self> {
        let mut key = SecretBytes::zeroed(KEY)?;
        let used = passphrase.len().min(KEY);
        key[..used].copy_from_slice(&passphrase[..used]);
        let spec = CipherSpec::new(Cipher::Aes128, Mode::Cbc, Some(IvGen::Plain64), None)?;
        Ok(LegacyAes(crypto::new(&spec, &key, SectorSize::B512)?))
    }
}

impl PayloadCipher for LegacyAes {
    fn encrypt(&self, guest: GuestOffset, _host: HostOffset, sectors: &mut [u8]) -> Result<()> {
        self.0.encrypt(guest.0 / SECTOR, sectors);
        Ok(())
    }

    fn decrypt(&self, guest: GuestOffset, _host: HostOffset, sectors: &mut [u8]) -> Result<()> {
        self.0.decrypt(guest.0 / SECTOR, sectors);
        Ok(())
    }
}

/// The legacy creation option `encryption` folded into `encrypt.format`: whether it asks for encryption by itself.
///
/// # Errors
/// Both were given.
pub(crate) fn legacy_switch(switch: bool, format: Option<&str>) -> Result<bool> {
    match (switch, format) {
        (true, Some(_)) => {
            Err(Error::invalid("'encrypt.format' and its alias 'encryption' can't be used at the same time"))
        }
        (switch, _) => Ok(switch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sixteen_bytes_of_the_passphrase_are_the_key_and_the_guests_sector_the_iv() {
        let cipher = |text: &str| LegacyAes::from_passphrase(text.as_bytes()).unwrap();
        let sealed = |text: &str, guest: u64, host: u64| {
            let mut bytes = [7; 512];
            cipher(text).encrypt(GuestOffset(guest), HostOffset(host), &mut bytes).unwrap();
            bytes
        };
        assert_eq!(sealed("0123456789abcdef", 0, 0), sealed("0123456789abcdefXYZ", 0, 4096));
        assert_ne!(sealed("0123456789abcdef", 0, 0), sealed("0123456789abcdeF", 0, 0));
        assert_ne!(sealed("short", 0, 0), sealed("short", 512, 0));
        let mut bytes = sealed("short", 512, 0);
        cipher("short\0").decrypt(GuestOffset(512), HostOffset(0), &mut bytes).unwrap();
        assert_eq!(bytes, [7; 512]);
    }
}
