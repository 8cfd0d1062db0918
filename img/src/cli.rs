//! The command line: which commands there are, and the groups of options they share.
//!
//! clap's table is the only list of options; parsing, help and completions come from it. Options follow the customs of
//! the tools we replace: anywhere on the line, bundled, abbreviated, repeated with the last one winning, any word taken
//! as a value. What clap finds wrong is said here in the words of those tools.

use crate::command::{self, Tool};
use block::graph::{CacheMode, OpenFlags, Source};
use block::tool::cli::any_value;
use block::tool::{Out, version};
use block::trace::{self, Asked};
use block::{Error, Result};
use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use secret::options::size::{self, SizeError};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// Create, convert, inspect, check and rescue disk images.
#[derive(Debug, Parser)]
#[command(infer_long_args = true, args_override_self = true, disable_help_subcommand = true)]
struct Cli {
    /// Tell what happens to images: a pattern (help lists the events), or enable=PATTERN, events=FILE and file=FILE in a list
    #[arg(short = 'T', long = "trace", value_name = "SPEC")]
    trace: Vec<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Change options of an image in place
    Amend(command::amend::AmendArgs),
    /// Make, remove, clear, enable, disable and merge dirty bitmaps
    Bitmap(command::bitmap::BitmapArgs),
    /// Measure how fast requests are served
    Bench(command::bench::BenchArgs),
    /// Look for contradictions in an image, and mend them
    Check(command::check::CheckArgs),
    /// Write what an image holds into its backing file
    Commit(command::commit::CommitArgs),
    /// Say whether two images have the same contents
    Compare(command::compare::CompareArgs),
    /// Copy images into a new or existing one, changing format and encryption
    Convert(command::convert::ConvertArgs),
    /// Create an image
    Create(command::create::CreateArgs),
    /// Copy a part of an image into a new one
    Dd(command::dd::DdArgs),
    /// Say what an image is
    Info(command::info::InfoArgs),
    /// Look after the passphrases of an encrypted image
    Key(command::key::KeyArgs),
    /// List the extents of an image
    Map(command::map::MapArgs),
    /// Say how much space an image would take
    Measure(command::measure::MeasureArgs),
    /// Put an image on another backing file
    Rebase(command::rebase::RebaseArgs),
    /// Move images with the legacy AES encryption to LUKS, or out of encryption
    Rescue(command::rescue::RescueArgs),
    /// Change the size of an image
    Resize(command::resize::ResizeArgs),
    /// List, take, apply and delete snapshots inside an image
    Snapshot(command::snapshot::SnapshotArgs),
    /// Make certificates for a server and a client
    TlsInit(command::tls_init::TlsInitArgs),
}

impl Command {
    /// Runs the command and gives the program's exit status.
    pub(crate) fn run(self, out: &Arc<Out>) -> ExitCode {
        match self {
            Command::Amend(args) => start(out, args),
            Command::Bitmap(args) => start(out, args),
            Command::Bench(args) => start(out, args),
            Command::Check(args) => start(out, args),
            Command::Commit(args) => start(out, args),
            Command::Compare(args) => start(out, args),
            Command::Convert(args) => start(out, args),
            Command::Create(args) => start(out, args),
            Command::Dd(args) => start(out, args),
            Command::Info(args) => start(out, args),
            Command::Key(args) => start(out, args),
            Command::Map(args) => start(out, args),
            Command::Measure(args) => start(out, args),
            Command::Rebase(args) => start(out, args),
            Command::Rescue(args) => start(out, args),
            Command::Resize(args) => start(out, args),
            Command::Snapshot(args) => start(out, args),
            Command::TlsInit(args) => start(out, args),
        }
    }
}

/// The arguments of a command, ready to be run.
pub(crate) trait Run {
    /// The objects to make before anything else.
    fn objects(&self) -> &Objects;

    /// The exit status after an error.
    fn failure(&self) -> ExitCode {
        ExitCode::FAILURE
    }

    /// Does it. An error is printed and makes the exit status [`Run::failure`]; a command with more statuses than that
    /// prints for itself.
    ///
    /// # Errors
    /// What the command failed at.
    fn run(self, tool: &Tool<'_>) -> Result<ExitCode>;
}

fn start(out: &Arc<Out>, args: impl Run) -> ExitCode {
    let failure = args.failure();
    let done = match Tool::start(out, args.objects()) {
        Ok(Some(tool)) => args.run(&tool),
        Ok(None) => Ok(ExitCode::SUCCESS),
        Err(e) => Err(e),
    };
    done.unwrap_or_else(|e| {
        out.error(&e);
        failure
    })
}

/// Parses the command line. Help and errors are printed here; the error is then the exit status.
pub(crate) fn parse(args: Vec<OsString>, out: &Out) -> Result<Command, ExitCode> {
    let last = args.last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let formats: Vec<_> = formats::DRIVERS.sorted().iter().map(|row| row.name).collect();
    let table = any_value(Cli::command())
        .version(version())
        .after_help(format!("Supported formats: {}", formats.join(" ")));
    let parsed =
        table.try_get_matches_from(protect_size(args)).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|e| report(&e, &last, out)).and_then(|cli| cli.begin(out))
}

impl Cli {
    /// What to do once tracing has begun. The error is the exit status.
    fn begin(self, out: &Out) -> Result<Command, ExitCode> {
        let asked = trace::start(out, &self.trace).and_then(|asked| match (asked, self.command) {
            (Asked::Help, _) => Ok(None),
            (Asked::Trace, Some(command)) => Ok(Some(command)),
            (Asked::Trace, None) => Err(usage_error(out, "Not enough arguments")),
        });
        let command = asked.map_err(|e| {
            out.error(&e);
            ExitCode::FAILURE
        });
        command?.ok_or(ExitCode::SUCCESS)
    }
}

/// Keeps the size that ends a `resize` from being taken for options: `-256K` makes the image smaller.
fn protect_size(mut args: Vec<OsString>) -> Vec<OsString> {
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    let mut words = args.iter().skip(1).map(text);
    let resizes = words.find(|word| !word.starts_with('-')).is_some_and(|word| word == "resize");
    let last = args.last().map(text).unwrap_or_default();
    let negative = last.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if resizes && negative && !args.iter().any(|word| word == "--") {
        args.insert(args.len() - 1, "--".into());
    }
    args
}

fn report(e: &clap::Error, last: &str, out: &Out) -> ExitCode {
    match e.kind() {
        ErrorKind::DisplayHelp => out.print(e.to_string()),
        ErrorKind::DisplayVersion => out.line(format_args!("{} version {}", out.program(), version())),
        _ => {
            out.error(&complaint(e, last, out));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What is wrong with the command line; `last` is its last word, as that is where a value is missing.
fn complaint(e: &clap::Error, last: &str, out: &Out) -> Error {
    let context = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let option = context(ContextKind::InvalidArg);
    let name = option.split([' ', '=']).next().unwrap_or_default();
    let text = match e.kind() {
        ErrorKind::InvalidSubcommand => {
            format!("Command not found: {}", context(ContextKind::InvalidSubcommand))
        }
        ErrorKind::InvalidValue if name == "--output" && !context(ContextKind::InvalidValue).is_empty() => {
            return bad_output();
        }
        _ => block::tool::cli::complaint(e, last),
    };
    usage_error(out, text)
}

fn bad_output() -> Error {
    Error::invalid("--output must be used with human or json as argument.")
}

/// A complaint about the command line, with where to read on.
pub(crate) fn usage_error(out: &Out, text: impl Into<String>) -> Error {
    Error::invalid(text).with_hint(format!("Try '{} --help' for more information", out.program()))
}

/// `--object`.
#[derive(Debug, Args)]
pub(crate) struct Objects {
    /// Create an object such as a secret: TYPE,id=ID,… or JSON; may repeat
    #[arg(long = "object", value_name = "OBJECT")]
    pub(crate) objects: Vec<OsString>,
}

/// How source images are named.
#[derive(Debug, Args)]
pub(crate) struct Input {
    /// The positional name is an option string, not a file name
    #[arg(long, alias = "source-image-opts")]
    pub(crate) image_opts: bool,
    /// A source image as an option string, in the place of a file name; may repeat
    #[arg(long = "source", value_name = "OPTS")]
    pub(crate) sources: Vec<String>,
    /// The format of the source image; probed unless given
    #[arg(short = 'f', long = "format", aliases = ["source-format", "a-format"], value_name = "FMT")]
    pub(crate) format: Option<String>,
    /// The longest that unlocking a LUKS image may take, all key slots together, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u32).range(1..))]
    max_kdf_time: u32,
    /// The most memory that unlocking a LUKS image may take, in KiB; what the machine has, at most 4 GiB, unless given
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..))]
    max_kdf_memory: Option<u64>,
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
    pub(crate) fn source(&self, tool: &Tool<'_>, names: Vec<String>) -> Result<Source> {
        let sources = self.sources(names)?;
        let one: Result<[Source; 1], _> = sources.try_into();
        let [source] = one.map_err(|_| tool.usage_error("Expecting one image file name"))?;
        Ok(source)
    }

    /// Open flags with what these options say; everything else is off.
    pub(crate) fn flags(&self) -> OpenFlags {
        OpenFlags {
            max_kdf_seconds: self.max_kdf_time,
            max_kdf_memory: self.max_kdf_memory.unwrap_or(0),
            ..OpenFlags::default()
        }
    }
}

/// `-U`.
#[derive(Debug, Args)]
pub(crate) struct Share {
    /// Open the image even when another process holds it
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
}

/// `--output`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// How to print
    #[arg(long, value_name = "human|json", default_value = "human", value_parser = PossibleValuesParser::new(["human", "json"]))]
    output: String,
}

impl Report {
    /// Whether the report is for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.output == "json"
    }
}

/// The cache mode of the given name; `what` stands before "cache option" in the message.
///
/// # Errors
/// An unknown mode.
pub(crate) fn cache_mode(name: &str, what: &str) -> Result<CacheMode> {
    CacheMode::parse(name).ok_or_else(|| Error::invalid(format!("Invalid {what}cache option: {name}")))
}

/// Parses a size given on the command line; `what` says which.
///
/// # Errors
/// Text that is no size, or one that does not fit a file offset.
pub(crate) fn parse_size(out: &Out, text: &str, what: &str) -> Result<u64> {
    const MAX: u64 = i64::MAX as u64;
    match size::parse(text) {
        Ok(bytes) if bytes <= MAX => Ok(bytes),
        Ok(_) | Err(SizeError::Range) => {
            Err(Error::invalid(format!("Invalid {what} specified. Must be between 0 and {MAX}.")))
        }
        Err(SizeError::Malformed) => {
            // One sentence on two lines, each with the program's name in front.
            out.error_text(&format!(
                "Invalid {what} specified. You may use k, M, G, T, P or E suffixes for "
            ));
            Err(Error::invalid("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_begins_with_a_minus_is_no_option() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (line, protected) in [
            ("img resize a -256K", "img resize a -- -256K"),
            ("img resize a -- -256K", "img resize a -- -256K"),
            ("img resize a -q", "img resize a -q"),
            ("img create a -1k", "img create a -1k"),
        ] {
            assert_eq!(protect_size(words(line)), words(protected));
        }
    }

    #[test]
    fn the_table_of_options_is_consistent() {
        any_value(Cli::command()).debug_assert();
    }
}
