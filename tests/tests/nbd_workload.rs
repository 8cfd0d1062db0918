//! Everybody at once on one export: what they all wrote is what is in the file.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use tests::nbd::Server;
use tests::{Ran, Whose};

const MIB: usize = 1 << 20;
/// Each client has a part of the export to itself.
const PART: usize = 2 * MIB;

/// One change of a part.
#[derive(Debug, Clone, Copy)]
struct Change {
    at: usize,
    len: usize,
    byte: u8,
}

/// The same changes every time: a few hundred of all sizes, some of them zeroes.
fn changes(seed: u32, unit: usize) -> Vec<Change> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let mut list = Vec::new();
    for _ in 0..120 {
        let most = if next(4) == 0 { 65_536 } else { 4096 };
        let len = unit * (1 + next(most / unit));
        let at = unit * next((PART - len) / unit);
        let byte = if next(5) == 0 { 0 } else { next(255) as u8 + 1 };
        list.push(Change { at, len, byte });
    }
    list
}

fn apply(model: &mut [u8], changes: &[Change]) {
    changes.iter().for_each(|c| model[c.at..c.at + c.len].fill(c.byte));
}

/// As commands of `qemu-io`.
fn commands(start: usize, changes: &[Change]) -> Vec<String> {
    let command = |c: &Change| match c.byte {
        0 if c.len.is_multiple_of(1024) => format!("w -z -u {} {}", start + c.at, c.len),
        0 => format!("w -z {} {}", start + c.at, c.len),
        byte => format!("w -P {byte} {} {}", start + c.at, c.len),
    };
    changes.iter().map(command).chain(["f".to_owned()]).collect()
}

fn with_io(whose: Whose, uri: &str, start: usize, changes: &[Change]) {
    let mut command = whose.command("qemu-io");
    command.args(["-t", "writeback", "-f", "raw"]);
    for c in commands(start, changes) {
        command.args(["-c", &c]);
    }
    Ran::of(command.arg(uri)).ok();
}

/// `libnbd`, with as many requests in flight as there are changes that do not overlap.
fn with_libnbd(uri: &str, start: usize, changes: &[Change]) {
    let mut script = format!("h.connect_uri('{uri}')\n");
    for c in changes {
        let at = start + c.at;
        match c.byte {
            0 => writeln!(script, "h.zero({}, {at})", c.len),
            byte => writeln!(script, "h.pwrite(bytes([{byte}]) * {}, {at})", c.len),
        }
        .unwrap();
    }
    script.push_str("h.flush()\nh.shutdown()\n");
    let script = script.lines().flat_map(|line| ["-c".to_owned(), line.to_owned()]);
    // The module is one of the distribution's own interpreter, whichever other comes first.
    Ran::of(Command::new("nbdsh").args(script).env("PATH", "/usr/bin:/bin")).ok();
}

/// The `nbd` crate.
fn with_crate(stream: UnixStream, start: usize, changes: &[Change]) {
    let export = nbd::client::handshake(&stream, b"").unwrap();
    assert!(!export.readonly && export.send_flush);
    let mut client = nbd::client::NbdClient::new(&stream, &export);
    for c in changes {
        client.seek(SeekFrom::Start((start + c.at) as u64)).unwrap();
        client.write_all(&vec![c.byte; c.len]).unwrap();
    }
    client.seek(SeekFrom::Start((start + changes[0].at) as u64)).unwrap();
    let mut back = vec![0; changes[0].len];
    client.read_exact(&mut back).unwrap();
    client.flush().unwrap();
}

fn workload(format: &str, create: &str) {
    let dir = TempDir::new().unwrap();
    let size = 5 * PART;
    Whose::Real.run(dir.path(), &format!("qemu-img create -q -f {format} {create} image {size}")).ok();
    let args = ["-t", "-e", "0", "--discard=unmap", "-f", format, "image"];
    let server = Server::start(Whose::Ours, dir.path(), &args);
    let uri = server.uri("");
    let mut model = vec![0; size];
    let parts: Vec<Vec<Change>> =
        (0u32..4).map(|seed| changes(seed, if seed == 3 { 512 } else { 1 })).collect();
    parts.iter().zip(model.chunks_mut(PART)).for_each(|(changes, part)| apply(part, changes));
    let stream = server.connect();
    std::thread::scope(|scope| {
        scope.spawn(|| with_io(Whose::Ours, &uri, 0, &parts[0]));
        scope.spawn(|| with_io(Whose::Real, &uri, PART, &parts[1]));
        scope.spawn(|| with_libnbd(&uri, 2 * PART, &parts[2]));
        scope.spawn(|| with_crate(stream, 3 * PART, &parts[3]));
        scope.spawn(|| with_fio(&uri, 4 * PART));
    });
    let model = &model[..4 * PART];
    assert!(read_by_nbdcopy(&uri, dir.path())[..4 * PART] == *model, "nbdcopy");
    // Containers often may not mount.
    if fs::File::options().read(true).write(true).open("/dev/fuse").is_ok() {
        assert!(read_by_fuse(&uri, dir.path())[..4 * PART] == *model, "nbdfuse");
    }
    assert_eq!(server.stop(), Some(0));
    Whose::Real.run(dir.path(), &format!("qemu-img convert -f {format} -O raw image flat")).ok();
    assert!(fs::read(dir.path().join("flat")).unwrap()[..4 * PART] == *model);
    if format != "raw" {
        Whose::Real.run(dir.path(), &format!("qemu-img check -q -f {format} image")).ok();
    }
}

/// `fio` checks itself what it reads back, with 16 requests in flight on each of 4 connections.
fn with_fio(uri: &str, start: usize) {
    let mut fio = Command::new("fio");
    let quarter = PART / 4;
    fio.args(["--name=x", "--ioengine=nbd", "--rw=randrw", "--bs=4k", "--iodepth=16", "--numjobs=4"]);
    fio.args(["--verify=crc32c", "--verify_fatal=1", "--thread"]);
    fio.arg("--verify_state_save=0");
    fio.args([format!("--uri={uri}"), format!("--offset={start}"), format!("--size={quarter}")]);
    fio.arg(format!("--offset_increment={quarter}"));
    Ran::of(&mut fio).ok();
}

fn read_by_nbdcopy(uri: &str, dir: &Path) -> Vec<u8> {
    let copy = dir.join("copy");
    Ran::of(Command::new("nbdcopy").args(["--connections=4", "--requests=16", uri]).arg(&copy)).ok();
    fs::read(copy).unwrap()
}

fn read_by_fuse(uri: &str, dir: &Path) -> Vec<u8> {
    let (mount, pid) = (dir.join("mnt"), dir.join("fuse.pid"));
    fs::create_dir(&mount).unwrap();
    let mut fuse = Command::new("nbdfuse");
    let mut child = fuse.arg("-r").arg("-P").arg(&pid).arg(mount.join("disk")).arg(uri).spawn().unwrap();
    while !pid.exists() {
        assert!(child.try_wait().unwrap().is_none(), "nbdfuse ended");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let bytes = fs::read(mount.join("disk")).unwrap();
    Ran::of(Command::new("fusermount3").arg("-u").arg(&mount)).ok();
    child.wait().unwrap();
    bytes
}

#[test]
fn what_five_kinds_of_clients_write_at_once_to_a_raw_image_is_what_everybody_reads() {
    workload("raw", "");
}

#[test]
fn what_five_kinds_of_clients_write_at_once_to_a_qcow2_image_is_what_everybody_reads() {
    workload("qcow2", "-o cluster_size=4k");
}

#[test]
fn our_client_works_with_a_server_that_knows_only_the_old_ways() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("nbd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let bytes: Vec<u8> = (0..3 * MIB).map(|i| (i / 7) as u8).collect();
    let mut disk = std::io::Cursor::new(bytes.clone());
    let size = bytes.len() as u64;
    let serving = std::thread::spawn(move || {
        // Our tool may connect more than once.
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let export =
                |_: &str| Ok(nbd::server::Export::<()> { size, send_flush: true, ..Default::default() });
            if nbd::server::handshake(&mut stream, export).is_err() {
                return disk.into_inner();
            }
            nbd::server::transmission(&mut stream, &mut disk).unwrap();
        }
        unreachable!("a listener has no end")
    });
    // It gives any export that is asked for, and lists this one.
    let uri = format!("nbd+unix:///rustnbd?socket={}", socket.display());
    let run =
        |args: &[&str]| Ran::of(Whose::Ours.command(args[0]).args(&args[1..]).current_dir(dir.path())).ok();
    run(&["qemu-img", "convert", "-f", "raw", "-O", "raw", &uri, "copy"]);
    assert!(fs::read(dir.path().join("copy")).unwrap() == bytes);
    run(&[
        "qemu-io",
        "-f",
        "raw",
        "-c",
        "w -P 9 1M 64k",
        "-c",
        "w -z 2M 4k",
        "-c",
        "d 0 4k",
        "-c",
        "f",
        &uri,
    ]);
    run(&["qemu-io", "-f", "raw", "-c", "r -P 9 1M 64k", "-c", "r -P 0 2M 4k", &uri]);
    drop(UnixStream::connect(&socket).unwrap());
    let disk = serving.join().unwrap();
    assert!(disk[MIB..MIB + 65536].iter().all(|b| *b == 9));
}

#[test]
fn the_old_kernel_client_lists_our_exports() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.raw"), [0; 4096]).unwrap();
    let port = {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap().port().to_string()
    };
    let mut server = Whose::Ours.command("qemu-nbd");
    server.args(["-t", "-b", "127.0.0.1", "-p", &port, "-x", "named", "-f", "raw", "a.raw"]);
    let mut server = server.current_dir(dir.path()).spawn().unwrap();
    let list = || Ran::of(Command::new("/usr/sbin/nbd-client").args(["-l", "127.0.0.1", &port]));
    let mut ran = list();
    while ran.code != Some(0) {
        assert!(server.try_wait().unwrap().is_none(), "the server ended");
        ran = list();
    }
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(ran.stdout.lines().any(|line| line == "named"), "{ran}");
}
