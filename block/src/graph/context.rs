//! What a driver sees while it is opened: its options, and the way to its children.

use super::open::{ChildSource, open_child};
use super::{Env, OpenFlags, Perms};
use crate::{Child, Context, Error, Node, Options, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

/// Handed to a driver's open function.
#[derive(Debug)]
pub struct OpenCtx<'a> {
    /// Drivers and objects.
    pub env: Env<'a>,
    /// How the node is opened.
    pub flags: OpenFlags,
    /// What the node's parent wants.
    pub perms: Perms,
    /// Nobody said that the image is in this format: probing found nothing better.
    pub guessed: bool,
    pub(super) driver: &'static super::DriverRow,
    pub(super) options: Options,
    pub(super) children: BTreeMap<&'static str, ChildSource>,
    pub(super) depth: u32,
    /// What the node will be called by, filled in as children are opened.
    pub(super) opened: Vec<Child>,
}

impl OpenCtx<'_> {
    /// The driver's own options, as the type that lists them.
    ///
    /// # Errors
    /// An unknown, missing or malformed option, by name.
    pub fn options<T: DeserializeOwned>(&self) -> Result<T> {
        use secret::options::OptionError;
        self.options.parse().map_err(|e| match e {
            OptionError::Unknown(key) => self.unknown_option(&key),
            e => e.into(),
        })
    }

    fn unknown_option(&self, key: &str) -> Error {
        let name = self.driver.name;
        Error::invalid(match self.driver.kind {
            super::DriverKind::Protocol => {
                format!("Block protocol '{name}' doesn't support the option '{key}'")
            }
            _ => format!("Block format '{name}' does not support the option '{key}'"),
        })
    }

    /// Tells the user something that is no reason to fail, on standard error.
    pub fn warn(&self, text: &str) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Whether the options (or the file name) describe a child in this role.
    pub fn has_child(&self, role: &str) -> bool {
        self.children.contains_key(role)
    }

    /// Leaves alone what the options describe in this role.
    pub fn forgo(&mut self, role: &str) {
        self.children.remove(role);
    }

    /// Opens the child the options describe in this role.
    ///
    /// # Errors
    /// No such child described, or its own failure to open.
    pub fn child(&mut self, role: &'static str, perms: Perms) -> Result<Child> {
        let source = self
            .children
            .remove(role)
            .ok_or_else(|| Error::invalid(format!("A block device must be specified for \"{role}\"")))?;
        self.attach(role, source, perms)
    }

    /// Opens a child whose name stands in the image and is taken as it is; where options describe the role, they say all.
    ///
    /// # Errors
    /// The child's failure to open.
    pub fn child_named(&mut self, role: &'static str, filename: &str, perms: Perms) -> Result<Child> {
        if self.has_child(role) {
            return self.child(role, perms);
        }
        let source = self.source_named(role, Some(filename.to_owned()), None)?;
        self.attach(role, source, perms)
    }

    /// Opens the backing file, read-only: the one options describe, else the one the image names. `None` without
    /// either, and where options say that there is to be none.
    ///
    /// # Errors
    /// The backing file's failure to open.
    pub fn backing(&mut self, filename: Option<&str>, format: Option<&str>) -> Result<Option<Child>> {
        let described = self.children.get("backing");
        if matches!(described, Some(ChildSource::Nothing)) {
            self.children.remove("backing");
            return Ok(None);
        }
        // One that is described and not wanted is left over, and told as an option that nobody took.
        if self.flags.no_backing || described.is_none() && filename.is_none() {
            return Ok(None);
        }
        let own = self.perms.own & super::Perm::READ;
        let perms = Perms { own, shared: self.perms.shared };
        let flags = self.flags;
        self.flags.writable = false;
        let filename = filename.map(|name| self.resolve(name)).transpose();
        let opened = filename
            .and_then(|filename| self.source_named("backing", filename, format))
            .and_then(|source| self.attach("backing", source, perms))
            .context(|| "Could not open backing file");
        self.flags = flags;
        opened.map(Some)
    }

    /// The source of a child, with the name and format that stand in the image where options say nothing.
    fn source_named(
        &mut self,
        role: &'static str,
        filename: Option<String>,
        format: Option<&str>,
    ) -> Result<ChildSource> {
        let mut source = match self.children.remove(role) {
            Some(source) => source,
            None => ChildSource::Describe { filename: None, options: Options::new() },
        };
        if let ChildSource::Describe { filename: name @ None, options } = &mut source
            && ["filename", "file"].iter().all(|key| options.get(key).is_none())
        {
            *name = filename;
            if let Some(format) = format {
                options.set_default("driver", format)?;
            }
        }
        Ok(source)
    }

    /// The file that a name in the image means, which is relative to the image's own file.
    ///
    /// # Errors
    /// A relative name in an image that is no file.
    fn resolve(&self, filename: &str) -> Result<String> {
        let base = self.opened.iter().find(|c| c.role() == "file");
        super::resolve(&base.map_or_else(String::new, |file| file.node().base_name()), filename)
    }

    /// Opens a child that options of the driver's own describe, which may be of any format.
    ///
    /// # Errors
    /// The child's failure to open.
    pub fn described(&mut self, role: &'static str, value: Value, perms: Perms) -> Result<Child> {
        let source = match value {
            Value::Object(map) => ChildSource::Describe { filename: None, options: Options::from_map(map)? },
            Value::String(name) => ChildSource::Reference(name),
            other => ChildSource::Reference(other.to_string()),
        };
        self.attach(role, source, perms)
    }

    /// Takes an option, or a group of them, out of those that the driver's typed options will have to name.
    pub fn take_option(&mut self, key: &str) -> Option<Value> {
        self.options.take(key)
    }

    fn attach(&mut self, role: &'static str, source: ChildSource, perms: Perms) -> Result<Child> {
        let node: Arc<Node> = open_child(self, role, source, perms)?;
        let child = Child::new(role, node, perms.own.contains(super::Perm::RESIZE));
        self.opened.push(child.clone());
        Ok(child)
    }

    /// The text of an option that is not part of a typed struct, such as one shared by all drivers.
    pub fn raw_option(&self, key: &str) -> Option<&Value> {
        self.options.get(key)
    }
}
