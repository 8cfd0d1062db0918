//! `img key lint`.

use super::{Access, Target};
use crate::cli::Report;
use crate::command::Tool;
use block::Result;
use block::keys::{Finding, LintBounds, Severity};
use block::tool::json;
use clap::Args;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// The exit status when there are findings; 1 is for what could not be looked at.
const FINDINGS: u8 = 2;

/// Options of `key lint`. The least costs are those that RFC 9106 calls its second choice for Argon2, and a tenth of a
/// second of PBKDF2; the most are what opening allows.
#[derive(Debug, Args)]
pub(super) struct LintArgs {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    report: Report,
    /// The fewest iterations of pbkdf2 that are enough
    #[arg(long, value_name = "N", default_value = "100000")]
    min_iterations: u64,
    /// The least memory of argon2 that is enough, in KiB
    #[arg(long, value_name = "KIB", default_value = "65536")]
    min_memory: u64,
    /// The fewest passes of argon2 that are enough
    #[arg(long, value_name = "N", default_value = "3")]
    min_time_cost: u64,
    /// The most memory of argon2 that is not too much, in KiB
    #[arg(long, value_name = "KIB", default_value = "4194304")]
    max_memory: u64,
}

impl LintArgs {
    pub(super) fn run(mut self, tool: &Tool<'_>) -> Result<ExitCode> {
        let bounds = LintBounds {
            min_iterations: self.min_iterations,
            min_memory: self.min_memory,
            min_time_cost: self.min_time_cost,
            max_seconds: self.target.input.flags().max_kdf_seconds.into(),
            max_memory: self.max_memory,
        };
        let words = std::mem::take(&mut self.target.words);
        let access = Access { write: false, damaged: true };
        let (kind, findings) =
            self.target.with_keys(tool, words, access, |keys, _| Ok((keys.kind(), keys.lint(&bounds)?)))?;
        match self.report.is_json() {
            true => tool.out.line(json::pretty(&json!({
                "container": kind,
                "findings": findings.iter().map(member).collect::<Vec<_>>(),
            }))),
            false => findings.iter().for_each(|finding| tool.out.line(line(finding))),
        }
        Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
    }
}

fn severity(finding: &Finding) -> &'static str {
    match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn member(finding: &Finding) -> Value {
    let mut map = Map::new();
    map.insert("severity".into(), severity(finding).into());
    map.insert("code".into(), finding.code.into());
    if let Some(slot) = finding.slot {
        map.insert("slot".into(), slot.into());
    }
    map.insert("text".into(), finding.text.as_str().into());
    Value::Object(map)
}

fn line(finding: &Finding) -> String {
    format!("{}: {} ({})", severity(finding), finding.text, finding.code)
}
