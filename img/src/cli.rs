//! The command line: which commands there are, and the groups of options they share.
//!
//! clap's table is the only list of options; parsing, help and completions come from it. Options follow the customs of
//! the tools we replace: anywhere on the line, abbreviated, repeated with the last one winning.

use crate::command::{self, Tool};
use block::graph::{CacheMode, OpenFlags, Source};
use block::tool::Out;
use block::{Error, Result};
use clap::error::{ContextKind, ErrorKind};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Create, convert, inspect, check and rescue disk images.
#[derive(Debug, Parser)]
#[command(version, infer_long_args = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub(crate) enum Command {
    /// Create an image.
    Create(command::create::CreateArgs),
    /// Copy images into a new or existing one, changing format and encryption.
    Convert(command::convert::ConvertArgs),
    /// Say what an image is.
    Info(command::info::InfoArgs),
    /// List the extents of an image.
    Map(command::map::MapArgs),
}

impl Command {
    /// Runs the command and gives the program's exit status.
    pub(crate) fn run(self, out: &Out) -> ExitCode {
        let done = match self {
            Command::Create(args) => {
                Tool::start(out, &args.objects).and_then(|tool| command::create::run(&tool, args))
            }
            Command::Convert(args) => {
                Tool::start(out, &args.objects).and_then(|tool| command::convert::run(&tool, args))
            }
            Command::Info(args) => {
                Tool::start(out, &args.objects).and_then(|tool| command::info::run(&tool, args))
            }
            Command::Map(args) => {
                Tool::start(out, &args.objects).and_then(|tool| command::map::run(&tool, args))
            }
        };
        done.unwrap_or_else(|e| {
            out.error(&e);
            ExitCode::FAILURE
        })
    }
}

/// Parses the command line. Help and errors are printed here; the error is then the exit status.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>, out: &Out) -> Result<Command, ExitCode> {
    Cli::try_parse_from(args).map(|cli| cli.command).map_err(|e| report(&e, out))
}

fn report(e: &clap::Error, out: &Out) -> ExitCode {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            out.print(&e.to_string());
            ExitCode::SUCCESS
        }
        ErrorKind::InvalidSubcommand => {
            let name = e.get(ContextKind::InvalidSubcommand).map(ToString::to_string).unwrap_or_default();
            out.error_text(&format!("Command not found: {name}"));
            ExitCode::FAILURE
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            out.error_text("Not enough arguments");
            ExitCode::FAILURE
        }
        _ => {
            let text = e.to_string();
            out.error_text(text.lines().next().unwrap_or_default().trim_start_matches("error: "));
            ExitCode::FAILURE
        }
    }
}

/// `--object`.
#[derive(Debug, Args)]
pub(crate) struct Objects {
    /// Create an object such as a secret: TYPE,id=ID,… or JSON
    #[arg(long = "object", value_name = "OBJECT", allow_hyphen_values = true)]
    pub(crate) objects: Vec<String>,
}

/// How source images are named.
#[derive(Debug, Args)]
pub(crate) struct Input {
    /// The positional name is an option string, not a file name
    #[arg(long)]
    pub(crate) image_opts: bool,
    /// A source image as an option string, in the place of a file name; may repeat
    #[arg(long = "source", value_name = "OPTS")]
    pub(crate) sources: Vec<String>,
    /// The format of the source image; probed unless given
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    pub(crate) format: Option<String>,
    /// Open it even when another process holds it
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
}

impl Input {
    /// The source images named by options and positional words together, in order.
    ///
    /// # Errors
    /// Options that exclude each other.
    pub(crate) fn sources(&self, names: Vec<String>) -> Result<Vec<Source>> {
        if self.format.is_some() && self.image_opts {
            return Err(Error::invalid("--image-opts and --format are mutually exclusive"));
        }
        if self.format.is_some() && !self.sources.is_empty() {
            return Err(Error::invalid("--source and --format are mutually exclusive")
                .with_hint("Name the driver among the options: --source driver=FMT,…"));
        }
        let positional = |name| if self.image_opts { Source::Options(name) } else { Source::Name(name) };
        Ok(self
            .sources
            .iter()
            .cloned()
            .map(Source::Options)
            .chain(names.into_iter().map(positional))
            .collect())
    }

    /// The one source image of a command that takes exactly one.
    ///
    /// # Errors
    /// None or several.
    pub(crate) fn source(&self, names: Vec<String>) -> Result<Source> {
        let sources: [Source; 1] =
            self.sources(names)?.try_into().map_err(|_| Error::invalid("Expecting one image file name"))?;
        let [source] = sources;
        Ok(source)
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Human,
    /// For programs.
    Json,
}

/// Open flags with the cache mode of the given name.
///
/// # Errors
/// An unknown mode.
pub(crate) fn cache_flags(name: &str, what: &str) -> Result<OpenFlags> {
    let cache = CacheMode::parse(name)
        .ok_or_else(|| Error::invalid(format!("Invalid {what} cache option: {name}")))?;
    Ok(OpenFlags { cache, ..OpenFlags::default() })
}
