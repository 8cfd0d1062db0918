//! Encrypted images: from the header and the options to a cipher.

use super::header::{CryptMethod, Header};
use super::image::Qcow2;
use super::options::Qcow2Options;
use crate::encrypt::{self, EncryptOptions};
use crate::mapped::PayloadCipher;
use block::graph::{CreateOptions, Env, OpenCtx};
use block::{Child, Error, Result};

/// The cipher of an image, if it is encrypted and its contents are wanted.
///
/// # Errors
/// A missing or wrong key, or options that do not fit the image.
pub(super) fn open(
    ctx: &OpenCtx<'_>,
    options: &Qcow2Options,
    header: &Header,
    _file: &Child,
) -> Result<Option<Box<dyn PayloadCipher>>> {
    let given = options.encrypt.as_ref();
    let method = match header.crypt {
        CryptMethod::None => None,
        CryptMethod::Aes => Some("aes"),
        CryptMethod::Luks => Some("luks"),
    };
    EncryptOptions::check(given, method)?;
    match header.crypt {
        CryptMethod::None => Ok(None),
        CryptMethod::Aes => encrypt::open_aes(ctx, given, options.legacy_aes_write.unwrap_or(false)),
        CryptMethod::Luks if ctx.flags.no_io => Ok(None),
        CryptMethod::Luks => {
            EncryptOptions::secret(given, ctx.env)?;
            Err(Error::unsupported("Encrypted qcow2 images ('luks') are not supported yet"))
        }
    }
}

/// Changes the key slots of an image that is encrypted with LUKS, as the `encrypt.` options say.
///
/// # Errors
/// Options that do not fit together, or the file's.
pub(super) fn amend(_image: &Qcow2, _options: &CreateOptions, _env: Env<'_>, _force: bool) -> Result<()> {
    Err(Error::unsupported("Key slots of qcow2 images cannot be changed yet"))
}
