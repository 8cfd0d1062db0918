//! `img info`.

use super::Tool;
use crate::cli::{Format, Input, Objects};
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
    /// How to print
    #[arg(long, value_enum, default_value = "human")]
    output: Format,
    /// The image
    #[arg(value_name = "FILE", num_args = 0..)]
    words: Vec<String>,
}

/// Runs `info`.
pub(crate) fn run(tool: &Tool<'_>, args: InfoArgs) -> Result<ExitCode> {
    let source = args.input.source(args.words)?;
    let flags = OpenFlags {
        no_io: true,
        no_backing: true,
        force_share: args.input.force_share,
        ..OpenFlags::default()
    };
    let image = graph::open(tool.env(), &source, args.input.format.as_deref(), flags)?;
    let info = output::node_info(image.node())?;
    match args.output {
        Format::Human => tool.out.print(&output::human_info(&info)),
        Format::Json => tool.out.line(&json::pretty(&info)),
    }
    image.close()?;
    Ok(ExitCode::SUCCESS)
}
