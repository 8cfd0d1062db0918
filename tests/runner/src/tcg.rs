//! Software emulation: QEMU's `qemu-system-x86_64`, with the disks attached through our own NBD server.
//!
//! The server runs in this process, and the emulator inherits one end of a socket pair for each disk: whatever a disk is
//! made of, the emulator sees bytes only, and neither secrets nor file names of images are on its command line.

use crate::console::Console;
use crate::machine::{Kernel, Machine, Outcome};
use block::channel::Socket;
use block::nbd::server::{Export, Exports, Server, ServerOptions};
use block::{Context, Error, Image, Kind, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::ffi::OsString;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const EMULATOR: &str = "qemu-system-x86_64";

/// The most threads that serve one disk.
const THREADS: usize = 4;

/// Runs the machine to its end.
///
/// # Errors
/// It cannot be started, or a disk cannot be served or closed.
pub(crate) fn run(machine: &Machine, disks: Vec<Image>, console: Console) -> Result<Outcome> {
    let (served, ends) = Served::start(disks)?;
    let outcome = Emulator::start(machine, &ends).and_then(|emulator| {
        // The emulator has its own; when it is gone the server must see that.
        drop(ends);
        emulator.watch(machine, console)
    });
    let closed = served.finish();
    outcome.and_then(|outcome| closed.map(|()| outcome))
}

/// Disks that are being served.
#[derive(Debug)]
struct Served {
    images: Vec<Image>,
    thread: JoinHandle<Result<()>>,
    /// Ends the server when it is dropped.
    stop: PipeWriter,
}

impl Served {
    /// Serves the disks, and gives the emulator's ends of their connections.
    fn start(images: Vec<Image>) -> Result<(Self, Vec<UnixStream>)> {
        let exports = images.iter().enumerate().map(|(i, image)| {
            let export = Export::new(i.to_string(), image.clone(), 0)?;
            Ok(Arc::new(export))
        });
        let exports = Exports(exports.collect::<Result<_>>()?);
        let pairs = images.iter().map(|_| Ok(UnixStream::pair()?)).collect::<Result<Vec<_>>>()?;
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let (stopped, stop) = io::pipe()?;
        let thread = std::thread::spawn(move || {
            let mut server = Server::new(exports, Vec::new(), options(), Box::new(complain))?;
            ours.into_iter().for_each(|socket| server.admit(Socket::new(socket.into())));
            server.run(stopped.as_fd())
        });
        Ok((Served { images, thread, stop }, theirs))
    }

    /// Ends the server and closes the disks.
    fn finish(self) -> Result<()> {
        drop(self.stop);
        let served = self.thread.join().unwrap_or(Err(Error::new(Kind::Io, "the NBD server panicked")));
        let close = |image: Image| {
            let flushed = image.flush();
            flushed.and(image.close())
        };
        self.images.into_iter().map(close).fold(served, Result::and)
    }
}

fn options() -> ServerOptions {
    ServerOptions { tls: None, max_clients: None, persistent: true, handshake_limit: None, threads: THREADS }
}

/// The server's complaints. Nobody may be listening.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The emulator's process; it does not survive this.
#[derive(Debug)]
struct Emulator {
    child: Child,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Emulator {
    fn start(machine: &Machine, disks: &[UnixStream]) -> Result<Self> {
        for disk in disks {
            fcntl(disk, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let mut command = Command::new(EMULATOR);
        command.args(arguments(machine, disks)).stdout(Stdio::piped());
        let child = command.spawn().map_err(|e| {
            let hint = "It is in Debian's package qemu-system-x86";
            Error::from(e).context(format!("Could not start {EMULATOR}")).with_hint(hint)
        })?;
        Ok(Emulator { child })
    }

    /// Prints what the guest prints until the machine ends, the expected text is there or the time is over.
    fn watch(mut self, machine: &Machine, mut console: Console) -> Result<Outcome> {
        let deadline = machine.timeout.map(|limit| Instant::now() + limit);
        let output = self.output();
        loop {
            let left = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            match output.recv_timeout(left) {
                Ok(bytes) => console.print(&bytes).context(|| "Could not print what the guest prints")?,
                Err(RecvTimeoutError::Timeout) => return Ok(Outcome::Silent),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if console.has_seen() {
                return Ok(Outcome::Seen);
            }
        }
        verdict(self.child.wait()?)
    }

    /// What the guest prints, piece by piece; the end when there is no more.
    fn output(&mut self) -> Receiver<Vec<u8>> {
        let (sender, receiver) = channel();
        let stdout = self.child.stdout.take();
        std::thread::spawn(move || {
            let Some(mut stdout) = stdout else { return };
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                // Who no longer listens has seen enough.
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

/// How the emulator ended: it ends well when the guest switches the machine off or restarts it.
fn verdict(status: ExitStatus) -> Result<Outcome> {
    match status.signal() {
        Some(_) => Ok(Outcome::Crashed(format!("{EMULATOR}: {status}"))),
        None if status.success() => Ok(Outcome::Ended),
        None => Err(Error::new(Kind::Io, format!("{EMULATOR} ended with {status}"))),
    }
}

/// The command line. A serial port is the console, of the firmware too where it starts the disk.
fn arguments(machine: &Machine, disks: &[UnixStream]) -> Vec<OsString> {
    let graphics = if machine.kernel.is_some() { "on" } else { "off" };
    let fixed = format!(
        "-nodefaults -no-user-config -no-reboot -display none -monitor none -serial stdio -accel tcg -cpu max \
         -machine pc,graphics={graphics} -device virtio-rng-pci -smp {} -m {}M",
        machine.cpus,
        machine.memory >> 20
    );
    let mut words: Vec<OsString> = fixed.split(' ').map(OsString::from).collect();
    for (i, socket) in disks.iter().enumerate() {
        let fd = socket.as_raw_fd();
        let read_only = if machine.disks[i].read_only { "on" } else { "off" };
        words.push("-blockdev".into());
        words.push(
            format!(
                "driver=nbd,node-name=disk{i},server.type=fd,server.str={fd},export={i},discard=unmap,\
                 read-only={read_only}"
            )
            .into(),
        );
        words.push("-device".into());
        words.push(format!("virtio-blk-pci,drive=disk{i}").into());
    }
    if let Some(Kernel { image, initrd, append }) = &machine.kernel {
        words.extend(["-kernel".into(), image.into(), "-append".into(), append.into()]);
        words.extend(initrd.iter().flat_map(|path| ["-initrd".into(), path.into()]));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Accel, Disk};
    use block::graph::Source;

    #[test]
    fn the_emulator_is_told_of_disks_by_descriptor_only() {
        let machine = Machine {
            accel: Accel::Tcg,
            objects: vec!["secret,id=s,data=hush".into()],
            disks: vec![Disk {
                source: Source::Options("driver=luks,key-secret=s,file.filename=private".into()),
                format: None,
                read_only: true,
            }],
            kernel: Some(Kernel { image: "vmlinuz".into(), initrd: None, append: "quiet".into() }),
            cpus: 2,
            memory: 512 << 20,
            expect: None,
            timeout: None,
            screen: None,
        };
        let (socket, _) = UnixStream::pair().unwrap();
        let words = arguments(&machine, std::slice::from_ref(&socket));
        let line = words.join(std::ffi::OsStr::new(" ")).into_string().unwrap();
        assert!(line.contains(&format!("server.str={},export=0", socket.as_raw_fd())), "{line}");
        assert!(line.contains("read-only=on") && line.contains("-smp 2 -m 512M"), "{line}");
        assert!(!line.contains("hush") && !line.contains("private"), "{line}");
    }

    #[test]
    fn an_emulator_that_fails_is_not_a_guest_that_ends() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(verdict(ExitStatus::from_raw(0)).unwrap(), Outcome::Ended);
        assert!(verdict(ExitStatus::from_raw(1 << 8)).is_err());
        assert!(matches!(verdict(ExitStatus::from_raw(6)).unwrap(), Outcome::Crashed(_)));
    }
}
