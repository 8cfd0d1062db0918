//! Clients that mean harm: the server goes on serving others, and keeps its memory and descriptors.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tests::nbd::Server;
use tests::{Ran, Whose};

const OPTION: &[u8; 8] = b"IHAVEOPT";

fn server(dir: &TempDir, more: &[&str]) -> Server {
    fs::write(dir.path().join("a.raw"), vec![5; 64 << 20]).unwrap();
    Server::start(Whose::Ours, dir.path(), &[&["-t", "-e", "0", "-f", "raw", "a.raw"], more].concat())
}

fn assert_serves(server: &Server) {
    Ran::of(Command::new("qemu-io").args(["-f", "raw", "-r", "-c", "r -P 5 1M 64k", &server.uri("")])).ok();
}

/// The state a hostile client gets to before it does what it does.
fn prefix(step: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if step >= 1 {
        bytes.extend(3u32.to_be_bytes());
    }
    if step >= 2 {
        bytes.extend(OPTION);
        bytes.extend([0, 0, 0, 8, 0, 0, 0, 0]);
    }
    if step >= 3 {
        bytes.extend(OPTION);
        bytes.extend([0, 0, 0, 7, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0]);
    }
    bytes
}

/// In transmission, everything read that the negotiation said.
fn transmission(server: &Server) -> UnixStream {
    let mut stream = server.connect();
    stream.write_all(&prefix(3)).unwrap();
    let len = 18 + 20 + (20 + 14) + (20 + 12) + 20;
    stream.read_exact(&mut vec![0; len]).unwrap();
    stream
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend(7u64.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// Waits until the server has cut the connection.
fn assert_cut(mut stream: UnixStream) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
            Ok(_) => {}
            Err(e) => panic!("not cut: {e}"),
        }
    }
}

#[test]
fn garbage_and_silence_at_every_step_harm_nobody() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir, &[]);
    assert_serves(&server);
    let before = server.descriptors();
    for step in 0..=3 {
        let mut garbage = server.connect();
        garbage.write_all(&prefix(step)).unwrap();
        // The server may cut it in the middle.
        let _ = garbage.write_all(&[0xee; 4096]);
        assert_cut(garbage);
        for cut in 0..prefix(step).len() {
            let mut leaver = server.connect();
            leaver.write_all(&prefix(step)[..cut]).unwrap();
        }
    }
    for (command, length) in [(1, u32::MAX), (1, 1 << 30)] {
        let mut stream = transmission(&server);
        stream.write_all(&request(command, 0, length)).unwrap();
        assert_cut(stream);
    }
    let mut stream = transmission(&server);
    stream.write_all(&request(0, u64::MAX, u32::MAX)).unwrap();
    stream.write_all(&request(7, 0, 1)).unwrap();
    stream.write_all(&request(99, 0, 1)).unwrap();
    stream.write_all(&request(2, 0, 0)).unwrap();
    assert_cut(stream);
    assert_serves(&server);
    while server.descriptors() > before {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_thousand_half_open_connections_leave_room_for_others() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir, &["--handshake-limit", "1"]);
    let before = server.descriptors();
    let idle: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    assert_serves(&server);
    assert!(server.status("VmHWM:") < 64 << 10, "{} kB", server.status("VmHWM:"));
    idle.into_iter().for_each(assert_cut);
    assert_serves(&server);
    while server.descriptors() > before {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn clients_that_never_read_give_way_to_those_that_do() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir, &[]);
    let greedy: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = transmission(&server);
            (0..16).for_each(|_| stream.write_all(&request(0, 0, 32 << 20)).unwrap());
            stream
        })
        .collect();
    // Held up until the greedy ones are cut off, and then served.
    Ran::of(Command::new("qemu-io").args(["-f", "raw", "-c", "r -P 5 0 32M", &server.uri("")])).ok();
    assert!(server.status("VmHWM:") < (256 + 64) << 10, "{} kB", server.status("VmHWM:"));
    drop(greedy);
    assert_eq!(server.stop(), Some(0));
}
