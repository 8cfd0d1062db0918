//! `img rescue`: the way out of the legacy AES encryption of qcow and qcow2.
//!
//! The rooms: `look` finds the images and says what they are; `judge` decides whether the passphrase is the right one,
//! which the format itself cannot tell; `record` keeps what is needed to go on after an interruption; `work` makes one
//! new image; `report` prints what became of all of them. A source is only ever opened for reading.

mod judge;
mod look;
mod record;
mod report;
mod work;

use super::Tool;
use crate::cli::{Objects, Report, Run};
use block::{Error, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `rescue`.
#[derive(Debug, Args)]
pub(crate) struct RescueArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    report: Report,
    /// The id of the secret that the images are encrypted with
    #[arg(long, value_name = "ID")]
    key_secret: Option<String>,
    /// The id of the secret for the new images; the old one unless given
    #[arg(long, value_name = "ID")]
    new_secret: Option<String>,
    /// The folder for the new images
    #[arg(short, long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// What to make: qcow2 (encrypted with LUKS), luks or raw (not encrypted)
    #[arg(short = 'O', long = "target-format", value_name = "FMT", default_value = "qcow2", value_parser = PossibleValuesParser::new(["qcow2", "luks", "raw"]))]
    format: String,
    /// Rescue internal snapshots as well, each to an image of its own
    #[arg(short = 'l', long)]
    snapshots: bool,
    /// Proceed where the passphrase seems to be wrong
    #[arg(long)]
    force: bool,
    /// Milliseconds that opening a new image is to take
    #[arg(long, value_name = "MS")]
    iter_time: Option<u64>,
    /// The images, or folders of images
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for RescueArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(self, tool: &Tool<'_>) -> Result<ExitCode> {
        let plan = self.plan(tool)?;
        let mut job = work::Job::new(tool, plan);
        for found in look::collect(tool, &self.words) {
            match found {
                Ok(look) => job.rescue(&look),
                Err((name, error)) => job.failed(&name, &error),
            }
        }
        let rows = job.finish();
        if self.report.is_json() {
            tool.out.line(block::tool::json::pretty(&report::json(&rows)));
        } else {
            tool.out.print(report::table(&rows));
        }
        let well = !rows.is_empty() && rows.iter().all(|row| row.result.is_ok());
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl RescueArgs {
    fn plan(&self, tool: &Tool<'_>) -> Result<work::Plan> {
        if self.words.is_empty() {
            return Err(tool.usage_error("Expecting at least one image or folder"));
        }
        let missing = |what: &str| tool.usage_error(format!("{what} is required"));
        let old = self.key_secret.clone().ok_or_else(|| missing("--key-secret"))?;
        let directory = self.directory.as_ref().ok_or_else(|| missing("--directory"))?;
        let text = |e: std::io::Error| {
            let errno = e.raw_os_error().unwrap_or(nix::libc::EIO);
            Error::from_errno(errno).context(format!("Could not use folder '{}'", directory.display()))
        };
        std::fs::create_dir_all(directory).map_err(text)?;
        // Before anything is done: the key is the beginning of a text, and new images need one as well.
        let new = self.new_secret.clone().unwrap_or_else(|| old.clone());
        for id in [&old, &new] {
            tool.env().objects.secret(id)?.as_utf8()?;
        }
        Ok(work::Plan {
            keys: look::Keys { old, new },
            directory: directory.canonicalize().map_err(text)?,
            format: self.format.clone(),
            snapshots: self.snapshots,
            force: self.force,
            iter_time: self.iter_time,
        })
    }
}
