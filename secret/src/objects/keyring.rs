//! The object type `secret_keyring`: a secret that the kernel keeps, named by its serial number.
//!
//! The payload is copied when the object is made; what becomes of the key later does not matter.

use super::decode::{Decoder, Format};
use super::secret::{Secret, Source};
use super::{Object, ObjectType, Request};
use crate::{Error, Result, SecretBytes};
use linux_keyutils::{Key, KeyError, KeySerialId};
use nix::libc;
use serde::Deserialize;

pub(super) const TYPE: ObjectType = ObjectType {
    name: "secret_keyring",
    options: &[
        ("format", "QCryptoSecretFormat"),
        ("iv", "string"),
        ("keyid", "string"),
        ("serial", "int32_t"),
    ],
    create,
};

#[derive(Deserialize)]
struct KeyringOptions {
    #[serde(default)]
    format: Format,
    keyid: Option<String>,
    iv: Option<String>,
    serial: i32,
}

fn create(request: &Request<'_>) -> Result<Box<dyn Object>> {
    let options: KeyringOptions = request.parse()?;
    if options.serial == 0 {
        return Err(Error::invalid("'serial' should not be equal to 0"));
    }
    let payload = read(options.serial)?;
    let decoder =
        Decoder { format: options.format, keyid: options.keyid.as_deref(), iv: options.iv.as_deref() };
    let bytes = decoder.decode(request, payload, "serial")?;
    Ok(Box::new(Secret::new(request.id, Source::Keyring(options.serial), bytes)))
}

/// The payload of a key.
fn read(serial: i32) -> Result<SecretBytes> {
    let unable = format!("Unable to read serial key {serial:08x}");
    let key = Key::from_id(KeySerialId::new(serial));
    let mut payload = SecretBytes::zeroed(0)?;
    loop {
        // The kernel answers with the length of the payload, and writes nothing if there is no room for it.
        let len = key.read(&mut payload).map_err(|e| failure(e, &unable))?;
        if len == 0 {
            return Err(Error::invalid(unable).with_hint("The key holds no data."));
        }
        if len <= payload.len() {
            payload.truncate(len);
            return Ok(payload);
        }
        payload = SecretBytes::zeroed(len)?;
    }
}

fn failure(e: KeyError, unable: &str) -> Error {
    let error = Error::from_errno(errno(e));
    let error = match e {
        KeyError::KeyDoesNotExist => error.with_hint("keyctl show lists the keys that this process can see."),
        KeyError::AccessDenied => {
            error.with_hint("The key must grant read permission to this user (keyctl setperm).")
        }
        _ => error,
    };
    error.context(unable)
}

fn errno(e: KeyError) -> i32 {
    match e {
        KeyError::AccessDenied => libc::EACCES,
        KeyError::QuotaExceeded => libc::EDQUOT,
        KeyError::BadAddress => libc::EFAULT,
        KeyError::InvalidArguments | KeyError::InvalidDescription | KeyError::InvalidIdentifier => {
            libc::EINVAL
        }
        KeyError::KeyExpired => libc::EKEYEXPIRED,
        KeyError::KeyRevoked => libc::EKEYREVOKED,
        KeyError::KeyRejected => libc::EKEYREJECTED,
        KeyError::KeyringDoesNotExist | KeyError::KeyDoesNotExist => libc::ENOKEY,
        KeyError::OutOfMemory => libc::ENOMEM,
        KeyError::OperationNotSupported => libc::ENOTSUP,
        KeyError::WriteError => libc::EIO,
        KeyError::PermissionDenied => libc::EPERM,
        KeyError::MissingFileOrDirectory => libc::ENOENT,
        KeyError::Unknown(errno) => errno,
    }
}
