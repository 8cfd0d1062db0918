//! `img key backup` and `img key restore`.

use super::{Access, Target};
use crate::command::Tool;
use block::{Context, Error, Result};
use clap::Args;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

/// The largest header there can be: two copies of 4 MiB and 128 MiB of key slots.
const MAX_HEADER: u64 = 136 << 20;

/// Options of `key backup`.
#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    pub(super) target: Target,
}

impl BackupArgs {
    pub(super) fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let (words, path) = split(&mut self.target, tool)?;
        let bytes = self.target.with_keys(tool, words, Access::default(), |keys, _| keys.backup())?;
        save(&path, &bytes)?;
        let text = format!(
            "Saved the header to '{path}', {} bytes. Passphrases of today will open it for ever: keep it safe.",
            bytes.len()
        );
        self.target.say(tool, &text);
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `key restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub(super) target: Target,
    /// Restore it even over the header of another container
    #[arg(long)]
    force: bool,
}

impl RestoreArgs {
    pub(super) fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let (words, path) = split(&mut self.target, tool)?;
        let backup = load(&path)?;
        let access = Access { write: true, damaged: true };
        self.target
            .with_keys(tool, words, access, |keys, quiesced| keys.restore(quiesced, &backup, self.force))?;
        self.target.say(tool, &format!("Restored the header from '{path}'."));
        Ok(ExitCode::SUCCESS)
    }
}

/// Takes the last word, which is the file with the saved header, from the others.
fn split(target: &mut Target, tool: &Tool<'_>) -> Result<(Vec<String>, String)> {
    let mut words = std::mem::take(&mut target.words);
    let path = words.pop();
    let path = path.ok_or_else(|| tool.usage_error("Expecting an image and a file for the header"))?;
    Ok((words, path))
}

/// Writes a header to a new file that only its owner may read.
///
/// # Errors
/// The file exists, or cannot be written.
pub(super) fn save(path: &str, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().context(|| format!("Could not save the header to '{path}'"))
}

fn load(path: &str) -> Result<Vec<u8>> {
    let what = || format!("Could not read the header in '{path}'");
    let mut bytes = Vec::new();
    let file = File::open(path).context(what)?;
    file.take(MAX_HEADER + 1).read_to_end(&mut bytes).context(what)?;
    match bytes.len() as u64 <= MAX_HEADER {
        true => Ok(bytes),
        false => Err(Error::invalid("It is larger than any header").context(what())),
    }
}
