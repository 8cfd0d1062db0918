//! `img key`: passphrases of encrypted images, one subcommand each.
//!
//! Here: the subcommands, how the image is named and opened, and what changing commands share. The image is opened
//! without its key, as only the header is touched; a header that is damaged is no hindrance to look at it or to restore
//! it.

mod change;
mod header;
mod lint;
mod show;

use super::Tool;
use crate::cli::{Input, Objects, Run};
use block::graph::{self, OpenFlags, Perm};
use block::keys::Keys;
use block::{Error, Image, Quiesced, Result};
use clap::{Args, Subcommand};
use secret::Secret;
use std::process::ExitCode;

/// Options of `key`.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    action: Action,
}

/// What to do with the keys.
#[derive(Debug, Subcommand)]
enum Action {
    /// List the key slots
    List(show::ListArgs),
    /// Say which slot a passphrase opens
    Test(show::TestArgs),
    /// Add a passphrase
    Add(change::AddArgs),
    /// Put another passphrase in the place of one, which opens nothing afterwards
    Change(change::ChangeArgs),
    /// Remove a slot, or all that a passphrase opens
    Remove(change::RemoveArgs),
    /// Remove all slots: the contents are lost
    Erase(change::EraseArgs),
    /// Save the header with all key slots
    Backup(header::BackupArgs),
    /// Put a saved header in place
    Restore(header::RestoreArgs),
    /// Look for what is wrong with header and key slots, or could be better
    Lint(lint::LintArgs),
}

impl Action {
    fn target(&self) -> &Target {
        match self {
            Action::List(args) => &args.target,
            Action::Test(args) => &args.target,
            Action::Add(args) => &args.target,
            Action::Change(args) => &args.target,
            Action::Remove(args) => &args.target,
            Action::Erase(args) => &args.target,
            Action::Backup(args) => &args.target,
            Action::Restore(args) => &args.target,
            Action::Lint(args) => &args.target,
        }
    }
}

impl Run for KeyArgs {
    fn objects(&self) -> &Objects {
        &self.action.target().objects
    }

    fn run(self, tool: &Tool<'_>) -> Result<ExitCode> {
        match self.action {
            Action::List(args) => args.run(tool),
            Action::Test(args) => args.run(tool),
            Action::Add(args) => args.run(tool),
            Action::Change(args) => args.run(tool),
            Action::Remove(args) => args.run(tool),
            Action::Erase(args) => args.run(tool),
            Action::Backup(args) => args.run(tool),
            Action::Restore(args) => args.run(tool),
            Action::Lint(args) => args.run(tool),
        }
    }
}

/// How the image is named, whatever is done with it.
#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image, and for `backup` and `restore` the file with the saved header
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

/// How the image is to be opened.
#[derive(Debug, Clone, Copy, Default)]
struct Access {
    /// To change the header.
    write: bool,
    /// Also where there is no header that could be read.
    damaged: bool,
}

impl Target {
    /// The secret of that id.
    ///
    /// # Errors
    /// None was named, or there is none.
    fn secret<'a>(&self, tool: &'a Tool<'_>, option: &str, id: Option<&str>) -> Result<&'a Secret> {
        let id = id.ok_or_else(|| {
            Error::invalid(format!("--{option} is required"))
                .with_hint(format!("Name a secret: --object secret,id=s,file=PATH --{option} s"))
        })?;
        tool.env().objects.secret(id)
    }

    /// Opens the image of `words`, does something with its keys, and closes it.
    ///
    /// # Errors
    /// The image cannot be opened, or has no key slots; or what `f` says.
    fn with_keys<T>(
        &self,
        tool: &Tool<'_>,
        words: Vec<String>,
        access: Access,
        f: impl FnOnce(&dyn Keys, &Quiesced<'_>) -> Result<T>,
    ) -> Result<T> {
        let source = self.input.source(tool, words)?;
        let image = self.open(tool, &source, access)?;
        let done = image.node().with_keys(f).unwrap_or_else(|| Err(no_keys(source.text())));
        done.and_then(|value| image.close().map(|()| value))
    }

    fn open(&self, tool: &Tool<'_>, source: &graph::Source, access: Access) -> Result<Image> {
        let flags = OpenFlags {
            writable: access.write,
            withheld: if access.write { Perm::CHANGES } else { Perm::empty() },
            no_io: true,
            no_backing: true,
            repair: access.damaged,
            ..self.input.flags()
        };
        let format = self.input.format.as_deref();
        let image = graph::open(tool.env(), source, format, flags)?;
        if format.is_some() || has_keys(&image) {
            return Ok(image);
        }
        let driver = image.node().name().driver;
        image.close()?;
        // What begins with garbage may be LUKS all the same: LUKS2 has a second copy, and a backup may be at hand.
        match (driver, access.damaged) {
            ("raw", true) => graph::open(tool.env(), source, Some("luks"), flags),
            ("raw", false) => graph::open_unnamed(tool.env(), source, Some("luks"), flags)
                .map_err(|_| no_keys(source.text())),
            _ => Err(no_keys(source.text())),
        }
    }

    /// Tells the user what was done.
    fn say(&self, tool: &Tool<'_>, text: &str) {
        if !self.quiet {
            tool.out.line(text);
        }
    }
}

fn has_keys(image: &Image) -> bool {
    image.node().with_keys(|_, _| Ok(())).is_some()
}

fn no_keys(name: &str) -> Error {
    Error::unsupported(format!("'{name}' has no key slots"))
        .with_hint("Only LUKS images, and qcow2 images encrypted with LUKS, have any.")
}

/// "slot 1" or "slots 1, 2".
fn slots(numbers: &[usize]) -> String {
    let list: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    format!("slot{} {}", if numbers.len() == 1 { "" } else { "s" }, list.join(", "))
}
