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
    assert_serves(&server);
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

#[test]
fn memory_that_clients_who_never_read_took_is_given_back_when_they_leave() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir, &[]);
    assert_serves(&server);
    let before = server.descriptors();
    // A length that an allocator likes to keep.
    let greedy: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = transmission(&server);
            (0..8).for_each(|_| stream.write_all(&request(0, 0, 24 << 20)).unwrap());
            stream
        })
        .collect();
    while server.status("VmRSS:") < 200 << 10 {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(greedy);
    while server.descriptors() > before {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(server.status("VmHWM:") < (256 + 64) << 10, "{} kB", server.status("VmHWM:"));
    assert!(server.status("VmRSS:") < 64 << 10, "{} kB", server.status("VmRSS:"));
    assert_serves(&server);
}

#[test]
fn whoever_takes_too_long_over_the_negotiation_is_cut_off_and_holds_nobody_up() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir, &["--handshake-limit", "1"]);
    std::thread::scope(|scope| {
        for step in 1..=3 {
            let mut slow = server.connect();
            scope.spawn(move || {
                let cut = prefix(step).iter().cycle().any(|byte| {
                    std::thread::sleep(Duration::from_millis(150));
                    slow.write_all(&[*byte]).is_err()
                });
                assert!(cut);
            });
        }
        (0..5).for_each(|_| assert_serves(&server));
    });
    assert_serves(&server);
}

#[test]
fn clients_that_leave_in_the_middle_of_a_request_leave_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir, &[]);
    assert_serves(&server);
    let before = server.descriptors();
    for i in 0..100 {
        let mut stream = transmission(&server);
        let whole = [request(1, 0, 1 << 20), vec![9; 1000]].concat();
        // Cut inside the header, inside the payload, and before the answer to a read is taken.
        let bytes = match i % 3 {
            0 => whole[..10 + i % 17].to_vec(),
            1 => whole,
            _ => (0..8).flat_map(|_| request(0, 0, 8 << 20)).collect(),
        };
        stream.write_all(&bytes).unwrap();
    }
    while server.descriptors() > before {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_serves(&server);
    assert!(server.status("VmHWM:") < (256 + 64) << 10, "{} kB", server.status("VmHWM:"));
}

#[test]
fn clients_that_do_nothing_cost_no_processor_time() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir, &["--handshake-limit", "0"]);
    let _idle: Vec<_> = (0..200).map(|_| server.connect()).collect();
    let _deaf: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = server.connect();
            stream.set_nonblocking(true).unwrap();
            // Asks for lists without end and never reads one.
            let list =
                [&prefix(1)[..], &[&OPTION[..], &[0, 0, 0, 3, 0, 0, 0, 0]].concat().repeat(2000)].concat();
            let _ = stream.write(&list);
            stream
        })
        .collect();
    let _quiet: Vec<_> = (0..20).map(|_| transmission(&server)).collect();
    assert_serves(&server);
    let before = server.ticks();
    std::thread::sleep(Duration::from_secs(1));
    let used = server.ticks() - before;
    assert!(used < 10, "{used} of a hundred ticks");
    assert!(server.status("VmHWM:") < 64 << 10, "{} kB", server.status("VmHWM:"));
}

#[test]
fn lengths_up_to_the_last_bit_are_refused_or_end_the_connection() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir, &[]);
    let extended = |flags: u16, command: u16, offset: u64, length: u64| {
        let mut bytes = 0x21e4_1c71u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes
    };
    let connect = || {
        let mut stream = server.connect();
        let mut bytes = 3u32.to_be_bytes().to_vec();
        for (option, data) in [(11, &[][..]), (7, &[0; 6][..])] {
            bytes.extend(OPTION);
            bytes.extend([0, 0, 0, option, 0, 0, 0, data.len() as u8]);
            bytes.extend(data);
        }
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut [0; 18 + 20 + (20 + 14) + (20 + 12) + 20]).unwrap();
        stream
    };
    for command in [1, 7] {
        for length in [u64::MAX, u64::from(u32::MAX), 1 << 62] {
            let mut stream = connect();
            stream.write_all(&extended(1 << 5, command, 0, length)).unwrap();
            assert_cut(stream);
        }
    }
    let mut stream = connect();
    for command in [0, 4, 5, 6, 7, 99] {
        for (offset, length) in [(0, u64::MAX), (u64::MAX, u64::MAX), (1, u64::MAX), (u64::MAX, 1)] {
            stream.write_all(&extended(0, command, offset, length)).unwrap();
            let mut reply = [0; 32];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(reply[6] & 0x80, 0x80, "{command} {offset:x} {length:x} is refused");
            let len = u64::from_be_bytes(*reply.last_chunk().unwrap());
            stream.read_exact(&mut vec![0; len as usize]).unwrap();
        }
    }
    drop(stream);
    assert_serves(&server);
    assert!(server.status("VmHWM:") < 64 << 10, "{} kB", server.status("VmHWM:"));
}
