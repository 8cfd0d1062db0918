//! Kernel devices: the kernel is a client like others, over a connection that never leaves the process. The process serves
//! the device: when that is detached it ends, whoever else is connected.

use block::channel::{Socket, Transport};
use block::nbd::client::{Wanted, negotiate};
use block::nbd::kernel::{Device, Kernel};
use block::nbd::wire::Headers;
use block::tool::Out;
use block::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long our own server may take for one answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A device that is being attached, or is. Its thread lasts as long as the connection.
pub(crate) struct Attached {
    device: Device,
    path: PathBuf,
    /// Gives who the kernel says has attached it.
    thread: JoinHandle<Result<Option<String>>>,
}

impl Attached {
    /// Starts to attach the device over `socket`, whose other end the server serves; `then` is called when it is.
    ///
    /// # Errors
    /// The path names no device.
    pub(crate) fn start(
        path: &Path,
        socket: Socket,
        export: String,
        then: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let device = Device::at(path)?;
        let thread = std::thread::spawn(move || {
            let socket = Arc::new(socket);
            let done = attach(device, &socket, export).and_then(|()| {
                let owner = device.owner();
                then()?;
                // The kernel ends it when the device is detached, the server when it stops.
                socket.wait_ended()?;
                Ok(owner)
            });
            // The server has no reason to stay. That a process can signal itself is certain.
            let _ = kill(Pid::this(), Signal::SIGTERM);
            done
        });
        Ok(Attached { device, path: path.to_owned(), thread })
    }

    /// After the server has ended: leaves nothing attached, and tells what went wrong with it.
    ///
    /// # Errors
    /// It was never attached.
    pub(crate) fn finish(self) -> Result<()> {
        let attached = self.thread.join().unwrap_or(Ok(None));
        let owner = attached.context(|| format!("Failed to attach {}", self.path.display()))?;
        // Detaching it usually is what ended the server, and another one may have attached it since.
        if self.device.owner() == owner {
            let _ = Kernel::open().and_then(|mut kernel| kernel.detach(self.device));
        }
        Ok(())
    }
}

fn attach(device: Device, socket: &Arc<Socket>, export: String) -> Result<()> {
    socket.set_time_limit(LIMIT)?;
    let wanted = Wanted { export, context: None, headers: Headers::Simple };
    let done = negotiate(Arc::clone(socket) as _, &wanted, None).and_then(|(info, _)| {
        socket.set_time_limit(Duration::ZERO)?;
        Kernel::open()?.attach(device, socket.as_fd(), &info)
    });
    // The kernel has its own hold on it.
    done.inspect_err(|_| socket.shutdown(Shutdown::Both))
}

/// `--disconnect`.
///
/// # Errors
/// No such device, or the kernel's.
pub(crate) fn detach(path: &Path, out: &Out) -> Result<ExitCode> {
    let device = Device::at(path)?;
    Kernel::open()?.detach(device)?;
    out.line(format_args!("{} disconnected", path.display()));
    Ok(ExitCode::SUCCESS)
}
