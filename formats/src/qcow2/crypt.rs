//! Encrypted images: from the header and the options to a cipher.

use super::header::{CryptMethod, Header};
use super::image::Qcow2;
use super::options::Qcow2Options;
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
    let format = options.encrypt.as_ref().and_then(|e| e.format.as_deref());
    let method = match header.crypt {
        CryptMethod::None => {
            return match options.encrypt {
                Some(_) => Err(Error::invalid("No encryption in image header, but encryption options given")),
                None => Ok(None),
            };
        }
        CryptMethod::Aes => "aes",
        CryptMethod::Luks => "luks",
    };
    if let Some(format) = format.filter(|f| *f != method) {
        return Err(Error::invalid(format!(
            "Header reported '{method}' encryption format but options specify '{format}'"
        )));
    }
    if ctx.flags.no_io {
        return Ok(None);
    }
    if options.encrypt.as_ref().is_none_or(|e| e.key_secret.is_none()) {
        return Err(Error::invalid("Parameter 'encrypt.key-secret' is required for cipher"));
    }
    Err(Error::unsupported(format!("Encrypted qcow2 images ('{method}') are not supported yet")))
}

/// Changes the key slots of an image that is encrypted with LUKS, as the `encrypt.` options say.
///
/// # Errors
/// Options that do not fit together, or the file's.
pub(super) fn amend(_image: &Qcow2, _options: &CreateOptions, _env: Env<'_>, _force: bool) -> Result<()> {
    Err(Error::unsupported("Key slots of qcow2 images cannot be changed yet"))
}
