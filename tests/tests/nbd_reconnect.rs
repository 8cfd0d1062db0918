//! Servers that die: what was flushed is there, and our client goes on.

#![forbid(unsafe_code)]

use block::Image;
use block::graph::{self, Env, OpenFlags, Source};
use std::fs;
use tempfile::TempDir;
use tests::Whose;
use tests::nbd::Server;

const EIO: i32 = 5;
const MIB: usize = 1 << 20;

fn serve(dir: &TempDir) -> Server {
    Server::start(Whose::Ours, dir.path(), &["-t", "-e", "0", "-f", "raw", "a.raw"])
}

fn image() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.raw"), vec![0; 4 << 20]).unwrap();
    dir
}

/// Our client of the server in `dir`, with more options.
fn connect(dir: &TempDir, more: &str) -> Image {
    let socket = dir.path().join("nbd.sock");
    let options =
        format!("driver=nbd,server.type=unix,server.path={},reconnect-delay=60{more}", socket.display());
    let objects = secret::Registry::default();
    let env = Env { drivers: formats::DRIVERS, objects: &objects };
    let flags = OpenFlags { writable: true, ..OpenFlags::default() };
    graph::open(env, &Source::Options(options), None, flags).unwrap()
}

fn holds(image: &Image, at: u64, len: usize, byte: u8) -> bool {
    let mut found = vec![0; len];
    image.read(at, &mut found).unwrap();
    found.iter().all(|b| *b == byte)
}

#[test]
fn after_a_kill_flushed_data_is_there_and_the_client_goes_on() {
    let dir = image();
    let server = serve(&dir);
    let image = connect(&dir, "");
    image.write(0, &vec![1; MIB]).unwrap();
    image.flush().unwrap();
    server.kill();
    assert!(fs::read(dir.path().join("a.raw")).unwrap()[..MIB].iter().all(|b| *b == 1));
    let server = serve(&dir);
    image.write(MIB as u64, &vec![2; MIB]).unwrap();
    image.flush().expect("nothing unflushed was lost");
    assert!(holds(&image, 0, MIB, 1) && holds(&image, MIB as u64, MIB, 2));
    image.close().unwrap();
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn the_first_flush_after_a_death_tells_of_writes_that_may_be_lost() {
    for (more, fails) in [("", true), (",reconnect-unsafe=on", false)] {
        let dir = image();
        let server = serve(&dir);
        let image = connect(&dir, more);
        image.write(0, &vec![1; MIB]).unwrap();
        server.kill();
        let _server = serve(&dir);
        assert!(holds(&image, 0, MIB, 1), "the page cache outlives a process");
        let told = image.flush();
        assert_eq!(told.as_ref().err().map(block::Error::errno), fails.then_some(EIO), "{more} {told:?}");
        image.flush().expect("it is told once");
        image.close().unwrap();
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
