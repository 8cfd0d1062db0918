//! The command line as it is typed: the table of options. What they mean together is judged in [`crate::plan`].
//!
//! Options follow the customs of the tool we replace: anywhere on the line, bundled, abbreviated, repeated with the last
//! one winning, any word taken as a value.

use block::Error;
use block::tool::cli::{any_value, complaint};
use block::tool::{Out, version};
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Serve disk images over NBD
#[derive(Debug, Parser)]
#[command(infer_long_args = true, args_override_self = true)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub(crate) struct Cli {
    /// The image to serve
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<String>,

    /// Port to listen on, or to connect to; 10809 unless given
    #[arg(short, long, help_heading = "Connection")]
    pub(crate) port: Option<String>,
    /// Address to listen on, or to connect to; 0.0.0.0 unless given
    #[arg(short, long, value_name = "IFACE", help_heading = "Connection")]
    pub(crate) bind: Option<String>,
    /// Path of the Unix socket to listen on, or to connect to
    #[arg(short = 'k', long, value_name = "PATH", help_heading = "Connection")]
    pub(crate) socket: Option<PathBuf>,
    /// How many clients may use the image at the same time; 0 for any number
    #[arg(short = 'e', long, value_name = "NUM", help_heading = "Connection", default_value = "1")]
    pub(crate) shared: String,
    /// Stay when the last client has left
    #[arg(short = 't', long, help_heading = "Connection")]
    pub(crate) persistent: bool,
    /// Keep telling what goes wrong when in the background
    #[arg(short, long, help_heading = "Connection")]
    pub(crate) verbose: bool,
    /// Name of the export
    #[arg(short = 'x', long, value_name = "NAME", help_heading = "Connection")]
    pub(crate) export_name: Option<String>,
    /// Description of the export, for people
    #[arg(short = 'D', long, value_name = "TEXT", help_heading = "Connection")]
    pub(crate) description: Option<String>,
    /// Seconds a client may take to negotiate; 0 for any time
    #[arg(long, value_name = "N", help_heading = "Connection", default_value = "10")]
    pub(crate) handshake_limit: String,

    /// Serve the image from this byte offset on
    #[arg(short, long, help_heading = "What to serve")]
    pub(crate) offset: Option<String>,
    /// Let clients ask for the allocation depth
    #[arg(short = 'A', long, help_heading = "What to serve")]
    pub(crate) allocation_depth: bool,
    /// Let clients ask for this dirty bitmap; may repeat
    #[arg(short = 'B', long = "bitmap", value_name = "NAME", help_heading = "What to serve")]
    pub(crate) bitmaps: Vec<String>,
    /// One more export: name=NAME,source=FILE, and as wanted format=FMT, description=TEXT, read-only=on|off; may repeat
    #[arg(long = "export", value_name = "OPTS", help_heading = "What to serve")]
    pub(crate) exports: Vec<String>,

    /// List the exports of another server
    #[arg(short = 'L', long, help_heading = "General")]
    pub(crate) list: bool,
    /// Create an object such as a secret: TYPE,id=ID,… or JSON; may repeat
    #[arg(long = "object", value_name = "OBJECT", help_heading = "General")]
    pub(crate) objects: Vec<OsString>,
    /// Credentials for TLS
    #[arg(long, value_name = "ID", help_heading = "General")]
    pub(crate) tls_creds: Option<String>,
    /// Who may connect over TLS
    #[arg(long, value_name = "ID", help_heading = "General")]
    pub(crate) tls_authz: Option<String>,
    /// The host name to look for in the server's certificate (with --list)
    #[arg(long, value_name = "HOSTNAME", help_heading = "General")]
    pub(crate) tls_hostname: Option<String>,
    /// Tell what happens to images: a pattern (help lists the events), or enable=PATTERN, events=FILE and file=FILE in a list
    #[arg(short = 'T', long = "trace", value_name = "SPEC", help_heading = "General")]
    pub(crate) trace: Vec<String>,
    /// Go to the background once clients can connect
    #[arg(long, help_heading = "General")]
    pub(crate) fork: bool,
    /// Write the process id to this file
    #[arg(long, value_name = "PATH", help_heading = "General")]
    pub(crate) pid_file: Option<PathBuf>,
    /// SELinux label of the listening socket
    #[arg(long, value_name = "LABEL", help_heading = "General")]
    pub(crate) selinux_label: Option<String>,

    /// Attach the image to this kernel device
    #[arg(short, long, value_name = "DEV", help_heading = "Kernel")]
    pub(crate) connect: Option<String>,
    /// Detach a kernel device
    #[arg(short, long, help_heading = "Kernel")]
    pub(crate) disconnect: bool,

    /// Format of the image; probed unless given
    #[arg(short, long, value_name = "FMT", help_heading = "Image")]
    pub(crate) format: Option<String>,
    /// Serve it read-only
    #[arg(short, long, help_heading = "Image")]
    pub(crate) read_only: bool,
    /// Keep writes in a temporary overlay
    #[arg(short, long, help_heading = "Image")]
    pub(crate) snapshot: bool,
    /// Serve this internal snapshot, read-only
    #[arg(short, long, value_name = "SNAPSHOT", help_heading = "Image")]
    pub(crate) load_snapshot: Option<String>,
    /// Bypass the host's page cache
    #[arg(short, long, action = ArgAction::Count, help_heading = "Image")]
    pub(crate) nocache: u8,
    /// Cache mode: none, writeback (default), writethrough, directsync, unsafe
    #[arg(long, value_name = "MODE", action = ArgAction::Append, help_heading = "Image")]
    pub(crate) cache: Vec<String>,
    /// How requests reach the kernel: threads, native, io_uring
    #[arg(long, value_name = "MODE", action = ArgAction::Append, help_heading = "Image")]
    pub(crate) aio: Vec<String>,
    /// What to do with discards: ignore, unmap
    #[arg(long, value_name = "MODE", action = ArgAction::Append, help_heading = "Image")]
    pub(crate) discard: Vec<String>,
    /// What to do with zeroes that are written: off, on, unmap
    #[arg(long, value_name = "MODE", help_heading = "Image")]
    pub(crate) detect_zeroes: Option<String>,
    /// FILE is an option string, not a file name
    #[arg(long, help_heading = "Image")]
    pub(crate) image_opts: bool,
    /// The image as an option string, in the place of FILE
    #[arg(long, value_name = "OPTS", help_heading = "Image")]
    pub(crate) source: Option<String>,
    /// The longest that unlocking a LUKS image may take, all key slots together, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Image")]
    pub(crate) max_kdf_time: u32,
    /// The most memory that unlocking a LUKS image may take, in KiB; what the machine has, at most 4 GiB, unless given
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Image")]
    pub(crate) max_kdf_memory: Option<u64>,
}

/// Parses the command line. Help and errors are printed here; the error is then the exit status.
pub(crate) fn parse(args: Vec<OsString>, out: &Out) -> Result<Cli, ExitCode> {
    let last = args.last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let table = any_value(Cli::command()).version(version());
    let parsed = table.try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|e| report(&e, &last, out))
}

fn report(e: &clap::Error, last: &str, out: &Out) -> ExitCode {
    match e.kind() {
        ErrorKind::DisplayHelp => out.print(e),
        ErrorKind::DisplayVersion => out.line(format_args!("{} {}", out.program(), version())),
        _ => {
            out.error_text(&complaint(e, last));
            out.error_text(&format!("Try `{} --help' for more information.", out.program()));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The command line does not name what to do it with.
pub(crate) fn wrong_count(out: &Out) -> Error {
    Error::invalid("Invalid number of arguments")
        .with_hint(format!("Try `{} --help' for more information.", out.program()))
}
