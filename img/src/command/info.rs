//! `img info`.

use super::Tool;
use crate::assertion::Assertion;
use crate::cli::{Input, Objects, Report, Run, Share};
use crate::output;
use block::graph::{self, OpenFlags, Source};
use block::tool::json;
use block::{Error, Result};
use clap::Args;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::ExitCode;

/// Options of `info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    #[command(flatten)]
    report: Report,
    /// Also say what its backing files are
    #[arg(short, long)]
    backing_chain: bool,
    /// Print nothing, and fail unless the image is as this says: name=value,…, such as encrypted=luks2; may repeat
    #[arg(long = "assert", value_name = "CONDITIONS")]
    assertions: Vec<String>,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for InfoArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(self, tool: &Tool<'_>) -> Result<ExitCode> {
        let source = self.input.source(tool, self.words)?;
        // Without their backing files: a broken chain must not hide what the image itself is.
        let flags = OpenFlags {
            no_io: true,
            no_backing: true,
            force_share: self.share.force_share,
            ..self.input.flags()
        };
        let chain = collect(tool, source.clone(), self.input.format.clone(), flags, self.backing_chain)?;
        if self.input.format.is_none() && chain[0]["format"] == "raw" && is_damaged_luks(tool, &source, flags)
        {
            tool.out.error_text(&format!(
                "warning: '{0}' is a LUKS container whose primary header is damaged; its second copy is good: \
                 {1} info -f luks '{0}'",
                source.text(),
                tool.out.program()
            ));
        }
        if !self.assertions.is_empty() {
            check(&self.assertions, &chain)?;
            return Ok(ExitCode::SUCCESS);
        }
        match (self.report.is_json(), self.backing_chain) {
            (true, true) => tool.out.line(json::pretty(&Value::Array(chain))),
            (true, false) => chain.iter().for_each(|info| tool.out.line(json::pretty(info))),
            (false, _) => {
                for (i, info) in chain.iter().enumerate() {
                    tool.out.print(if i == 0 { "" } else { "\n" });
                    tool.out.print(output::human_info(info));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether what seems to be raw has the second copy of a header. It is not taken for LUKS without being told: who can write
/// to a raw image could write such a copy.
fn is_damaged_luks(tool: &Tool<'_>, source: &Source, flags: OpenFlags) -> bool {
    let image = graph::open_unnamed(tool.env(), source, Some("luks"), flags);
    image.is_ok_and(|image| image.close().is_ok())
}

/// Checks all conditions against every image.
fn check(assertions: &[String], chain: &[Value]) -> Result<()> {
    for list in assertions {
        for assertion in Assertion::parse(list)? {
            chain.iter().try_for_each(|info| assertion.check(info))?;
        }
    }
    Ok(())
}

/// What is known about the image and, with `chain`, about the images behind it.
fn collect(
    tool: &Tool<'_>,
    mut source: Source,
    mut format: Option<String>,
    flags: OpenFlags,
    chain: bool,
) -> Result<Vec<Value>> {
    let mut infos = Vec::new();
    let mut seen = BTreeSet::new();
    loop {
        if !seen.insert(source.text().to_owned()) {
            return Err(Error::invalid(format!(
                "Backing file '{}' creates an infinite loop.",
                source.text()
            )));
        }
        let image = graph::open(tool.env(), &source, format.as_deref(), flags)?;
        let info = output::node_info(image.node())?;
        image.close()?;
        let text = |key: &str| info[key].as_str().map(str::to_owned);
        let (next, next_format) = (text("full-backing-filename"), text("backing-filename-format"));
        infos.push(info);
        match next {
            Some(name) if chain => (source, format) = (Source::Name(name), next_format),
            _ => return Ok(infos),
        }
    }
}
