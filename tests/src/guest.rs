//! The guest of the boot tests: Debian's stock kernel in software emulation, with a disk of files and a job to run.
//!
//! `scripts/guest` makes kernel and initial file system. A job is a shell script (`tests/guest`) that ends in one line a
//! case; what it prints as `@@ pass NAME` and `@@ fail NAME` is what came out.

use crate::Ran;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Longer than any job takes on a slow machine.
const SECONDS: &str = "1800";

/// What the kernel is told. Periodic ticks survive an emulator that is not scheduled for a while.
const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1 nohz=off highres=off";

/// Kernel and initial file system.
#[derive(Debug, Clone)]
pub struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Guest {
    /// The guest, or why there is none on this machine.
    ///
    /// # Panics
    /// What is there cannot be made into one.
    pub fn find() -> Result<&'static Guest, String> {
        static FOUND: OnceLock<Result<Guest, String>> = OnceLock::new();
        FOUND.get_or_init(Guest::make).as_ref().map_err(Clone::clone)
    }

    /// Its kernel.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    fn make() -> Result<Guest, String> {
        if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
            return Err("qemu-system-x86_64 is not installed (scripts/peers)".into());
        }
        let ran = Ran::of(Command::new(root().join("scripts/guest")).env("BLOCKIMG_BIN", crate::bin_dir()));
        let mut paths = ran.stdout.lines().map(PathBuf::from);
        match (ran.code, paths.next(), paths.next()) {
            (Some(0), Some(kernel), Some(initrd)) => Ok(Guest { kernel, initrd }),
            (Some(3), ..) => Err(ran.stderr.trim().to_owned()),
            _ => panic!("scripts/guest: {ran}"),
        }
    }
}

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the repository")
}

/// A file of `tests/guest`.
///
/// # Panics
/// There is none of that name.
pub fn script(name: &str) -> String {
    let path = root().join("tests/guest").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One start of the guest, in a directory of its own.
#[derive(Debug)]
pub struct Machine {
    guest: Guest,
    dir: tempfile::TempDir,
}

impl Machine {
    /// A machine of this guest.
    ///
    /// # Panics
    /// No directory can be made.
    pub fn new(guest: &Guest) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let machine = Machine { guest: guest.clone(), dir };
        for folder in ["job", "disk", "back"] {
            fs::create_dir(machine.path(folder)).expect("a folder can be made");
        }
        machine
    }

    /// A path in its directory. What is in `job` is `/job` in the guest, what is in `disk` becomes its disk of files, and
    /// in `back` is what the disk holds afterwards.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `script` with the disk of files.
    ///
    /// # Panics
    /// The disk cannot be made or read.
    pub fn run(&self, script: &str, room: u64) -> Console {
        fs::write(self.path("job/run"), self::script("prelude.sh") + script).expect("files can be written");
        self.tool("truncate", &["-s", &room.to_string(), "files.raw"]);
        self.tool("mke2fs", &["-q", "-t", "ext4", "-d", "disk", "files.raw"]);
        let console = self.boot(&["-f", "raw", "files.raw"], "");
        self.tool("debugfs", &["-R", "rdump / back", "files.raw"]);
        console
    }

    /// Boots with the disk in `disk`, arguments of our runner, and more words for the kernel.
    ///
    /// # Panics
    /// The machine cannot be started, or does not end by itself.
    pub fn boot(&self, disk: &[&str], kernel_line: &str) -> Console {
        let runner = crate::bin_dir().join("kvm-runner");
        assert!(runner.exists(), "{} is missing: build it first", runner.display());
        let mut command = Command::new(runner);
        command.args(["--accel", "tcg", "--memory", "768", "--timeout", SECONDS]);
        command.arg("--kernel").arg(&self.guest.kernel).arg("--initrd").arg(self.initrd());
        command.arg("--append").arg(format!("{KERNEL_LINE} {kernel_line}"));
        let ran = Ran::of(command.args(disk).stdin(Stdio::null()).current_dir(self.dir.path()));
        assert_eq!(ran.code, Some(0), "{ran}");
        Console(ran.stdout)
    }

    /// The initial file system with the job behind it: the kernel unpacks one archive after the other.
    fn initrd(&self) -> PathBuf {
        let path = self.path("initrd");
        let line = "cp \"$0\" initrd && find job | cpio --quiet -o -H newc -R 0:0 >>initrd";
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", line]).arg(&self.guest.initrd).current_dir(self.dir.path());
        Ran::of(&mut shell).ok();
        path
    }

    /// Runs a program in its directory, which must end well, and gives what it printed.
    ///
    /// # Panics
    /// It does not.
    pub fn tool(&self, program: &str, args: &[&str]) -> String {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = format!("{}:/usr/sbin:/sbin", path.to_string_lossy());
        let mut command = Command::new(program);
        let ran = Ran::of(command.args(args).current_dir(self.dir.path()).env("PATH", path));
        assert_eq!(ran.code, Some(0), "{program} {args:?}: {ran}");
        ran.stdout
    }
}

/// What a machine printed.
#[derive(Debug)]
pub struct Console(pub String);

impl Console {
    /// What follows `@@ KEY ` on the lines that begin so.
    pub fn said<'a>(&'a self, key: &str) -> Vec<&'a str> {
        let lines = self.0.lines().filter_map(|line| line.trim_end().split_once("@@ "));
        lines.filter_map(|(_, said)| said.strip_prefix(key)?.strip_prefix(' ')).collect()
    }

    /// Checks that the job ran to its end, and each of these cases well.
    ///
    /// # Panics
    /// Not so; tells what the machine printed.
    pub fn assert_passed(&self, names: &[String]) {
        assert_eq!(self.said("fail"), [""; 0], "{}", self.0);
        assert_eq!(self.said("pass"), *names, "{}", self.0);
        assert_eq!(self.said("end"), ["0"], "{}", self.0);
    }
}
