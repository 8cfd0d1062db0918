//! `img info`.

use super::Tool;
use crate::cli::{Input, Objects, Report, Run, Share};
use crate::output;
use block::graph::{self, OpenFlags};
use block::{Result, tool::json};
use clap::Args;
use std::process::ExitCode;

/// Options of `info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) objects: Objects,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    share: Share,
    #[command(flatten)]
    report: Report,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

impl Run for InfoArgs {
    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn run(self, tool: &Tool<'_>) -> Result<ExitCode> {
        info(tool, self)
    }
}

fn info(tool: &Tool<'_>, args: InfoArgs) -> Result<ExitCode> {
    let source = args.input.source(tool, args.words)?;
    let flags = OpenFlags {
        no_io: true,
        no_backing: true,
        force_share: args.share.force_share,
        ..args.input.flags()
    };
    let image = graph::open(tool.env(), &source, args.input.format.as_deref(), flags)?;
    let info = output::node_info(image.node())?;
    match args.report.is_json() {
        false => tool.out.print(&output::human_info(&info)),
        true => tool.out.line(&json::pretty(&info)),
    }
    image.close()?;
    Ok(ExitCode::SUCCESS)
}
