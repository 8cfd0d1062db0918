//! Servers that die: what was flushed is there, and our client goes on.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use tempfile::TempDir;
use tests::Whose;
use tests::nbd::Server;

/// What a flush says that fails.
const LOST: &str = "Input/output error";

/// `io-tool` with commands given one at a time.
struct Io {
    child: Child,
    stdin: ChildStdin,
    /// What it says and what it complains about, in order.
    output: BufReader<PipeReader>,
}

impl Io {
    fn open(socket: &str, more: &str) -> Self {
        let options = format!("driver=nbd,server.type=unix,server.path={socket},reconnect-delay=60{more}");
        let mut command = Whose::Ours.command("qemu-io");
        command.args(["-t", "writeback", "--image-opts", &options]);
        let (output, input) = std::io::pipe().unwrap();
        command.stdin(Stdio::piped()).stdout(input.try_clone().unwrap()).stderr(input);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        Io { child, stdin, output: BufReader::new(output) }
    }

    /// What one command says.
    fn run(&mut self, command: &str) -> String {
        // The answer to the second marks the end of that to the first.
        writeln!(self.stdin, "{command}\nlength").unwrap();
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "io-tool ended: {said}");
            if line.contains("4 MiB") && !line.contains("ops") {
                return said;
            }
            said.push_str(&line);
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(dir: &TempDir) -> Server {
    Server::start(Whose::Ours, dir.path(), &["-t", "-e", "0", "-f", "raw", "a.raw"])
}

fn image() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.raw"), vec![0; 4 << 20]).unwrap();
    dir
}

#[test]
fn after_a_kill_flushed_data_is_there_and_the_client_goes_on() {
    let dir = image();
    let server = serve(&dir);
    let mut io = Io::open(dir.path().join("nbd.sock").to_str().unwrap(), "");
    assert!(io.run("w -P 1 0 1M").contains("wrote 1048576/1048576"));
    assert!(!io.run("f").contains(LOST));
    server.kill();
    assert!(fs::read(dir.path().join("a.raw")).unwrap()[..1 << 20].iter().all(|b| *b == 1));
    let server = serve(&dir);
    assert!(io.run("w -P 2 1M 1M").contains("wrote 1048576/1048576"));
    assert!(!io.run("f").contains(LOST), "nothing unflushed was lost");
    assert!(io.run("r -P 1 0 1M").contains("read 1048576/1048576"));
    assert!(io.run("r -P 2 1M 1M").contains("read 1048576/1048576"));
    drop(io);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn the_first_flush_after_a_death_tells_of_writes_that_may_be_lost() {
    for (more, fails) in [("", true), (",reconnect-unsafe=on", false)] {
        let dir = image();
        let server = serve(&dir);
        let mut io = Io::open(dir.path().join("nbd.sock").to_str().unwrap(), more);
        io.run("w -P 1 0 64k");
        server.kill();
        let _server = serve(&dir);
        assert!(io.run("r 0 512").contains("read 512/512"));
        assert_eq!(io.run("f").contains(LOST), fails, "{more}");
        assert!(!io.run("f").contains(LOST), "it is told once");
        assert!(io.run("r -P 1 0 64k").contains("read 65536/65536"), "the page cache outlives a process");
    }
}

#[test]
fn a_server_told_to_end_finishes_what_it_was_given() {
    let dir = image();
    let server = serve(&dir);
    let uri = server.uri("");
    let writer = std::thread::spawn(move || {
        let mut command = Whose::Ours.command("qemu-io");
        command.args(["-f", "raw"]);
        for i in 0..64 {
            command.args(["-c", &format!("w -P 7 {}k 64k", i * 64)]);
        }
        tests::Ran::of(command.arg(&uri))
    });
    while fs::read(dir.path().join("a.raw")).unwrap()[1 << 20] != 7 {
        std::thread::yield_now();
    }
    assert_eq!(server.stop(), Some(0));
    let ran = writer.join().unwrap();
    // What was acknowledged is there, up to the request that was refused.
    let done = ran.stdout.matches("wrote 65536/65536").count();
    let bytes = fs::read(dir.path().join("a.raw")).unwrap();
    assert!(done >= 16 && bytes[..done * 65536].iter().all(|b| *b == 7), "{done} {ran}");
}
