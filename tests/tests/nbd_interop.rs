//! Our server with everybody's clients, our client with everybody's servers.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use tests::nbd::Server;
use tests::{Ran, Whose};

const MIB: usize = 1 << 20;

/// Data, a hole, data.
fn image(dir: &Path, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; 8 * MIB];
    let mut state = 1u32;
    let mut fill = |part: &mut [u8]| {
        for byte in part {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
    };
    fill(&mut bytes[..2 * MIB]);
    fill(&mut bytes[6 * MIB..]);
    fs::write(dir.join(name), &bytes).unwrap();
    let sparse = Command::new("fallocate").arg("-d").arg(dir.join(name)).status();
    assert!(sparse.unwrap().success());
    bytes
}

fn run(program: &str, args: &[&str]) -> String {
    Ran::of(Command::new(program).args(args)).ok()
}

fn run_ours(program: &str, dir: &Path, args: &[&str]) -> String {
    Ran::of(Whose::Ours.command(program).args(args).current_dir(dir)).ok()
}

#[test]
fn every_client_reads_and_writes_what_our_server_has() {
    let dir = TempDir::new().unwrap();
    let bytes = image(dir.path(), "a.raw");
    let server = Server::start(Whose::Ours, dir.path(), &["-t", "-e", "0", "-f", "raw", "a.raw"]);
    let uri = server.uri("");
    let copy = dir.path().join("copy.raw");
    run("nbdcopy", &[&uri, copy.to_str().unwrap()]);
    assert_eq!(fs::read(&copy).unwrap(), bytes);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, copy.to_str().unwrap()]);
    let map = run("nbdinfo", &["--map", &uri]);
    assert_eq!(map.lines().filter(|line| line.contains("hole,zero")).count(), 1, "{map}");
    let commands =
        ["-c", "w -P 9 1M 3M", "-c", "w -z 5M 64k", "-c", "d 7M 64k", "-c", "w -f -P 3 100 100", "-c", "f"];
    run("qemu-io", &[&["-f", "raw"], &commands[..], &[&uri]].concat());
    run("qemu-io", &["-f", "raw", "-c", "r -P 9 1M 3M", "-c", "r -P 0 5M 64k", "-c", "r -P 3 100 100", &uri]);
    assert_eq!(server.stop(), Some(0));
    let now = fs::read(dir.path().join("a.raw")).unwrap();
    assert!(now[MIB..4 * MIB].iter().all(|b| *b == 9) && now[100..200].iter().all(|b| *b == 3));
    assert_eq!(now[200..MIB], bytes[200..MIB]);
}

#[test]
fn our_client_copies_from_and_to_every_server() {
    for (server, options) in
        [("qemu", &[][..]), ("nbdkit", &[][..]), ("nbdkit", &["--no-sr"][..]), ("ours", &[][..])]
    {
        let dir = TempDir::new().unwrap();
        let bytes = image(dir.path(), "a.raw");
        fs::write(dir.path().join("b.raw"), vec![0xaa; bytes.len()]).unwrap();
        let start = |file: &str| match server {
            "qemu" => Server::start(Whose::Real, dir.path(), &["-t", "-e", "8", "-f", "raw", file]),
            "ours" => Server::start(Whose::Ours, dir.path(), &["-t", "-e", "8", "-f", "raw", file]),
            _ => Server::nbdkit(dir.path(), &[options, &["file", file]].concat()),
        };
        let source = start("a.raw");
        run_ours("qemu-img", dir.path(), &["convert", "-f", "raw", "-O", "raw", &source.uri(""), "c.raw"]);
        assert_eq!(fs::read(dir.path().join("c.raw")).unwrap(), bytes, "{server} {options:?}");
        drop(source);
        // A server that was killed leaves its socket.
        let _ = fs::remove_file(dir.path().join("nbd.sock"));
        let target = start("b.raw");
        run_ours(
            "qemu-img",
            dir.path(),
            &["convert", "-n", "-f", "raw", "-O", "raw", "a.raw", &target.uri("")],
        );
        drop(target);
        assert_eq!(fs::read(dir.path().join("b.raw")).unwrap(), bytes, "{server} {options:?}");
    }
}

#[test]
fn lists_look_alike_whoever_lists_whom() {
    for whose in [Whose::Ours, Whose::Real] {
        let dir = TempDir::new().unwrap();
        image(dir.path(), "a.raw");
        let args = ["-t", "-e", "2", "-r", "-A", "-x", "name", "-D", "some text", "-f", "raw", "a.raw"];
        let _server = Server::start(whose, dir.path(), &args);
        let socket = dir.path().join("nbd.sock");
        let args = ["-L", "-k", socket.to_str().unwrap()];
        let [ours, real] = [Whose::Ours, Whose::Real].map(|w| Ran::of(w.command("qemu-nbd").args(args)).ok());
        assert_eq!(ours, real);
        assert!(ours.contains("description: some text") && ours.contains("readonly"), "{ours}");
    }
}

#[test]
fn several_exports_are_served_side_by_side() {
    let dir = TempDir::new().unwrap();
    let bytes = image(dir.path(), "a.raw");
    fs::write(dir.path().join("b.raw"), [7; 4096]).unwrap();
    let args = ["-t", "-e", "0", "--export", "name=a,source=a.raw,format=raw,read-only=on"];
    let server = Server::start(
        Whose::Ours,
        dir.path(),
        &[&args[..], &["--export", "b,source=b.raw,format=raw"]].concat(),
    );
    let copy = dir.path().join("copy.raw");
    run("nbdcopy", &[&server.uri("a"), copy.to_str().unwrap()]);
    assert_eq!(fs::read(&copy).unwrap(), bytes);
    run("qemu-io", &["-f", "raw", "-c", "r -P 7 0 4096", "-c", "w -P 8 0 512", &server.uri("b")]);
    let refused = Ran::of(Command::new("qemu-io").args(["-f", "raw", "-c", "w 0 512", &server.uri("a")]));
    assert_ne!(refused.code, Some(0));
    let unknown = Ran::of(Whose::Ours.command("qemu-img").args(["info", &server.uri("c")]));
    assert!(unknown.stderr.contains("Requested export not available"), "{unknown}");
}

#[test]
fn the_server_leaves_with_its_last_client_unless_told_to_stay() {
    let dir = TempDir::new().unwrap();
    image(dir.path(), "a.raw");
    let args = ["--fork", "--pid-file", "pid", "-f", "raw", "a.raw", "-k"];
    let socket = dir.path().join("nbd.sock");
    let mut command = Whose::Ours.command("qemu-nbd");
    Ran::of(command.args(args).arg(&socket).current_dir(dir.path())).ok();
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    run("qemu-nbd", &["-L", "-k", socket.to_str().unwrap()]);
    assert!(process.exists() && socket.exists(), "a client that only lists does not count");
    run("qemu-io", &["-f", "raw", "-c", "r 0 512", &format!("nbd+unix:///?socket={}", socket.display())]);
    while process.exists() {
        std::thread::yield_now();
    }
    assert!(!socket.exists());
}
