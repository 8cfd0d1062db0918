//! Serving: listen, open the images, tell that we are ready, serve, and close in order.

use crate::device::Attached;
use crate::plan::{ExportJob, Listen, ServeJob};
use block::channel::{Listener, ServerTls, Socket, activated};
use block::graph::{self, Env, Source};
use block::nbd::server::{Export, Exports, MetaContext, Server, ServerOptions};
use block::tool::Out;
use block::tool::daemon::Daemon;
use block::{Context, Error, Image, Result, bitmap};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use secret::Registry;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// The most threads for one client: what keeps a disk busy at the queue depths clients use.
const THREADS: usize = 16;

/// Serves until told to end, or until the last client has left.
///
/// # Errors
/// What cannot be bound, opened, served or closed.
pub(crate) fn run(job: &ServeJob, objects: &Registry, out: &Out, daemon: Option<Daemon>) -> Result<ExitCode> {
    // Before any thread exists, so that all of them leave these signals to the descriptor.
    let interrupt = ending_signals()?;
    raise_descriptor_limit();
    let tls = job.tls_creds.as_deref().map(|id| ServerTls::find(objects, id, job.tls_authz.as_deref()));
    let tls = tls.transpose().context(|| "Failed to get TLS creds")?;
    let listeners = listeners(job)?;
    let env = Env { drivers: formats::DRIVERS, objects };
    let shared = job.max_clients != Some(1);
    let exports = job.exports.iter().map(|export| open(env, export, shared));
    let exports: Vec<Arc<Export>> = exports.collect::<Result<_>>()?;
    let images: Vec<Image> = exports.iter().map(|export| export.image.clone()).collect();
    let options = ServerOptions {
        tls,
        max_clients: job.max_clients,
        persistent: job.persistent,
        handshake_limit: job.handshake_limit,
        threads: THREADS,
    };
    let program = out.program().to_owned();
    let log = move |text: &str| {
        // Nobody may be listening.
        let _ = writeln!(std::io::stderr(), "{program}: {text}");
    };
    let mut server = Server::new(Exports(exports), listeners, options, Box::new(log))?;
    if let Some(path) = &job.pid_file {
        write_pid(path)?;
    }
    let ready = ready(daemon, job.verbose);
    let attached = match &job.device {
        Some(path) => Some(attach(path, &mut server, job, ready)?),
        None => {
            ready()?;
            None
        }
    };
    let served = server.run(interrupt.as_fd());
    let detached = attached.map_or(Ok(()), Attached::finish);
    let closed = images.into_iter().map(close).fold(Ok(()), Result::and);
    served.and(detached).and(closed).map(|()| ExitCode::SUCCESS)
}

/// Tells the parent, if there is one, that clients can connect.
fn ready(daemon: Option<Daemon>, verbose: bool) -> impl FnOnce() -> Result<()> + Send + 'static {
    move || {
        let Some(daemon) = daemon else { return Ok(()) };
        std::env::set_current_dir("/").context(|| "Could not chdir to root directory")?;
        daemon.ready(verbose)
    }
}

/// Has the server serve the kernel, over a connection of its own.
fn attach(
    path: &Path,
    server: &mut Server,
    job: &ServeJob,
    ready: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<Attached> {
    let (ours, kernels) = Socket::pair()?;
    server.admit(ours);
    let export = job.exports.first().map(|export| export.name.clone()).unwrap_or_default();
    let text = connected(path, job);
    Attached::start(path, kernels, export, move || {
        ready()?;
        // Nobody may be listening.
        let _ = std::io::stderr().write_all(text.as_bytes());
        Ok(())
    })
}

/// What is said of an attached device, to those who want to hear.
fn connected(path: &Path, job: &ServeJob) -> String {
    match job.exports.first() {
        Some(export) if job.verbose && !job.fork => {
            format!("NBD device {} is now connected to {}\n", path.display(), export.source.text())
        }
        _ => String::new(),
    }
}

fn close(image: Image) -> Result<()> {
    let flushed = image.flush();
    flushed.and(image.close())
}

/// Becomes readable when the program is told to end.
fn ending_signals() -> Result<SignalFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?)
}

/// Clients cost descriptors, and the limit for programs that use `select` is not ours.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Not being allowed to changes nothing.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn listeners(job: &ServeJob) -> Result<Vec<Listener>> {
    let label = job.label.as_deref();
    set_socket_label(label)?;
    let listeners = match &job.address {
        Some(Listen::At(address)) => Listener::bind(address),
        Some(Listen::Activated) => activated(),
        None => Ok(Vec::new()),
    };
    // Only the one socket is to have it.
    set_socket_label(label.map(|_| ""))?;
    listeners
}

/// Sets what SELinux labels the sockets of this thread with from here on; the empty label is the usual one.
fn set_socket_label(label: Option<&str>) -> Result<()> {
    let Some(label) = label else { return Ok(()) };
    let bytes = if label.is_empty() { Vec::new() } else { [label.as_bytes(), b"\0"].concat() };
    let file = OpenOptions::new().write(true).open("/proc/thread-self/attr/sockcreate");
    file.and_then(|mut file| file.write_all(&bytes)).context(|| match label {
        "" => "Cannot clear SELinux socket create context".to_owned(),
        label => format!("Cannot set SELinux socket create context to {label}"),
    })
}

fn open(env: Env<'_>, job: &ExportJob, shared: bool) -> Result<Arc<Export>> {
    let failed = || format!("Failed to blk_new_open '{}'", job.source.text());
    let image = open_image(env, job).context(failed)?;
    if let Some(name) = &job.snapshot {
        image.node().load_snapshot(name).context(|| "Failed to load snapshot")?;
    }
    let probed = job.format.is_none() && matches!(job.source, Source::Name(_));
    let guessed_raw = probed && image.node().name().driver == "raw" && !image.is_read_only();
    let mut export = Export::new(&job.name, image, job.offset)?;
    // As the tool we stand in for: what was guessed to be raw is served by whole sectors.
    export.min_block = if guessed_raw { 512 } else { 1 };
    export.description = job.description.clone();
    export.shared = shared;
    if job.allocation_depth {
        export.contexts.push(MetaContext::AllocationDepth);
    }
    for name in &job.bitmaps {
        let bitmap = bitmap::find_in_chain(export.image.node(), name)?;
        // Whether it is of any use is said at the start.
        bitmap.next_dirty(0)?;
        export.contexts.push(MetaContext::DirtyBitmap(bitmap));
    }
    Ok(Arc::new(export))
}

fn open_image(env: Env<'_>, job: &ExportJob) -> Result<Image> {
    let format = job.format.as_deref();
    if !job.overlay || !job.flags.writable {
        return graph::open_unnamed(env, &job.source, format, job.flags);
    }
    let (name, mut options) = job.source.resolve()?;
    if let Some(format) = format {
        options.set("driver", format)?;
    }
    formats::throwaway::open(env, name.as_deref(), options, job.flags)
}

fn write_pid(path: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .context(|| format!("Could not create '{}'", path.display()))?;
    writeln!(file, "{}", std::process::id()).map_err(Error::from)
}
