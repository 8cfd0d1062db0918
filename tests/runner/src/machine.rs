//! What is to be run, as the command line says it, and how that can end.

use block::Image;
use block::Result;
use block::graph::{self, CacheMode, Env, OpenFlags, Source};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A machine that nobody has started yet.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Who is to run it.
    pub(crate) accel: Accel,
    /// The arguments of `--object`, as they were given.
    pub(crate) objects: Vec<OsString>,
    /// The disks, in order; the first is the one that boots.
    pub(crate) disks: Vec<Disk>,
    /// The kernel to start; without one, the first disk's boot sector.
    pub(crate) kernel: Option<Kernel>,
    /// Number of processors.
    pub(crate) cpus: u8,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// The text that says that it has booted.
    pub(crate) expect: Option<String>,
    /// How long it may take.
    pub(crate) timeout: Option<Duration>,
    /// Where a copy of what it prints goes.
    pub(crate) screen: Option<PathBuf>,
}

/// Who runs a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accel {
    /// KVM where it can run this guest, else software emulation.
    Auto,
    /// KVM.
    Kvm,
    /// QEMU's software emulation, with the disks served over NBD.
    Tcg,
}

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Its name or options.
    pub(crate) source: Source,
    /// The format of `-f`; probed, or in the options, when `None`.
    pub(crate) format: Option<String>,
    /// Whether the guest may only read it.
    pub(crate) read_only: bool,
}

impl Disk {
    /// Opens it.
    ///
    /// # Errors
    /// `Could not open …`.
    pub(crate) fn open(&self, objects: &secret::Registry) -> Result<Image> {
        let flags = OpenFlags {
            writable: !self.read_only,
            discard: true,
            cache: CacheMode::default(),
            ..OpenFlags::default()
        };
        let env = Env { drivers: formats::DRIVERS, objects };
        graph::open(env, &self.source, self.format.as_deref(), flags)
    }
}

#[cfg(test)]
impl Disk {
    /// An open disk `disk` of `len` bytes in `dir`; every byte is the number of its sector.
    pub(crate) fn numbered(dir: &std::path::Path, len: usize, read_only: bool) -> Image {
        let path = dir.join("disk");
        std::fs::write(&path, (0..len).map(|at| (at / 512) as u8).collect::<Vec<_>>()).unwrap();
        let source = Source::Name(path.to_str().unwrap().to_owned());
        let disk = Disk { source, format: Some("raw".into()), read_only };
        disk.open(&secret::Registry::new([])).unwrap()
    }
}

/// A Linux kernel and what it is started with.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The kernel: a bzImage or an ELF file.
    pub(crate) image: PathBuf,
    /// The initial RAM disk.
    pub(crate) initrd: Option<PathBuf>,
    /// The command line.
    pub(crate) append: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The expected text was seen.
    Seen,
    /// The guest stopped or restarted the machine.
    Ended,
    /// The guest, or what it did to a device, made going on impossible.
    Crashed(String),
    /// The time was over.
    Silent,
}

impl Outcome {
    /// The exit status, and a sentence where something went wrong. `expected`: whether a text was waited for.
    pub(crate) fn verdict(&self, expected: bool) -> (ExitCode, Option<String>) {
        let (status, text) = match self {
            Outcome::Seen => (0, None),
            Outcome::Ended if !expected => (0, None),
            Outcome::Ended => (CRASHED, Some("the guest ended without the expected text".to_owned())),
            Outcome::Crashed(why) => (CRASHED, Some(format!("the guest crashed: {why}"))),
            Outcome::Silent if expected => {
                (SILENT, Some("the expected text did not come in time".to_owned()))
            }
            Outcome::Silent => (SILENT, Some("the guest did not end in time".to_owned())),
        };
        (ExitCode::from(status), text)
    }
}

/// Exit status of a guest that ended or crashed before it printed what was expected.
const CRASHED: u8 = 2;
/// Exit status of a guest that ran out of time.
const SILENT: u8 = 3;
