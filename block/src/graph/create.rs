//! Creating images: the table of creation options, their values, and the way from a format to its file.

use super::name::has_protocol;
use super::open::Opener;
use super::{DriverKind, DriverRow, Env, OpenFlags, Perm, Perms};
use crate::{Child, Error, Image, Kind, Options, Prealloc, Result};
use secret::options::{de, keyval};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// What a creation option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateKind {
    /// Text.
    Str,
    /// A size in bytes, with suffix.
    Size,
    /// A number.
    Num,
    /// `on` or `off`.
    Bool,
}

impl CreateKind {
    /// How `-o help` names it.
    pub fn name(self) -> &'static str {
        match self {
            CreateKind::Str => "<str>",
            CreateKind::Size => "<size>",
            CreateKind::Num => "<num>",
            CreateKind::Bool => "<bool (on/off)>",
        }
    }
}

/// One creation option.
#[derive(Debug, Clone, Copy)]
pub struct CreateOption {
    /// Its name; dots descend.
    pub name: &'static str,
    /// What it takes.
    pub kind: CreateKind,
    /// One line of help.
    pub help: &'static str,
    /// The value it has unless given, where it has one.
    pub default: Option<&'static str>,
}

/// The space an image would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Bytes for the data there is.
    pub required: u64,
    /// Bytes when every cluster is written.
    pub fully_allocated: u64,
    /// Bytes for persistent bitmaps, where the format has them.
    pub bitmaps: Option<u64>,
}

/// Computes the space an image takes; the secrets it would be made with must be there.
pub type MeasureFn = fn(Env<'_>, &CreateOptions, Option<&Image>) -> Result<Measure>;

/// How a driver creates images.
pub struct CreateRow {
    /// Its options, in the order in which `create` prints them.
    pub options: &'static [CreateOption],
    /// Creates the image.
    pub create: fn(&mut CreateCtx<'_>, &CreateOptions) -> Result<()>,
    /// Computes the space an image of this format takes for `source` (or for the size among the options).
    pub measure: Option<MeasureFn>,
}

impl std::fmt::Debug for CreateRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateRow").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Values for a driver's creation options, with those of the protocol that will hold the file.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    table: Vec<CreateOption>,
    format: Vec<&'static str>,
    values: Options,
}

impl CreateOptions {
    /// No values yet, for `format` in a file of `protocol` (if there is a file at all).
    pub fn new(format: &'static CreateRow, protocol: Option<&'static CreateRow>) -> Self {
        let mut table = format.options.to_vec();
        for option in protocol.map_or(&[][..], |p| p.options) {
            if table.iter().all(|o| o.name != option.name) {
                table.push(*option);
            }
        }
        let format = format.options.iter().map(|o| o.name).collect();
        CreateOptions { table, format, values: Options::new() }
    }

    /// No values yet, for a change of an image that exists.
    pub fn amending(row: &DriverRow) -> Self {
        let format = row.amend.iter().map(|o| o.name).collect();
        CreateOptions { table: row.amend.to_vec(), format, values: Options::new() }
    }

    /// The options there are, in declaration order.
    pub fn table(&self) -> &[CreateOption] {
        &self.table
    }

    /// Sets an option from its text.
    ///
    /// # Errors
    /// An unknown option, or text that is not what the option takes.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let Some(option) = self.table.iter().find(|o| o.name == name) else {
            return Err(Error::invalid(format!("Invalid parameter '{name}'")));
        };
        let value = parse(option, text)?;
        self.values.set(name, value)
    }

    /// Sets an option unless the user did.
    ///
    /// # Errors
    /// As for [`CreateOptions::set`].
    pub fn set_default(&mut self, name: &str, text: &str) -> Result<()> {
        if self.values.get(name).is_none() { self.set(name, text) } else { Ok(()) }
    }

    /// The same options with nothing given for `name`.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        let mut rest = self.clone();
        rest.values.take(name);
        rest
    }

    /// The value of an option, given or default.
    pub fn get(&self, name: &str) -> Option<Value> {
        let given = self.values.get(name).cloned();
        given.or_else(|| self.table.iter().find(|o| o.name == name)?.default.map(Value::from))
    }

    /// The given options that name a secret: whoever opens the new image gives them again, by the same names.
    pub fn secrets(&self) -> Options {
        let given = |option: &&CreateOption| option.name.ends_with("key-secret");
        let value = |name: &'static str| Some((name, self.values.get(name)?.clone()));
        let pairs = self.table.iter().filter(given).filter_map(|option| value(option.name));
        Options::from_pairs(pairs).expect("names from one table do not contradict each other")
    }

    /// The options as the type that lists them; options of the protocol are left out.
    ///
    /// # Errors
    /// A value the type does not accept.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        let mut tree = Options::new();
        for name in &self.format {
            if let Some(value) = self.get(name) {
                tree.set(name, value)?;
            }
        }
        Ok(tree.parse()?)
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        let value = self.get(name);
        value.and_then(|v| de::parse_bool(name, v.as_str()?).ok()).unwrap_or(false)
    }

    /// The values there are, defaults included, in declaration order, as ` name=value` (what `create` prints).
    pub fn describe(&self) -> String {
        let given = self.table.iter().filter_map(|o| Some((o.name, self.get(o.name)?)));
        given
            .map(|(name, value)| match value.as_str() {
                Some(text) => format!(" {name}={}", keyval::escape(text)),
                None => format!(" {name}={value}"),
            })
            .collect()
    }
}

/// Judges the text of an option. Switches stay as they were written, for [`CreateOptions::describe`].
fn parse(option: &CreateOption, text: &str) -> Result<Value> {
    Ok(match option.kind {
        CreateKind::Str => Value::from(text),
        CreateKind::Size => de::parse_size(option.name, text)?.into(),
        CreateKind::Num => de::parse_number(option.name, text)?.into(),
        CreateKind::Bool => de::parse_bool(option.name, text).map(|_| text.into())?,
    })
}

/// Handed to a driver's create function.
#[derive(Debug)]
pub struct CreateCtx<'a> {
    /// Drivers and objects.
    pub env: Env<'a>,
    /// The file name, as the user gave it.
    pub filename: &'a str,
    protocol: &'static DriverRow,
    file_exists: bool,
}

impl CreateCtx<'_> {
    /// Creates (or empties) the file under the image and opens it with every right.
    ///
    /// # Errors
    /// The protocol's.
    pub fn create_file(&mut self, size: u64, options: &CreateOptions) -> Result<Child> {
        let row = self.protocol.create.ok_or_else(|| no_protocol_creation(self.protocol))?;
        let mut own = CreateOptions::new(row, None);
        for option in row.options.iter().filter(|o| o.name != "size") {
            if let Some(value) = options.values.get(option.name) {
                own.values.set(option.name, value.clone())?;
            }
        }
        own.set("size", &size.to_string())?;
        (row.create)(self, &own)?;
        self.file_exists = true;
        self.open_file()
    }

    /// The name of the protocol that holds the file.
    pub fn protocol(&self) -> &'static str {
        self.protocol.name
    }

    /// Creates (or empties) another file that belongs to the image, and opens it with every right.
    ///
    /// # Errors
    /// The protocol's.
    pub fn create_other(&mut self, role: &'static str, filename: &str, size: u64) -> Result<Child> {
        let protocol = protocol_of(self.env, Some(filename))?;
        let row = protocol.create.ok_or_else(|| no_protocol_creation(protocol))?;
        let mut own = CreateOptions::new(row, None);
        own.set("size", &size.to_string())?;
        let mut other = CreateCtx { env: self.env, filename, protocol, file_exists: false };
        (row.create)(&mut other, &own)?;
        let file = other.open_file()?;
        Ok(Child::new(role, Arc::clone(file.node()), true))
    }

    /// Opens the file under the image, which exists, with every right.
    ///
    /// # Errors
    /// The protocol's.
    pub fn open_file(&self) -> Result<Child> {
        let flags = OpenFlags { writable: true, resize: true, ..OpenFlags::default() };
        let perms = Perms { own: Perm::READ | Perm::WRITE | Perm::RESIZE, shared: Perm::all() };
        let opener = Opener { env: self.env, flags, perms, depth: 1, guessed: false };
        let mut options = Options::new();
        options.set("driver", self.protocol.name)?;
        let node = opener.open_protocol(self.filename, options)?;
        Ok(Child::new("file", node, true))
    }
}

fn no_protocol_creation(row: &DriverRow) -> Error {
    Error::unsupported(format!("Protocol driver '{}' does not support image creation", row.name))
}

/// The protocol a file name means.
///
/// # Errors
/// An unknown protocol prefix.
pub(super) fn protocol_of(env: Env<'_>, filename: Option<&str>) -> Result<&'static DriverRow> {
    match filename.and_then(has_protocol) {
        Some(prefix) => {
            env.drivers.protocol(prefix).ok_or_else(|| Error::invalid(format!("Unknown protocol '{prefix}'")))
        }
        None => env
            .drivers
            .find(crate::protocol::file::driver_for(filename))
            .ok_or_else(|| Error::unsupported("This program has no driver for files")),
    }
}

/// The option values `format` takes for an image in `filename` (for any file when `None`), all unset.
///
/// # Errors
/// A driver that cannot create images, or an unknown protocol.
pub fn options_for(
    env: Env<'_>,
    format: &'static DriverRow,
    filename: Option<&str>,
) -> Result<CreateOptions> {
    let row = format.create.ok_or_else(|| {
        Error::unsupported(format!("Format driver '{}' does not support image creation", format.name))
    })?;
    let Some(filename) = filename else { return Ok(CreateOptions::new(row, None)) };
    let protocol = protocol_of(env, Some(filename))?;
    let below = protocol.create.ok_or_else(|| no_protocol_creation(protocol))?;
    Ok(CreateOptions::new(row, Some(below)))
}

/// Creates an image. When a format fails after its file was made, the file is deleted again.
///
/// # Errors
/// What went wrong, naming the file where the protocol does.
pub fn create(
    env: Env<'_>,
    format: &'static DriverRow,
    filename: &str,
    options: &CreateOptions,
) -> Result<()> {
    let row = format.create.ok_or_else(|| {
        Error::unsupported(format!("Format driver '{}' does not support image creation", format.name))
    })?;
    let protocol = protocol_of(env, Some(filename))?;
    let mut ctx = CreateCtx { env, filename, protocol, file_exists: false };
    let result = (row.create)(&mut ctx, options);
    // What another process holds stays.
    let failed = result.as_ref().is_err_and(|e| e.kind() != Kind::Locked);
    if failed && ctx.file_exists && format.kind == DriverKind::Format {
        // The creation's own error matters more than one of the clean-up.
        let _ = file_path(env, filename).map(std::fs::remove_file);
    }
    result
}

/// The regular file that holds an image of this name: what creating it makes and what may be deleted again. `None` for
/// devices and for what is no file.
pub fn file_path<'a>(env: Env<'_>, filename: &'a str) -> Option<&'a Path> {
    let protocol = protocol_of(env, Some(filename)).ok()?;
    let path = filename.strip_prefix("file:").unwrap_or(filename);
    (protocol.name == "file").then_some(Path::new(path))
}

/// The value of the `preallocation` option.
///
/// # Errors
/// An unknown mode.
pub fn prealloc(options: &CreateOptions) -> Result<Prealloc> {
    let Some(value) = options.get("preallocation") else { return Ok(Prealloc::Off) };
    super::name_in(value.as_str().unwrap_or_default())
}
