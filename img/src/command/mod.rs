//! The commands, one file each. A command parses, opens, does and prints.

pub(crate) mod amend;
pub(crate) mod bench;
pub(crate) mod bitmap;
pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod dd;
pub(crate) mod info;
pub(crate) mod key;
pub(crate) mod map;
pub(crate) mod measure;
pub(crate) mod rebase;
pub(crate) mod rescue;
pub(crate) mod resize;
pub(crate) mod snapshot;
pub(crate) mod tls_init;

use crate::cli::{self, Objects};
use block::graph::Env;
use block::tool::Out;
use block::{Error, Result};
use secret::objects::Added;
use secret::{OBJECT_TYPES, Registry};
use std::io::IsTerminal;
use std::sync::Arc;

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Tool<'a> {
    /// Where it prints.
    pub(crate) out: &'a Arc<Out>,
    objects: Registry,
}

impl<'a> Tool<'a> {
    /// Makes the objects of the command line, in order. `None` when all that was asked is which there are.
    ///
    /// # Errors
    /// The first object that cannot be made.
    pub(crate) fn start(out: &'a Arc<Out>, objects: &Objects) -> Result<Option<Self>> {
        let mut registry = Registry::new([OBJECT_TYPES, block::OBJECT_TYPES]);
        if !objects.objects.is_empty() {
            secret::forbid_core_dump()?;
        }
        for text in &objects.objects {
            if let Added::Help(help) = registry.add(text)? {
                out.print(help);
                return Ok(None);
            }
        }
        if let Some(warning) = registry.exposure().filter(|_| std::io::stderr().is_terminal()) {
            out.error_text(&format!("warning: {warning}"));
        }
        Ok(Some(Tool { out, objects: registry }))
    }

    /// A complaint about the command line, with where to read on.
    pub(crate) fn usage_error(&self, text: impl Into<String>) -> Error {
        cli::usage_error(self.out, text)
    }

    /// Parses a size given on the command line; `what` says which.
    ///
    /// # Errors
    /// Text that is no size, or one that does not fit a file offset.
    pub(crate) fn parse_size(&self, text: &str, what: &str) -> Result<u64> {
        cli::parse_size(self.out, text, what)
    }

    /// Drivers and objects, for opening and creating images.
    pub(crate) fn env(&self) -> Env<'_> {
        Env { drivers: formats::DRIVERS, objects: &self.objects }
    }
}
