//! Tests of LUKS: a directory to work in with the payload, its passphrase, and runs of our programs and the real ones.

use crate::{Ran, Whose, words};
use std::path::PathBuf;

/// Bytes of the payload: an odd number of sectors.
pub const BYTES: usize = 137 * 512;

/// The directory.
#[derive(Debug)]
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// A directory with the payload `src.raw` and the passphrase file `pw`.
    pub fn new() -> Self {
        Self::with_payload(BYTES)
    }

    /// The same with a payload of another size.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn with_payload(bytes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let bench = Bench { dir };
        bench.write("src.raw", &payload(bytes));
        bench.write("pw", b"passphrase");
        bench
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("files can be written");
    }

    /// What is in a file.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("files can be read")
    }

    /// Bytes of a file.
    ///
    /// # Panics
    /// There is none.
    pub fn len(&self, name: &str) -> u64 {
        self.path(name).metadata().expect("the file exists").len()
    }

    /// Makes `name` `len` bytes long.
    ///
    /// # Panics
    /// It cannot be made so.
    pub fn truncate(&self, name: &str, len: u64) {
        let mut open = std::fs::OpenOptions::new();
        let file = open.write(true).create(true).truncate(false).open(self.path(name));
        file.and_then(|file| file.set_len(len)).expect("files can be made longer");
    }

    /// Runs a program under its real name; `SECRET` stands for the passphrase file as the object `s`.
    pub fn run(&self, whose: Whose, line: &str) -> Ran {
        whose.run(self.dir.path(), &line.replace("SECRET", "--object secret,id=s,file=pw"))
    }

    /// Runs a program that must end well, and gives what it printed.
    ///
    /// # Panics
    /// It does not.
    pub fn ok(&self, whose: Whose, line: &str) -> String {
        let ran = self.run(whose, line);
        assert_eq!(ran.code, Some(0), "{whose:?} {line}: {ran}");
        ran.stdout
    }

    /// Runs cryptsetup, which is real and not on every PATH.
    pub fn cryptsetup(&self, line: &str) -> Ran {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = format!("{}:/usr/sbin:/sbin", path.to_string_lossy());
        let mut command = Whose::Real.command("cryptsetup");
        Ran::of(command.args(words(line)).current_dir(self.dir.path()).env("PATH", path))
    }

    /// Makes an image of the payload's size with our program, and fills it.
    pub fn create_ours(&self, name: &str, options: &str) {
        self.create(Whose::Ours, name, &format!("iter-time=1,{options}"));
    }

    /// Makes an image of the payload's size, and fills it.
    pub fn create(&self, whose: Whose, name: &str, options: &str) {
        self.ok(
            whose,
            &format!("qemu-img create -q SECRET -f luks -o key-secret=s,{options} {name} {BYTES}"),
        );
        self.fill(whose, &image(name));
    }

    /// Writes the payload to an image.
    pub fn fill(&self, whose: Whose, options: &str) {
        self.ok(whose, &format!("qemu-img convert -n -f raw SECRET --target-image-opts src.raw {options}"));
    }

    /// What `whose` program reads from an image.
    pub fn read(&self, whose: Whose, options: &str) -> Vec<u8> {
        self.ok(whose, &format!("qemu-img convert SECRET --image-opts -O raw {options} back.raw"));
        self.bytes("back.raw")
    }

    /// Whether `whose` program reads the payload from an image.
    pub fn reads(&self, whose: Whose, options: &str) -> bool {
        self.read(whose, options) == self.bytes("src.raw")
    }

    /// Whether nbdkit reads the payload from an image.
    ///
    /// # Panics
    /// It fails.
    pub fn nbdkit_reads(&self, name: &str) -> bool {
        let script = format!(
            "nbdkit -U - --filter=luks file {name} passphrase=+pw --run 'qemu-img convert -f raw -O raw \"$uri\" back.raw'"
        );
        let mut shell = Whose::Real.command("sh");
        let ran = Ran::of(shell.args(["-c", &script]).current_dir(self.dir.path()));
        assert_eq!(ran.code, Some(0), "{name}: {ran}");
        self.bytes("back.raw") == self.bytes("src.raw")
    }
}

/// How an attached image is named.
pub fn image(name: &str) -> String {
    format!("driver=luks,file.filename={name},key-secret=s")
}

/// Bytes in which no two sectors are alike.
pub fn payload(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}
