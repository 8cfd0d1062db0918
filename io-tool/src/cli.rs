//! The command line of the program itself; that of its commands is in [`args`](crate::args).
//!
//! clap's table is the only list of options. They follow the customs of the tool we replace: anywhere on the line,
//! bundled, abbreviated, repeated with the last one winning.

use crate::prompt;
use crate::session::{OpenArgs, Session};
use block::graph::Source;
use block::tool::cli::{any_value, report};
use block::tool::{Out, version};
use block::trace::{self, Asked};
use block::{Error, Result};
use clap::{CommandFactory, FromArgMatches, Parser};
use secret::objects::Added;
use secret::{OBJECT_TYPES, Registry};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Scripted reads and writes on a disk image
#[derive(Debug, Parser)]
#[command(
    infer_long_args = true,
    args_override_self = true,
    after_help = "The commands are listed by the command 'help'."
)]
pub(crate) struct Cli {
    /// Create an object such as a secret: TYPE,id=ID,… or JSON; may repeat
    #[arg(long = "object", value_name = "OBJECT")]
    objects: Vec<OsString>,
    /// FILE is an option string, not a file name, here and for the command 'open'
    #[arg(long)]
    image_opts: bool,
    /// The image as an option string, in the place of FILE
    #[arg(long, value_name = "OPTS")]
    source: Option<String>,
    /// Run a command; may repeat. Without any, commands are read from standard input
    #[arg(short = 'c', long = "cmd", value_name = "COMMAND")]
    commands: Vec<String>,
    /// The format of the image; probed unless given
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    format: Option<String>,
    /// Open the image without the right to write
    #[arg(short = 'r', long)]
    read_only: bool,
    /// Write to a throw-away overlay
    #[arg(short = 's', long)]
    snapshot: bool,
    /// The same as -t none
    #[arg(short = 'n', long, overrides_with = "cache")]
    nocache: bool,
    /// Keep in the image what is read from its backing file
    #[arg(short = 'C', long)]
    copy_on_read: bool,
    /// Take buffers that O_DIRECT does not like
    #[arg(short = 'm', long)]
    misalign: bool,
    /// The same as -i native
    #[arg(short = 'k', long, overrides_with = "aio")]
    native_aio: bool,
    /// How requests reach the kernel: threads, native or io_uring
    #[arg(short = 'i', long, value_name = "MODE", overrides_with = "native_aio")]
    aio: Option<String>,
    /// The cache mode: none, writeback, writethrough, directsync or unsafe
    #[arg(
        short = 't',
        long,
        value_name = "MODE",
        default_value = "writethrough",
        overrides_with = "nocache"
    )]
    cache: String,
    /// What happens to discards: ignore or unmap
    #[arg(short = 'd', long, value_name = "MODE", default_value = "unmap")]
    discard: String,
    /// Tell what happens to images: a pattern (help lists the events), or enable=PATTERN, events=FILE and file=FILE in a list
    #[arg(short = 'T', long = "trace", value_name = "SPEC")]
    trace: Vec<String>,
    /// Open the image even when another process holds it
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The longest that unlocking a LUKS image may take, all key slots together, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u32).range(1..))]
    max_kdf_time: u32,
    /// The most memory that unlocking a LUKS image may take, in KiB; what the machine has, at most 4 GiB, unless given
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..))]
    max_kdf_memory: Option<u64>,
    /// The image
    #[arg(value_name = "FILE")]
    file: Option<String>,
}

/// Parses the command line. Help and errors are printed here; the error is then the exit status.
pub(crate) fn parse(args: Vec<OsString>, out: &Out) -> Result<Cli, ExitCode> {
    let last = args.last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let table = any_value(Cli::command()).version(version());
    let parsed = table.try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|e| report(&e, &last, out))
}

impl Cli {
    /// Runs the program and gives its exit status.
    pub(crate) fn run(self, out: &Out) -> ExitCode {
        match self.work(out) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(e) => {
                out.error(&e);
                ExitCode::FAILURE
            }
        }
    }

    /// Whether every command did what it was asked to.
    fn work(self, out: &Out) -> Result<bool> {
        if trace::start(out, &self.trace)? == Asked::Help {
            return Ok(true);
        }
        let Some(objects) = make_objects(out, &self.objects)? else { return Ok(true) };
        let mut session = Session::new(out, &objects, self.image_opts, self.misalign);
        if let Some(open) = self.image()? {
            session.open(&open)?;
        }
        let worked = match self.commands.is_empty() {
            true => prompt::run(&mut session),
            false => self
                .commands
                .iter()
                .fold(true, |worked, line| worked & (session.has_quit() || session.run(line))),
        };
        Ok(session.finish() && worked)
    }

    /// The image to open at the start, if one is named.
    fn image(&self) -> Result<Option<OpenArgs>> {
        let mut open = OpenArgs::default();
        open.max_kdf_seconds = self.max_kdf_time;
        open.max_kdf_memory = self.max_kdf_memory.unwrap_or(0);
        open.set_cache(if self.nocache { "none" } else { &self.cache })?;
        open.set_discard(&self.discard)?;
        open.set_aio(if self.native_aio { Some("native") } else { self.aio.as_deref() })?;
        open.read_only = self.read_only;
        open.snapshot = self.snapshot;
        open.copy_on_read = self.copy_on_read;
        open.force_share = self.force_share;
        open.format = self.format.clone();
        if self.format.is_some() && self.image_opts {
            return Err(Error::invalid("--image-opts and -f are mutually exclusive"));
        }
        open.source = match (&self.source, &self.file) {
            (Some(_), Some(_)) => return Err(Error::invalid("--source and FILE are mutually exclusive")),
            (Some(_), None) if self.format.is_some() => {
                return Err(Error::invalid("--source and -f are mutually exclusive"));
            }
            (Some(text), None) => Source::Options(text.clone()),
            (None, Some(text)) if self.image_opts => Source::Options(text.clone()),
            (None, Some(name)) => Source::Name(name.clone()),
            (None, None) => return Ok(None),
        };
        Ok(Some(open))
    }
}

/// Makes the objects of the command line, in order. `None` when all that was asked is which there are.
fn make_objects(out: &Out, texts: &[OsString]) -> Result<Option<Registry>> {
    let mut registry = Registry::new([OBJECT_TYPES, block::OBJECT_TYPES]);
    if !texts.is_empty() {
        secret::forbid_core_dump()?;
    }
    for text in texts {
        if let Added::Help(help) = registry.add(text)? {
            out.print(help);
            return Ok(None);
        }
    }
    if let Some(warning) = registry.exposure().filter(|_| std::io::stderr().is_terminal()) {
        out.error_text(&format!("warning: {warning}"));
    }
    Ok(Some(registry))
}
