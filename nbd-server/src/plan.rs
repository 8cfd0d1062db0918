//! From the command line to what is to be done: every option judged, nothing opened yet.

use crate::cli::{Cli, wrong_count};
use block::channel::Address;
use block::graph::{CacheMode, OpenFlags, Perm, Source};
use block::nbd::wire::MAX_STRING;
use block::snapshot::SnapshotName;
use block::tool::Out;
use block::{Context, DetectZeroes, Error, Options, Result};
use nix::unistd::{AccessFlags, access};
use secret::options::keyval::{self, Bare};
use secret::options::size;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// The port that NBD has for itself.
const PORT: &str = "10809";

/// Every interface of this machine.
const ANY_HOST: &str = "0.0.0.0";

/// What the program is to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// List the exports of a server.
    List(ListJob),
    /// Detach this kernel device.
    Detach(PathBuf),
    /// Serve.
    Serve(Box<ServeJob>),
}

/// Whose exports to list.
#[derive(Debug)]
pub(crate) struct ListJob {
    pub(crate) address: Address,
    /// The id of the credentials, if it is to be over TLS.
    pub(crate) tls_creds: Option<String>,
    /// The name to look for in the server's certificate, where it is not the host's.
    pub(crate) tls_hostname: Option<String>,
}

/// What to serve, and how.
#[derive(Debug)]
pub(crate) struct ServeJob {
    /// The id of the credentials, if it is to be over TLS.
    pub(crate) tls_creds: Option<String>,
    /// The id of what judges clients' names.
    pub(crate) tls_authz: Option<String>,
    pub(crate) address: Option<Listen>,
    /// The kernel device to attach.
    pub(crate) device: Option<PathBuf>,
    /// The SELinux label of the socket.
    pub(crate) label: Option<String>,
    pub(crate) exports: Vec<ExportJob>,
    pub(crate) max_clients: Option<usize>,
    pub(crate) persistent: bool,
    pub(crate) handshake_limit: Option<Duration>,
    pub(crate) fork: bool,
    pub(crate) verbose: bool,
    pub(crate) pid_file: Option<PathBuf>,
}

/// Where clients come from.
#[derive(Debug)]
pub(crate) enum Listen {
    /// A socket of our own.
    At(Address),
    /// A socket the service manager made.
    Activated,
}

/// One export.
#[derive(Debug)]
pub(crate) struct ExportJob {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) source: Source,
    pub(crate) format: Option<String>,
    pub(crate) flags: OpenFlags,
    /// Writes go to an overlay that is thrown away.
    pub(crate) overlay: bool,
    pub(crate) offset: u64,
    pub(crate) allocation_depth: bool,
    /// The dirty bitmaps clients may ask for.
    pub(crate) bitmaps: Vec<String>,
    /// The snapshot inside the image to serve.
    pub(crate) snapshot: Option<SnapshotName>,
}

/// Judges the command line.
///
/// # Errors
/// The first thing wrong with it.
pub(crate) fn plan(cli: Cli, out: &Out) -> Result<Job> {
    let flags = image_flags(&cli)?;
    let max_clients = shared(&cli.shared)?;
    let handshake_limit = handshake_limit(&cli.handshake_limit)?;
    if cli.offset.is_some() {
        offset(&cli)?;
    }
    check_tls(&cli)?;
    if cli.list {
        return list(&cli);
    }
    check_activation(&cli)?;
    check_channel(&cli)?;
    if cli.disconnect {
        return disconnect(&cli, out);
    }
    let exports = exports(&cli, flags, out)?;
    // A device's connection stays inside; others get in only if asked for.
    let inside = cli.connect.is_some() && cli.socket.is_none();
    let address = if inside { None } else { Some(listen(&cli)?) };
    let background = cli.connect.is_some() && !cli.verbose;
    Ok(Job::Serve(Box::new(ServeJob {
        tls_creds: cli.tls_creds,
        tls_authz: cli.tls_authz,
        address,
        device: cli.connect.map(PathBuf::from),
        label: cli.selinux_label,
        exports,
        max_clients,
        persistent: cli.persistent,
        handshake_limit,
        fork: cli.fork || background,
        verbose: cli.verbose,
        pid_file: cli.pid_file,
    })))
}

fn image_flags(cli: &Cli) -> Result<OpenFlags> {
    if usize::from(cli.nocache) + cli.cache.len() > 1 {
        return Err(Error::invalid("-n and --cache can only be specified once"));
    }
    if cli.aio.len() > 1 {
        return Err(Error::invalid("--aio can only be specified once"));
    }
    if cli.discard.len() > 1 {
        return Err(Error::invalid("--discard can only be specified once"));
    }
    let mode = if cli.nocache > 0 { "none" } else { cli.cache.first().map_or("writeback", String::as_str) };
    let cache =
        CacheMode::parse(mode).ok_or_else(|| Error::invalid(format!("Invalid cache mode `{mode}'")))?;
    if let Some(aio) = cli.aio.first()
        && !["threads", "native", "io_uring"].contains(&aio.as_str())
    {
        return Err(Error::invalid(format!("Invalid aio mode '{aio}'")));
    }
    let discard = match cli.discard.first().map(String::as_str) {
        None | Some("ignore" | "off") => false,
        Some("unmap" | "on") => true,
        Some(other) => return Err(Error::invalid(format!("Invalid discard mode `{other}'"))),
    };
    let detect_zeroes = match cli.detect_zeroes.as_deref() {
        None | Some("off") => DetectZeroes::Off,
        Some("on") => DetectZeroes::On,
        Some("unmap") if discard => DetectZeroes::Unmap,
        Some("unmap") => {
            let text =
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap";
            return Err(Error::invalid(text));
        }
        Some(other) => {
            let text = format!("Failed to parse detect_zeroes mode: invalid parameter value: {other}");
            return Err(Error::invalid(text));
        }
    };
    let writable = !cli.read_only && cli.load_snapshot.is_none();
    Ok(OpenFlags {
        writable,
        cache,
        native_aio: cli.aio.first().is_some_and(|aio| aio == "native"),
        discard,
        detect_zeroes,
        // Clients were told how long it is.
        withheld: Perm::RESIZE,
        max_kdf_seconds: cli.max_kdf_time,
        max_kdf_memory: cli.max_kdf_memory.unwrap_or(0),
        ..OpenFlags::default()
    })
}

fn shared(text: &str) -> Result<Option<usize>> {
    let number: Option<u32> = text.parse().ok().filter(|n| *n <= i32::MAX.unsigned_abs());
    match number {
        Some(0) => Ok(None),
        Some(n) => Ok(Some(n as usize)),
        None => Err(Error::invalid(format!("Invalid shared device number '{text}'"))),
    }
}

fn handshake_limit(text: &str) -> Result<Option<Duration>> {
    let seconds: u32 =
        text.parse().map_err(|_| Error::invalid(format!("Invalid handshake limit '{text}'")))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

fn offset(cli: &Cli) -> Result<u64> {
    let Some(text) = &cli.offset else { return Ok(0) };
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    number.filter(|n| *n <= i64::MAX.unsigned_abs()).ok_or_else(|| {
        let error = Error::invalid(format!("Invalid offset '{text}'"));
        match size::parse(text) {
            Ok(bytes) => error.with_hint(format!("The offset is in bytes, without a suffix: {bytes}")),
            Err(_) => error,
        }
    })
}

/// Which TLS options go together, told in the real tool's order.
fn check_tls(cli: &Cli) -> Result<()> {
    let text = match (&cli.tls_creds, &cli.tls_hostname, &cli.tls_authz) {
        (None, Some(_), _) => "--tls-hostname is not permitted without --tls-creds",
        (None, None, Some(_)) => "--tls-authz is not permitted without --tls-creds",
        (Some(_), Some(_), _) if !cli.list => "TLS hostname is only supported with export list",
        (Some(_), _, Some(_)) if cli.list => "TLS authorization is incompatible with export list",
        _ => return Ok(()),
    };
    Err(Error::invalid(text))
}

/// What a kernel device and a labelled socket do not go together with.
fn check_channel(cli: &Cli) -> Result<()> {
    if cli.selinux_label.is_some() && cli.socket.is_none() {
        return Err(Error::invalid("--selinux-label is not permitted without --socket"));
    }
    let Some(device) = cli.connect.as_deref() else { return Ok(()) };
    if cli.tls_creds.is_some() {
        return Err(Error::invalid("TLS is not supported with a host device"));
    }
    std::fs::File::open(device).map(drop).context(|| format!("Failed to open {device}"))
}

fn disconnect(cli: &Cli, out: &Out) -> Result<Job> {
    match &cli.files[..] {
        [device] => {
            // Opening it would read from it, and wait for ever when its server hangs: a reason to detach it.
            access(device.as_str(), AccessFlags::R_OK).context(|| format!("Cannot open {device}"))?;
            Ok(Job::Detach(device.into()))
        }
        _ => Err(wrong_count(out)),
    }
}

fn list(cli: &Cli) -> Result<Job> {
    if !cli.files.is_empty() || cli.source.is_some() || !cli.exports.is_empty() {
        return Err(Error::invalid("List mode is incompatible with a file name"));
    }
    let per_export = cli.export_name.is_some()
        || cli.description.is_some()
        || cli.offset.is_some()
        || cli.allocation_depth
        || !cli.bitmaps.is_empty()
        || cli.load_snapshot.is_some()
        || cli.connect.is_some()
        || cli.format.is_some()
        || cli.nocache > 0
        || [&cli.cache, &cli.aio, &cli.discard].iter().any(|given| !given.is_empty());
    if per_export {
        return Err(Error::invalid("List mode is incompatible with per-device settings"));
    }
    if cli.fork {
        return Err(Error::invalid("List mode is incompatible with forking"));
    }
    if is_activated() {
        return Err(Error::invalid("List mode is incompatible with socket activation"));
    }
    Ok(Job::List(ListJob {
        address: address(cli)?,
        tls_creds: cli.tls_creds.clone(),
        tls_hostname: cli.tls_hostname.clone(),
    }))
}

fn listen(cli: &Cli) -> Result<Listen> {
    if is_activated() { Ok(Listen::Activated) } else { address(cli).map(Listen::At) }
}

/// Whether the service manager made the sockets.
fn is_activated() -> bool {
    std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string())
}

/// What somebody else's sockets do not go together with.
fn check_activation(cli: &Cli) -> Result<()> {
    let given = [
        (cli.port.is_some(), "TCP port number"),
        (cli.bind.is_some(), "The interface"),
        (cli.socket.is_some(), "Unix socket"),
        (cli.connect.is_some(), "NBD device"),
        (cli.selinux_label.is_some(), "SELinux label"),
    ];
    match given.into_iter().find(|(given, _)| *given && is_activated()) {
        Some((_, what)) => Err(Error::invalid(format!("{what} can't be set when using socket activation"))),
        None => Ok(()),
    }
}

/// The address to listen on, or to connect to.
fn address(cli: &Cli) -> Result<Address> {
    match &cli.socket {
        Some(path) if path.is_relative() => Err(Error::invalid("socket path must be absolute")),
        Some(path) => Ok(Address::Unix(path.clone())),
        None => {
            let (host, port) = (cli.bind.as_deref(), cli.port.as_deref());
            Ok(Address::inet(host.unwrap_or(ANY_HOST), port.unwrap_or(PORT)))
        }
    }
}

fn exports(cli: &Cli, flags: OpenFlags, out: &Out) -> Result<Vec<ExportJob>> {
    let mut list = Vec::new();
    if let Some(source) = main_source(cli, out)? {
        let name = cli.export_name.clone().unwrap_or_default();
        check_text(&name, "export name")?;
        check_text(cli.description.as_deref().unwrap_or_default(), "export description")?;
        list.push(ExportJob {
            name,
            description: cli.description.clone(),
            source,
            format: cli.format.clone(),
            flags,
            overlay: cli.snapshot,
            offset: offset(cli)?,
            allocation_depth: cli.allocation_depth,
            bitmaps: cli.bitmaps.clone(),
            snapshot: snapshot(cli, out)?,
        });
    }
    for text in &cli.exports {
        list.push(further_export(text, cli, flags)?);
    }
    for (i, export) in list.iter().enumerate() {
        if list[..i].iter().any(|e| e.name == export.name) {
            return Err(Error::invalid(format!("Two exports are named '{}'", export.name)));
        }
    }
    Ok(list)
}

fn snapshot(cli: &Cli, out: &Out) -> Result<Option<SnapshotName>> {
    let Some(text) = &cli.load_snapshot else { return Ok(None) };
    SnapshotName::parse(text).map(Some).map_err(|e| {
        out.error(&e);
        Error::invalid(format!("Failed in parsing snapshot param `{text}'"))
    })
}

fn main_source(cli: &Cli, out: &Out) -> Result<Option<Source>> {
    match (&cli.files[..], &cli.source) {
        ([], None) if !cli.exports.is_empty() => Ok(None),
        ([], Some(_)) | ([_], None) if cli.format.is_some() && (cli.image_opts || cli.source.is_some()) => {
            Err(Error::invalid("--image-opts and -f are mutually exclusive"))
        }
        ([], Some(options)) => Ok(Some(Source::Options(options.clone()))),
        ([name], None) if cli.image_opts => Ok(Some(Source::Options(name.clone()))),
        ([name], None) => Ok(Some(Source::Name(name.clone()))),
        _ => Err(wrong_count(out)),
    }
}

fn check_text(text: &str, what: &str) -> Result<()> {
    if text.len() > MAX_STRING {
        return Err(Error::invalid(format!("{what} '{text}' too long")));
    }
    Ok(())
}

/// One `--export`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FurtherExport {
    name: String,
    source: String,
    format: Option<String>,
    description: Option<String>,
    read_only: Option<bool>,
    #[serde(default)]
    image_opts: bool,
}

fn further_export(text: &str, cli: &Cli, flags: OpenFlags) -> Result<ExportJob> {
    let options = Options::from_pairs(keyval::pairs(text, Bare::First("name"))?)?;
    let export: FurtherExport = options.parse()?;
    check_text(&export.name, "export name")?;
    check_text(export.description.as_deref().unwrap_or_default(), "export description")?;
    let source = if export.image_opts { Source::Options(export.source) } else { Source::Name(export.source) };
    Ok(ExportJob {
        name: export.name,
        description: export.description,
        source,
        format: export.format,
        flags: OpenFlags { writable: flags.writable && !export.read_only.unwrap_or(false), ..flags },
        overlay: cli.snapshot,
        offset: 0,
        allocation_depth: cli.allocation_depth,
        bitmaps: Vec::new(),
        snapshot: None,
    })
}
