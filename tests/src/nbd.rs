//! NBD servers for tests: started, waited for, and ended with the test.

use crate::Whose;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server on a Unix socket.
#[derive(Debug)]
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// `nbd-server` or `qemu-nbd` with these arguments, in `dir`.
    pub fn start(whose: Whose, dir: &Path, args: &[&str]) -> Self {
        let socket = dir.join("nbd.sock");
        let mut command = whose.command("qemu-nbd");
        command.arg("-k").arg(&socket).args(args).current_dir(dir);
        Self::spawn(command, socket)
    }

    /// `nbdkit` with these arguments, in `dir`.
    pub fn nbdkit(dir: &Path, args: &[&str]) -> Self {
        let socket = dir.join("nbd.sock");
        let mut command = Command::new("nbdkit");
        command.args(["-f", "-U"]).arg(&socket).args(args).current_dir(dir);
        Self::spawn(command, socket)
    }

    /// Ends it as a power cut would, and gives its socket's path.
    ///
    /// # Panics
    /// It cannot be killed.
    pub fn kill(mut self) -> PathBuf {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child can be waited for");
        self.socket.clone()
    }

    /// Processor time it has used so far, in clock ticks.
    ///
    /// # Panics
    /// The process is gone.
    pub fn ticks(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the server runs");
        let after_name = text.rsplit_once(')').expect("the name is in brackets").1;
        let times = after_name.split_whitespace().skip(11).take(2);
        times.map(|n| n.parse::<u64>().expect("a number")).sum()
    }

    fn spawn(mut command: Command, socket: PathBuf) -> Self {
        // What a server that was killed left behind must not look like the new one.
        let _ = std::fs::remove_file(&socket);
        let child = command
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(socket.with_extension("log")).expect("a log can be made"))
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut server = Server { child, socket };
        while !is_listening(&server.socket) {
            let ended = server.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// The URI of an export.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// A connection of one's own making.
    ///
    /// # Panics
    /// Nobody listens.
    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).expect("the server listens")
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it complained about so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.socket.with_extension("log")).unwrap_or_default()
    }

    /// Waits until it has complained so `least` times: a client may be gone before the server says why.
    ///
    /// # Panics
    /// It has not for long.
    pub fn assert_complains(&self, text: &str, least: usize) {
        let begun = Instant::now();
        while self.log().lines().filter(|line| line.contains(text)).count() < least {
            assert!(begun.elapsed() < Duration::from_secs(30), "no {text:?} in {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of the process's status, such as `VmHWM`: its number.
    ///
    /// # Panics
    /// The process is gone.
    pub fn status(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(path).expect("the server runs");
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the key exists");
        line.split_whitespace().find_map(|word| word.parse().ok()).expect("a number")
    }

    /// How many descriptors it has open.
    ///
    /// # Panics
    /// The process is gone.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs").count()
    }

    /// Asks it to end and waits; its exit status.
    ///
    /// # Panics
    /// It cannot be asked.
    pub fn stop(mut self) -> Option<i32> {
        let asked = Command::new("kill").arg(self.pid().to_string()).status();
        assert!(asked.expect("kill exists").success());
        self.child.wait().expect("a child can be waited for").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether somebody listens there: a socket exists for a moment before. To connect would make a client of the test.
fn is_listening(socket: &Path) -> bool {
    /// The flag of `/proc/net/unix` for it.
    const LISTENS: &str = "00010000";
    let table = std::fs::read_to_string("/proc/net/unix").expect("the kernel lists its sockets");
    table.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.get(3) == Some(&LISTENS) && words.get(7).is_some_and(|path| Path::new(path) == socket)
    })
}
