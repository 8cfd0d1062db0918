//! What the integration tests share: where the programs are, and runs of ours and the real ones side by side.
//!
//! The programs must have been built; `BLOCKIMG_BIN` names their directory when it is not the one of the tests. Ours
//! are started under the names of the originals, so that messages can be compared as they are.

#![forbid(unsafe_code)]

pub mod boot;
pub mod certs;
pub mod differential;
pub mod disk;
pub mod guest;
pub mod luks;
pub mod nbd;
pub mod pairwise;
pub mod random;
pub mod seeds;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use tempfile::TempDir;

/// Whose program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The one built here.
    Ours,
    /// The installed original.
    Real,
}

/// The programs there are, by the names of the originals.
const PROGRAMS: [(&str, &str); 3] = [("qemu-img", "img"), ("qemu-io", "io-tool"), ("qemu-nbd", "nbd-server")];

/// How much of an output [`Ran::within`] keeps, in bytes.
const KEPT: u64 = 16 << 20;

/// The directory of the programs built here.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("BLOCKIMG_BIN") {
        return dir.into();
    }
    let exe = std::env::current_exe().expect("a running test has a path");
    exe.ancestors().nth(2).expect("tests are built two levels below the programs").to_owned()
}

impl Whose {
    /// A command that starts the program called `name` in QEMU, without input and arguments.
    pub fn command(self, name: &str) -> Command {
        let mut command = match self {
            Whose::Real => Command::new(name),
            Whose::Ours => {
                let ours =
                    PROGRAMS.iter().find(|(theirs, _)| *theirs == name).expect("a program that exists").1;
                let path = bin_dir().join(ours);
                assert!(path.exists(), "{} is missing: build it first", path.display());
                Command::new(path)
            }
        };
        command.arg0(name).stdin(Stdio::null());
        command
    }

    /// Runs `line`, whose first word is the program, in `dir`.
    pub fn run(self, dir: &Path, line: &str) -> Ran {
        let words = words(line);
        let (name, args) = words.split_first().expect("a command line has a first word");
        Ran::of(self.command(name).args(args).current_dir(dir))
    }
}

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ran {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}")).into()
    }

    /// Like [`Ran::of`], but kills what has not come to its end after `limit`, and keeps only the beginning of a long output.
    pub fn within(limit: Duration, command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let pid = Pid::from_raw(child.id().try_into().expect("process numbers are positive"));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            let (ended, end) = mpsc::channel::<()>();
            scope.spawn(move || match end.recv_timeout(limit) {
                Err(RecvTimeoutError::Timeout) => kill(pid, Signal::SIGKILL),
                _ => Ok(()),
            });
            let stderr = scope.spawn(move || beginning(stderr));
            let stdout = beginning(stdout);
            let stderr = stderr.join().expect("it only reads");
            let status = child.wait().unwrap_or_else(|e| panic!("{command:?}: {e}"));
            drop(ended);
            Output { status, stdout, stderr }.into()
        })
    }

    /// Whether it said all that `real` said and failed the same way. It may say more, as long as those are hints: lines
    /// without the program's name in front. What differs on purpose is left out: where the usage can be read, and which
    /// command a complaint about options is about.
    pub fn agrees_with(&self, real: &Ran) -> bool {
        let (ours, theirs) = (self.complaints(), real.complaints());
        let mut rest = ours.iter();
        let all_said = theirs.iter().all(|line| rest.any(|ours| ours == line));
        let only_hints = ours.iter().all(|line| theirs.contains(line) || !line.starts_with("qemu-"));
        (self.code, &self.stdout) == (real.code, &real.stdout) && all_said && only_hints
    }

    fn complaints(&self) -> Vec<String> {
        let lines = self.stderr.lines().filter(|line| !line.starts_with("Try '"));
        let lines =
            lines.map(|line| match line.strip_prefix("qemu-img ").and_then(|rest| rest.split_once(": ")) {
                Some((_, text)) => format!("qemu-img: {text}"),
                None => line.to_owned(),
            });
        lines.collect()
    }

    /// Its output, when it ended well.
    ///
    /// # Panics
    /// It did not.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }
}

/// Reads all there is and gives the beginning of it: what a test keeps counts as memory of the programs it starts later.
fn beginning(pipe: Option<impl Read>) -> Vec<u8> {
    let mut pipe = pipe.expect("it was asked for");
    let mut kept = Vec::new();
    let _ = pipe.by_ref().take(KEPT).read_to_end(&mut kept);
    let _ = io::copy(&mut pipe, &mut io::sink());
    kept
}

impl From<Output> for Ran {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} stdout {:?} stderr {:?}", self.code, self.stdout, self.stderr)
    }
}

/// Says that the running test is not run, and why. Where `BLOCKIMG_NOT_RUN` names a file it is noted there too, so that
/// `scripts/test` can tell at the end what the harness calls passed.
///
/// # Panics
/// The file cannot be written.
pub fn not_run(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let line = format!("NOT RUN: {}: {why}\n", thread.name().unwrap_or("a test"));
    // Not by way of the macros, whose output the harness keeps to itself. Nobody may be listening.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("BLOCKIMG_NOT_RUN") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("BLOCKIMG_NOT_RUN names a file");
    }
}

/// The words of a command line; `'…'` keeps blanks.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

/// Two directories with the same files in them, one for our programs and one for the real ones.
#[derive(Debug)]
pub struct Pair {
    ours: TempDir,
    real: TempDir,
}

impl Pair {
    /// Two empty directories.
    ///
    /// # Panics
    /// They cannot be made.
    pub fn new() -> Self {
        let dir = || tempfile::tempdir().expect("a temporary directory can be made");
        Pair { ours: dir(), real: dir() }
    }

    /// The directory of one side.
    pub fn dir(&self, whose: Whose) -> &Path {
        match whose {
            Whose::Ours => self.ours.path(),
            Whose::Real => self.real.path(),
        }
    }

    /// Puts the same file on both sides.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, name: impl AsRef<OsStr>, bytes: &[u8]) {
        for whose in [Whose::Ours, Whose::Real] {
            let path = self.dir(whose).join(name.as_ref());
            std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }

    /// Runs the real program on both sides.
    ///
    /// # Panics
    /// It fails.
    pub fn prepare(&self, line: &str) {
        for whose in [Whose::Ours, Whose::Real] {
            Whose::Real.run(self.dir(whose), line).ok();
        }
    }

    /// Copies what the real side has under `name` to our side, holes included: for files that come out different each
    /// time they are made.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn share(&self, name: &str) {
        let mut copy = Command::new("cp");
        copy.args([self.dir(Whose::Real), self.dir(Whose::Ours)].map(|dir| dir.join(name)));
        assert_eq!(Ran::of(&mut copy).code, Some(0), "{name} cannot be copied");
    }

    /// Runs each of these command lines of `qemu-img` on both sides and compares what they say.
    ///
    /// # Panics
    /// Some differ: tells all of them.
    pub fn check<S: AsRef<str>>(&self, lines: &[S]) {
        let mut differing = String::new();
        for line in lines {
            let line = line.as_ref();
            assert!(!line.starts_with("qemu-img"), "{line}: the program is named here");
            let [ours, real] = self.run(&format!("qemu-img {line}"));
            if !ours.agrees_with(&real) {
                differing.push_str(&format!("--- {line}\n ours {ours}\n real {real}\n"));
            }
        }
        assert!(differing.is_empty(), "{differing}");
    }

    /// Runs `line` on both sides.
    pub fn run(&self, line: &str) -> [Ran; 2] {
        [Whose::Ours, Whose::Real].map(|whose| whose.run(self.dir(whose), line))
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes_keep_blanks() {
        assert_eq!(words("a 'b c'  d''e ''"), ["a", "b c", "de", ""]);
    }
}
