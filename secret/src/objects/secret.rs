//! Secrets, and the object type `secret`: a passphrase or key given as text or in a file.
//!
//! The bytes are taken as they are: a newline at the end of a file is part of the secret.

use super::decode::{Decoder, Format};
use super::{Object, ObjectType, Request, reference};
use crate::{Error, Result, SecretBytes};
use serde::Deserialize;
use zeroize::Zeroizing;

pub(super) const TYPE: ObjectType = ObjectType {
    name: "secret",
    options: &[
        ("cmd", "list"),
        ("credential", "string"),
        ("data", "string"),
        ("file", "string"),
        ("format", "QCryptoSecretFormat"),
        ("iv", "string"),
        ("keyid", "string"),
        ("offset", "size"),
        ("size", "size"),
    ],
    create,
};

/// Where a secret came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On the command line, as it is: `data=` without `keyid=`.
    Inline,
    /// On the command line, encrypted: `data=` with `keyid=`.
    InlineEncrypted,
    /// From this file.
    File(String),
    /// From the credentials of the service we run in, by name.
    Credential(String),
    /// What this program printed.
    Command(String),
    /// From the kernel's keyring, by serial number.
    Keyring(i32),
}

/// A passphrase or key that a user gave. It is wiped when dropped, never cloned and never printed.
#[derive(Debug)]
pub struct Secret {
    id: String,
    source: Source,
    bytes: SecretBytes,
}

impl Secret {
    pub(super) fn new(id: &str, source: Source, bytes: SecretBytes) -> Self {
        Secret { id: id.to_owned(), source, bytes }
    }

    /// The id of its object.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The bytes as they are: what opens a LUKS image.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes as text: what *creates* a LUKS image, and what qcow AES and TLS keys need.
    ///
    /// # Errors
    /// Bytes that are not UTF-8, or hold a NUL character.
    pub fn as_utf8(&self) -> Result<&str> {
        // No hint: scripts compare this text, and QEMU's has none.
        self.bytes
            .as_utf8()
            .ok_or_else(|| Error::invalid(format!("Data from secret {} is not valid UTF-8", self.id)))
    }

    /// Whether it is `other`, in a time that depends on the lengths alone.
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        self.bytes.ct_eq(other)
    }

    /// The secret without the line end it ends in, if it does: a common reason for a passphrase not to match.
    pub fn without_line_end(&self) -> Option<&[u8]> {
        let line = self.bytes.strip_suffix(b"\n")?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// A warning for the user, if it was given where other users can read it.
    pub fn exposure(&self) -> Option<String> {
        (self.source == Source::Inline).then(|| {
            format!(
                "secret '{0}' is on the command line, where other users of this machine can read it; give it with \
                 --object secret,id={0},file=PATH",
                self.id
            )
        })
    }
}

impl Object for Secret {
    fn as_secret(&self) -> Option<&Secret> {
        Some(self)
    }
}

#[derive(Deserialize)]
struct SecretOptions {
    #[serde(default)]
    format: Format,
    keyid: Option<String>,
    iv: Option<String>,
    data: Option<Zeroizing<String>>,
    file: Option<String>,
    /// Bytes of the file to leave out.
    offset: Option<u64>,
    /// Bytes of the file to take.
    size: Option<u64>,
    credential: Option<String>,
    cmd: Option<Vec<String>>,
}

fn create(request: &Request<'_>) -> Result<Box<dyn Object>> {
    let options: SecretOptions = request.parse()?;
    let origin = origin(request, &options)?;
    let (given, source, option) = match origin {
        Origin::Data(data) => {
            let source = if options.keyid.is_some() { Source::InlineEncrypted } else { Source::Inline };
            (SecretBytes::copy_of(data.as_bytes())?, source, "data")
        }
        Origin::File(path) => {
            (reference::file(path, options.offset, options.size)?, Source::File(path.to_owned()), "file")
        }
        Origin::Credential(name) => {
            (reference::credential(name)?, Source::Credential(name.to_owned()), "credential")
        }
        Origin::Command(words) => (reference::command(words)?, Source::Command(words.join(" ")), "cmd"),
    };
    let decoder =
        Decoder { format: options.format, keyid: options.keyid.as_deref(), iv: options.iv.as_deref() };
    let bytes = decoder.decode(request, given, option)?;
    Ok(Box::new(Secret::new(request.id, source, bytes)))
}

/// Where the bytes are to come from.
enum Origin<'a> {
    Data(&'a str),
    File(&'a str),
    Credential(&'a str),
    Command(&'a [String]),
}

/// The one place that the options name.
fn origin<'a>(request: &Request<'_>, options: &'a SecretOptions) -> Result<Origin<'a>> {
    let part = options.offset.is_some() || options.size.is_some();
    if part && options.file.is_none() {
        return Err(Error::invalid("'offset' and 'size' are of a 'file'"));
    }
    let all = [
        options.data.as_ref().map(|data| ("data", Origin::Data(data.as_str()))),
        options.file.as_deref().map(|path| ("file", Origin::File(path))),
        options.credential.as_deref().map(|name| ("credential", Origin::Credential(name))),
        options.cmd.as_deref().map(|words| ("cmd", Origin::Command(words))),
    ];
    let mut given = all.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some((_, origin)), None) => Ok(origin),
        (Some((one, _)), Some((other, _))) => {
            let hint = format!("Object '{}' has both.", request.id);
            Err(Error::invalid(format!("'{other}' and '{one}' are mutually exclusive")).with_hint(hint))
        }
        (None, _) => {
            let hint = format!("Object '{}' has neither; add file=PATH.", request.id);
            Err(Error::invalid("Either 'file' or 'data' must be provided").with_hint(hint))
        }
    }
}
