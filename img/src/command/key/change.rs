//! `img key add`, `change`, `remove` and `erase`.

use super::header::save;
use super::{Access, Target, slots};
use crate::command::Tool;
use block::keys::{KeyChange, KeyCost};
use block::{Error, Result};
use clap::Args;
use secret::Secret;
use std::process::ExitCode;

/// What every change takes.
#[derive(Debug, Args)]
struct Safety {
    /// Save the header to this new file first
    #[arg(long, value_name = "FILE")]
    backup: Option<String>,
    /// Do it even if the contents may be lost
    #[arg(long)]
    force: bool,
}

/// What a new slot costs.
#[derive(Debug, Args)]
struct Cost {
    /// Time that a key derivation is to take, in milliseconds
    #[arg(long, value_name = "MS")]
    iter_time: Option<u64>,
    /// LUKS2: the kind of key derivation
    #[arg(long, value_name = "pbkdf2|argon2i|argon2id")]
    pbkdf: Option<String>,
    /// Iterations of the key derivation, instead of a time
    #[arg(long, value_name = "N")]
    pbkdf_iterations: Option<u32>,
    /// LUKS2: memory for Argon2, in KiB
    #[arg(long, value_name = "KIB")]
    pbkdf_memory: Option<u32>,
    /// LUKS2: lanes of Argon2
    #[arg(long, value_name = "N")]
    pbkdf_parallel: Option<u32>,
}

impl Cost {
    fn key_cost(&self) -> KeyCost {
        KeyCost {
            iter_time: self.iter_time,
            pbkdf: self.pbkdf.clone(),
            iterations: self.pbkdf_iterations,
            memory: self.pbkdf_memory,
            parallel: self.pbkdf_parallel,
        }
    }
}

/// Changes the slots of the image, after a backup if one was asked for. Gives the slots that were changed.
fn change(target: &mut Target, tool: &Tool<'_>, safety: &Safety, what: &KeyChange<'_>) -> Result<Vec<usize>> {
    let words = std::mem::take(&mut target.words);
    target.with_keys(tool, words, Access { write: true, damaged: false }, |keys, quiesced| {
        if let Some(path) = &safety.backup {
            save(path, &keys.backup()?)?;
        }
        keys.change(quiesced, what, safety.force)
    })
}

/// A passphrase that is to open the image, and one that does.
#[derive(Debug, Args)]
struct Passphrases {
    /// The secret that opens the image; with `change`, the one that is to open it no more
    #[arg(long, value_name = "ID")]
    key_secret: Option<String>,
    /// The new secret
    #[arg(long, value_name = "ID")]
    new_secret: Option<String>,
    #[command(flatten)]
    cost: Cost,
}

impl Passphrases {
    /// The secret that opens the image, and the new one.
    ///
    /// # Errors
    /// One was not named, or there is none of that name.
    fn secrets<'a>(&self, target: &Target, tool: &'a Tool<'_>) -> Result<(&'a Secret, &'a Secret)> {
        let old = target.secret(tool, "key-secret", self.key_secret.as_deref())?;
        Ok((old, target.secret(tool, "new-secret", self.new_secret.as_deref())?))
    }
}

/// Options of `key add`.
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    safety: Safety,
    #[command(flatten)]
    passphrases: Passphrases,
    /// The slot it is to go to; the first that is free unless given
    #[arg(long, value_name = "N")]
    slot: Option<u64>,
}

impl AddArgs {
    pub(super) fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let (opens, new) = self.passphrases.secrets(&self.target, tool)?;
        let cost = self.passphrases.cost.key_cost();
        let what = KeyChange::Add { opens, new, slot: self.slot, cost: &cost };
        let changed = change(&mut self.target, tool, &self.safety, &what)?;
        self.target.say(tool, &format!("The new passphrase is in {}.", slots(&changed)));
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `key change`.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    safety: Safety,
    #[command(flatten)]
    passphrases: Passphrases,
}

impl ChangeArgs {
    pub(super) fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let (old, new) = self.passphrases.secrets(&self.target, tool)?;
        let cost = self.passphrases.cost.key_cost();
        let what = KeyChange::Change { old, new, cost: &cost };
        let changed = change(&mut self.target, tool, &self.safety, &what)?;
        let (first, others) = changed.split_at(1.min(changed.len()));
        self.target.say(tool, &format!("The new passphrase is in {}.", slots(first)));
        if !others.is_empty() {
            let text = format!("Removed {}, which the old passphrase opened as well.", slots(others));
            self.target.say(tool, &text);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `key remove`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    safety: Safety,
    /// The secret whose slots are to be removed
    #[arg(long, value_name = "ID")]
    old_secret: Option<String>,
    /// The slot to remove
    #[arg(long, value_name = "N")]
    slot: Option<u64>,
}

impl RemoveArgs {
    pub(super) fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let what = match (self.slot, &self.old_secret) {
            (Some(slot), None) => KeyChange::RemoveSlot(slot),
            (None, Some(id)) => KeyChange::RemoveSecret(tool.env().objects.secret(id)?),
            _ => return Err(Error::invalid("Either --slot or --old-secret says what to remove")),
        };
        let changed = change(&mut self.target, tool, &self.safety, &what)?;
        self.target.say(tool, &format!("Removed {}.", slots(&changed)));
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `key erase`.
#[derive(Debug, Args)]
pub(super) struct EraseArgs {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    safety: Safety,
}

impl EraseArgs {
    pub(super) fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let changed = change(&mut self.target, tool, &self.safety, &KeyChange::Erase)?;
        self.target
            .say(tool, &format!("Removed {}: nobody can read the contents any more.", slots(&changed)));
        Ok(ExitCode::SUCCESS)
    }
}
