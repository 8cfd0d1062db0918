//! Objects that users create with `--object`, kept by id in the order they were made.
//!
//! A [`Registry`] belongs to the program and is passed along; there is no global one. It is built from the `--object`
//! arguments in the order given, so an object can refer only to objects before it. Each crate contributes a table
//! of [`ObjectType`]s; what a type does lives with the type, not here.
//!
//! Messages are those of QEMU 10.0; which mistake is told first also follows it: type, presence of the id, the
//! object's own options, form of the id, duplicates, and last what the object finds when it is made.

mod decode;
mod keyring;
mod reference;
mod secret;
#[cfg(test)]
mod tests;
mod unavailable;

use crate::options::de::{self, Dialect};
use crate::options::{Options, json, keyval};
use crate::tls::{self, Authorization, TlsCredentials};
use crate::{Error, Kind, Result, authz};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::any::Any;
use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

pub use secret::{Secret, Source};

/// The object types of this crate.
pub const OBJECT_TYPES: &[ObjectType] = {
    let [simple, list, file, file_again] = authz::OBJECT_TYPES;
    &[
        secret::TYPE,
        keyring::TYPE,
        tls::x509::TYPE,
        #[cfg(feature = "tls-openssl")]
        tls::libssl::psk::TYPE,
        #[cfg(feature = "tls-openssl")]
        tls::libssl::anon::TYPE,
        simple,
        list,
        file,
        file_again,
    ]
};

/// A kind of object: a row in the table of the crate that knows it.
#[derive(Debug)]
pub struct ObjectType {
    /// Its name in `--object NAME,id=…`.
    pub name: &'static str,
    /// Its options and their types, as help prints them.
    pub options: &'static [(&'static str, &'static str)],
    /// Makes one. Must begin with [`Request::parse`], which also judges the id.
    pub create: fn(&Request<'_>) -> Result<Box<dyn Object>>,
}

/// An object that users created.
pub trait Object: Any + fmt::Debug + Send + Sync {
    /// The secret it holds, for the types that are secrets.
    fn as_secret(&self) -> Option<&Secret> {
        None
    }

    /// The TLS credentials it is, for the types that are some.
    fn as_tls_credentials(&self) -> Option<Arc<dyn TlsCredentials>> {
        None
    }

    /// The authorisation it is, for the types that are one.
    fn as_authorization(&self) -> Option<Arc<dyn Authorization>> {
        None
    }
}

/// What an [`ObjectType`] makes an object from.
pub struct Request<'a> {
    /// The id of the new object.
    pub id: &'a str,
    /// The objects made before.
    pub registry: &'a Registry,
    options: &'a Options,
    dialect: Dialect,
}

impl Request<'_> {
    /// The options as the type wants them, once they and the id are right.
    ///
    /// # Errors
    /// An option that is unknown, missing or malformed; an id that is malformed or taken.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        let map = self.options.as_map();
        let parsed = de::parse(map, self.dialect)?;
        check_id(self.id)?;
        if self.registry.get_any(self.id).is_some() {
            let text =
                format!("attempt to add duplicate property '{}' to object (type 'container')", self.id);
            return Err(Error::invalid(text).with_hint("Every object needs an id of its own."));
        }
        Ok(parsed)
    }
}

/// The options may hold a secret.
impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What an `--object` argument came to.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Added {
    /// An object.
    Object,
    /// The user asked what there is: text for standard output, after which the program ends well.
    Help(String),
}

/// The objects of a program.
#[derive(Debug, Default)]
pub struct Registry {
    types: Vec<&'static [ObjectType]>,
    objects: Vec<(String, Box<dyn Object>)>,
}

impl Registry {
    /// No objects yet, of these types: one table for each crate that has some, such as [`OBJECT_TYPES`].
    pub fn new(types: impl IntoIterator<Item = &'static [ObjectType]>) -> Self {
        Registry { types: types.into_iter().collect(), objects: Vec::new() }
    }

    /// Makes the object that one `--object` argument describes, as `TYPE,id=ID,key=value…` or in JSON.
    ///
    /// # Errors
    /// Text that is no such description, a type or option that does not exist, a duplicate or malformed id, and
    /// whatever the type finds wrong.
    pub fn add(&mut self, arg: impl AsRef<OsStr>) -> Result<Added> {
        let (mut options, dialect) = match parse(arg.as_ref())? {
            Parsed::Object(options, dialect) => (options, dialect),
            Parsed::Help(options) => return Ok(Added::Help(self.help(options.get_str("qom-type")))),
        };
        let row = self.type_of(&take_str(&mut options, "qom-type", dialect)?)?;
        let id = take_str(&mut options, "id", dialect)?;
        let request = Request { id: &id, registry: self, options: &options, dialect };
        let object = (row.create)(&request)?;
        self.objects.push((id, object));
        Ok(Added::Object)
    }

    /// The object `id`, if it is a `T`.
    pub fn get<T: Object>(&self, id: &str) -> Option<&T> {
        let object: &dyn Any = self.get_any(id)?;
        object.downcast_ref()
    }

    /// The object `id`, whatever its type.
    pub fn get_any(&self, id: &str) -> Option<&dyn Object> {
        self.objects.iter().find(|(name, _)| name == id).map(|(_, object)| &**object)
    }

    /// The secret `id`.
    ///
    /// # Errors
    /// There is no such object, or it is not a secret.
    pub fn secret(&self, id: &str) -> Result<&Secret> {
        let object = self.get_any(id).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("No secret with id '{id}'"))
                .with_hint(format!("Make it first: --object secret,id={id},file=PATH"))
        })?;
        object.as_secret().ok_or_else(|| {
            Error::invalid(format!("Object with id '{id}' is not a secret"))
                .with_hint("A secret is made with --object secret,id=ID,file=PATH")
        })
    }

    /// All objects with their ids, in the order they were made.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &dyn Object)> {
        self.objects.iter().map(|(id, object)| (id.as_str(), &**object))
    }

    /// A warning for the user, if a secret was given where other users can read it. For programs on a terminal.
    pub fn exposure(&self) -> Option<String> {
        self.iter().filter_map(|(_, object)| object.as_secret()).find_map(Secret::exposure)
    }

    fn rows(&self) -> impl Iterator<Item = &'static ObjectType> {
        self.types.iter().copied().flatten()
    }

    fn type_of(&self, name: &str) -> Result<&'static ObjectType> {
        self.rows().find(|row| row.name == name).ok_or_else(|| {
            let names = self.type_names().join(", ");
            unavailable::refuse(name, &names)
        })
    }

    fn type_names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.rows().map(|row| row.name).collect();
        names.sort_unstable();
        names
    }

    /// The options of a type, or the types if it is not one of them.
    fn help(&self, name: Option<&str>) -> String {
        let Some(row) = self.rows().find(|row| Some(row.name) == name) else {
            return list("List of user creatable objects:", self.type_names());
        };
        let mut options: Vec<_> = row.options.iter().map(|(name, kind)| format!("{name}=<{kind}>")).collect();
        options.sort_unstable();
        list(&format!("{} options:", row.name), options)
    }
}

fn list(title: &str, lines: Vec<impl fmt::Display>) -> String {
    lines.into_iter().fold(format!("{title}\n"), |text, line| format!("{text}  {line}\n"))
}

enum Parsed {
    Object(Zeroizing<Options>, Dialect),
    Help(Zeroizing<Options>),
}

fn parse(arg: &OsStr) -> Result<Parsed> {
    let text = arg.to_str().ok_or_else(|| {
        Error::invalid("The description of an object is not valid UTF-8")
            .with_hint("A binary secret can be given with file=PATH, or in base64 with format=base64")
    })?;
    if text.starts_with('{') {
        // Parsed text that begins with a brace is an object. Its keys are taken as they are, dots and all.
        let Value::Object(map) = json::parse(text)? else {
            return Err(Error::invalid("Expecting a JSON object"));
        };
        return Ok(Parsed::Object(Zeroizing::new(Options::verbatim(map)), Dialect::Json));
    }
    let parsed = keyval::object(text, "qom-type")?;
    Ok(match parsed.help {
        true => Parsed::Help(parsed.options),
        false => Parsed::Object(parsed.options, Dialect::Keyval),
    })
}

/// Takes out one of the two options that all objects have.
fn take_str(options: &mut Options, key: &str, dialect: Dialect) -> Result<String> {
    let value = options.take(key).ok_or_else(|| Error::invalid(format!("Parameter '{key}' is missing")))?;
    Ok(de::string(key, &value, dialect)?)
}

/// Checks that `id` can be the id of an object: a letter, then letters, digits, `-`, `.` and `_`.
///
/// # Errors
/// Anything else.
pub fn check_id(id: &str) -> Result<()> {
    let well_formed = id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if well_formed {
        return Ok(());
    }
    Err(Error::invalid("Parameter 'id' expects an identifier")
        .with_hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."))
}
