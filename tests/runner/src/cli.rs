//! The command line, which becomes a [`Machine`].

use crate::machine::{Accel, Disk, Kernel, Machine};
use block::graph::Source;
use block::tool::cli::{any_value, report};
use block::tool::{Out, version};
use block::{Error, Result};
use clap::{CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Boot a disk image in a small virtual machine
///
/// With --kernel, Linux is started directly; its disks are virtio-blk devices and its console the first serial port.
/// Without, the first sector of the first disk is started in real mode, as by a PC's firmware.
#[derive(Debug, Parser)]
#[command(
    infer_long_args = true,
    args_override_self = true,
    after_help = "Exit status: 0 when the expected text was printed or, without --expect, the guest ended the machine; \
                  1 when the machine could not be started; 2 when the guest crashed, or ended without the expected text; \
                  3 when the time was over first."
)]
pub(crate) struct Cli {
    /// Create an object such as a secret: TYPE,id=ID,… or JSON; may repeat
    #[arg(long = "object", value_name = "OBJECT")]
    objects: Vec<OsString>,
    /// Every IMAGE is an option string, not a file name
    #[arg(long, conflicts_with = "format")]
    image_opts: bool,
    /// A disk as an option string; may repeat, and comes before every IMAGE
    #[arg(long, value_name = "OPTS")]
    source: Vec<String>,
    /// The format of every IMAGE; probed unless given
    #[arg(short = 'f', long, value_name = "FMT")]
    format: Option<String>,
    /// The guest may not write to its disks
    #[arg(short = 'r', long)]
    read_only: bool,
    /// Who runs the machine: the processor by KVM, or QEMU's software emulation
    #[arg(long, value_name = "NAME", default_value = "auto")]
    accel: Accel,
    /// Number of processors
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=4))]
    cpus: u8,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value = "256", value_parser = clap::value_parser!(u32).range(1..=3072))]
    memory: u32,
    /// A Linux kernel (bzImage or ELF) to start in the place of the boot sector
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk of the kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The command line of the kernel
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0 reboot=k panic=1")]
    append: String,
    /// The text on the console that says that the guest has booted
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    expect: Option<String>,
    /// How many seconds the guest may take
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
    /// A file that gets a copy of what the guest prints
    #[arg(long, value_name = "FILE")]
    screen: Option<PathBuf>,
    /// The disks
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

/// Parses the command line. Help and errors are printed here; the error is then the exit status.
pub(crate) fn parse(args: Vec<OsString>, out: &Out) -> Result<Machine, ExitCode> {
    let last = args.last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let table = any_value(Cli::command()).version(version());
    let parsed = table.try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let machine = parsed.map_err(|e| report(&e, &last, out))?.machine();
    machine.map_err(|e| {
        out.error(&e);
        ExitCode::FAILURE
    })
}

impl Cli {
    fn machine(self) -> Result<Machine> {
        if self.kernel.is_none() && self.source.is_empty() && self.images.is_empty() {
            return Err(
                Error::invalid("nothing to boot").with_hint("Name a disk image, or a kernel with --kernel")
            );
        }
        let Cli { image_opts, format, read_only, .. } = self;
        let named = self.images.into_iter().map(|text| {
            let source = if image_opts { Source::Options(text) } else { Source::Name(text) };
            Disk { source, format: format.clone(), read_only }
        });
        let sources = self.source.into_iter().map(|text| Disk {
            source: Source::Options(text),
            format: None,
            read_only,
        });
        let (initrd, append) = (self.initrd, self.append);
        Ok(Machine {
            accel: self.accel,
            objects: self.objects,
            disks: sources.chain(named).collect(),
            kernel: self.kernel.map(|image| Kernel { image, initrd, append }),
            cpus: self.cpus,
            memory: u64::from(self.memory) << 20,
            expect: self.expect,
            timeout: self.timeout.map(|seconds| Duration::from_secs(seconds.into())),
            screen: self.screen,
        })
    }
}
