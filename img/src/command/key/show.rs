//! `img key list` and `img key test`.

use super::{Access, Target};
use crate::cli::Report;
use crate::command::Tool;
use block::Result;
use block::tool::json;
use clap::Args;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Options of `key list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    report: Report,
}

impl ListArgs {
    pub(super) fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let words = std::mem::take(&mut self.target.words);
        let read = Access::default();
        let (kind, slots) =
            self.target.with_keys(tool, words, read, |keys, _| Ok((keys.kind(), keys.list())))?;
        match self.report.is_json() {
            true => tool.out.line(json::pretty(&json!({"container": kind, "slots": slots}))),
            false => slots.as_array().into_iter().flatten().for_each(|slot| tool.out.line(line(slot))),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One slot for people: its number, then what else is known.
fn line(slot: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let members = slot.as_object().into_iter().flatten().filter(|(name, _)| *name != "slot");
    let known: Vec<_> = members.map(|(name, value)| format!("{name} {}", text(value))).collect();
    format!("slot {}: {}", slot["slot"], known.join(", "))
}

/// Options of `key test`.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    pub(super) target: Target,
    /// The secret to try
    #[arg(long, value_name = "ID")]
    key_secret: Option<String>,
    /// Try only this slot
    #[arg(long, value_name = "N")]
    slot: Option<u64>,
}

impl TestArgs {
    pub(super) fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let secret = self.target.secret(tool, "key-secret", self.key_secret.as_deref())?;
        let words = std::mem::take(&mut self.target.words);
        let slot =
            self.target.with_keys(tool, words, Access::default(), |keys, _| keys.test(secret, self.slot))?;
        self.target.say(tool, &format!("The passphrase opens slot {slot}."));
        Ok(ExitCode::SUCCESS)
    }
}
