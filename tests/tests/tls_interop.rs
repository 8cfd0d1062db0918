//! TLS with everybody, both ways: certificates, shared keys, no authentication; and who is refused.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::certs::{Cert, Shape, When, folder};
use tests::nbd::Server;
use tests::{Ran, Whose};

const KIB: usize = 1 << 10;

/// A folder with an image, and credentials of everybody.
struct Scene {
    dir: TempDir,
    ca: Cert,
    bytes: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let ca = Cert::root(&Shape::ca("CA"));
        let server = Cert::issued(&Shape::server("server").named(&["localhost", "127.0.0.1"]), &ca);
        folder(&dir.path().join("server"), &[&ca], "server", Some(&server));
        let bytes: Vec<u8> = (0..3 * 1024 * KIB).map(|i| (i * 7 / 11 % 251) as u8).collect();
        fs::write(dir.path().join("a.raw"), &bytes).unwrap();
        let scene = Scene { dir, ca, bytes };
        scene.client("client", &Shape::client("client"));
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A client's folder.
    fn client(&self, name: &str, shape: &Shape) {
        folder(&self.path(name), &[&self.ca], "client", Some(&Cert::issued(shape, &self.ca)));
    }

    /// A server with certificates and these further arguments.
    fn serve(&self, whose: Whose, more: &[&str]) -> Server {
        let args = ["--object", "tls-creds-x509,id=t,dir=server,endpoint=server", "--tls-creds", "t"];
        self.serve_with(whose, &[&args, more].concat())
    }

    fn serve_with(&self, whose: Whose, more: &[&str]) -> Server {
        let args = ["-t", "-e", "0", "-f", "raw", "a.raw"];
        Server::start(whose, self.dir.path(), &[more, &args].concat())
    }

    /// What a client says of the export, with credentials `object` and these further options of the driver.
    fn info(&self, whose: Whose, object: &str, more: &str) -> Ran {
        let image = format!("driver=nbd,path=nbd.sock,tls-creds=t{more}");
        let args = ["info", "--object", object, "--image-opts", &image];
        Ran::of(whose.command("qemu-img").args(args).current_dir(self.dir.path()))
    }

    fn info_with(&self, whose: Whose, folder: &str) -> Ran {
        self.info(whose, &certificates(folder), ",tls-hostname=localhost")
    }

    /// Copies the export with a client, and compares.
    fn copy(&self, whose: Whose, object: &str, more: &str) {
        let copy = self.path("copy.raw");
        let image = format!("driver=raw,file.driver=nbd,file.path=nbd.sock,file.tls-creds=t{more}");
        let args = ["convert", "--object", object, "--image-opts", &image, "-O", "raw", "copy.raw"];
        Ran::of(whose.command("qemu-img").args(args).current_dir(self.dir.path())).ok();
        assert!(fs::read(&copy).unwrap() == self.bytes, "{whose:?} {object}");
        fs::remove_file(copy).unwrap();
    }

    /// Copies with libnbd's client.
    fn nbdcopy(&self, uri: &str) {
        let copy = self.path("copy.raw");
        let mut command = Command::new("nbdcopy");
        Ran::of(command.args([uri, copy.to_str().unwrap()])).ok();
        assert!(fs::read(&copy).unwrap() == self.bytes, "{uri}");
        fs::remove_file(copy).unwrap();
    }

    fn nbdkit(&self, args: &[&str]) -> Server {
        let file = format!("file={}", self.path("a.raw").display());
        let args = [&["--tls=require"], args, &["file", &file]].concat();
        Server::nbdkit(self.dir.path(), &args)
    }
}

fn certificates(folder: &str) -> String {
    format!("tls-creds-x509,id=t,dir={folder},endpoint=client")
}

#[test]
fn every_client_with_a_certificate_copies_from_our_server() {
    let scene = Scene::new();
    let server = scene.serve(Whose::Ours, &[]);
    for whose in [Whose::Real, Whose::Ours] {
        scene.copy(whose, &certificates("client"), ",file.tls-hostname=localhost");
        let tls12 = certificates("client") + ",priority=NORMAL:-VERS-TLS1.3";
        scene.copy(whose, &tls12, ",file.tls-hostname=localhost");
    }
    let socket = server.socket().display();
    let folder = scene.path("client");
    scene.nbdcopy(&format!("nbds+unix:///?socket={socket}&tls-certificates={}", folder.display()));
    // Listing too, and writing.
    let path = server.socket().to_str().unwrap();
    let list = ["-L", "-k", path, "--tls-creds", "t", "--tls-hostname", "localhost", "--object"];
    for whose in [Whose::Real, Whose::Ours] {
        let mut command = whose.command("qemu-nbd");
        let list = Ran::of(command.args(list).arg(certificates("client")).current_dir(scene.dir.path())).ok();
        assert!(list.contains("exports available: 1"), "{list}");
        let image = "driver=nbd,path=nbd.sock,tls-creds=t,tls-hostname=localhost";
        let object = certificates("client");
        let commands = [
            "-c",
            "w -P 9 1M 1M",
            "-c",
            "w -P 8 100k 4k",
            "-c",
            "f",
            "-c",
            "r -P 9 1M 1M",
            "-c",
            "r -P 8 100k 4k",
        ];
        let mut command = whose.command("qemu-io");
        command.args(["--object", &object, "--image-opts"]).args(commands).arg(image);
        let said = Ran::of(command.current_dir(scene.dir.path()));
        assert!(!said.stdout.contains("failed") && said.code == Some(0), "{said}");
    }
    assert_eq!(server.stop(), Some(0));
    assert!(fs::read(scene.path("a.raw")).unwrap()[1024 * KIB..2048 * KIB].iter().all(|b| *b == 9));
}

#[test]
fn our_client_copies_over_tls_from_every_server() {
    let scene = Scene::new();
    let hostname = ",file.tls-hostname=localhost";
    for whose in [Whose::Real, Whose::Ours] {
        let server = scene.serve(whose, &[]);
        scene.copy(Whose::Ours, &certificates("client"), hostname);
        server.stop();
    }
    let folder = scene.path("server");
    for more in [&["--tls-verify-peer"][..], &[]] {
        let certificates_of = format!("--tls-certificates={}", folder.display());
        let server = scene.nbdkit(&[&[certificates_of.as_str()], more].concat());
        scene.copy(Whose::Ours, &certificates("client"), hostname);
        drop(server);
        let _ = fs::remove_file(scene.path("nbd.sock"));
    }
}

#[test]
fn a_uri_says_all_that_tls_needs() {
    let scene = Scene::new();
    let server = scene.serve(Whose::Ours, &[]);
    let socket = server.socket().display();
    let folder = scene.path("client");
    let object = certificates("client");
    let certificates = folder.display();
    for (object, keys) in [
        (None, format!("&tls-certificates={certificates}&tls-hostname=localhost")),
        (None, format!("&tls-certificates={certificates}&tls-verify-peer=false")),
        (Some(&object), "&tls-creds=t&tls-hostname=localhost".to_owned()),
        (Some(&object), "&tls-hostname=localhost".to_owned()),
    ] {
        let uri = format!("nbds+unix:///?socket={socket}{keys}");
        let mut command = Whose::Ours.command("qemu-img");
        command
            .arg("convert")
            .args(object.iter().flat_map(|o| ["--object", o]))
            .args(["-f", "raw", "-O", "raw", &uri, "copy.raw"]);
        Ran::of(command.current_dir(scene.dir.path())).ok();
        assert!(fs::read(scene.path("copy.raw")).unwrap() == scene.bytes, "{uri}");
    }
    let uri = format!("nbds+unix:///?socket={socket}");
    let said = Ran::of(Whose::Ours.command("qemu-img").args(["info", &uri]));
    assert!(said.code == Some(1) && said.stderr.contains("tls-certificates=DIR"), "{said}");
}

#[test]
fn whoever_should_not_enter_gets_nothing_and_the_log_says_who_and_why() {
    let scene = Scene::new();
    let stranger = Cert::root(&Shape::ca("stranger"));
    let theirs = Cert::issued(&Shape::client("theirs"), &stranger);
    folder(&scene.path("stranger"), &[&scene.ca], "client", Some(&theirs));
    folder(&scene.path("bare"), &[&scene.ca], "client", None);
    scene.client("revoked", &Shape { serial: Some(4711), ..Shape::client("revoked") });
    scene.client("expired", &Shape { when: When::Past, ..Shape::client("expired") });
    scene.client("denied", &Shape::client("denied"));
    fs::write(scene.path("server/ca-crl.pem"), scene.ca.revoke(&[4711])).unwrap();
    let rules = "authz-list,id=z,policy=deny,rules.0.match=C=UK,,CN=denied,rules.0.policy=deny,\
                 rules.1.match=C=UK*,rules.1.format=glob,rules.1.policy=allow";
    let server = scene.serve(Whose::Ours, &["--object", rules, "--tls-authz", "z"]);
    for (who, why) in [
        ("bare", "No certificate was found."),
        ("stranger", "The certificate hasn't got a known issuer (client 'C=UK,CN=theirs')"),
        ("revoked", "The certificate has been revoked (client 'C=UK,CN=revoked')"),
        ("expired", "The certificate has expired (client 'C=UK,CN=expired')"),
        ("denied", "TLS x509 authz check for C=UK,CN=denied is denied"),
    ] {
        for whose in [Whose::Ours, Whose::Real] {
            // Our own client would not load an expired certificate.
            let object = certificates(who) + ",sanity-check=off";
            let said = scene.info(whose, &object, ",tls-hostname=localhost");
            assert_eq!(said.code, Some(1), "{who} {said}");
        }
        let uri = format!(
            "nbds+unix:///?socket={}&tls-certificates={}",
            server.socket().display(),
            scene.path(who).display()
        );
        let listed = Ran::of(Command::new("nbdinfo").args(["--list", &uri]));
        assert!(listed.code != Some(0) && listed.stdout.is_empty(), "{who} {listed}");
        // The real client keeps a certificate of another CA to itself.
        let least = if who == "stranger" { 1 } else { 3 };
        server.assert_complains(why, least);
    }
    scene.info_with(Whose::Ours, "client").ok();
    scene.info_with(Whose::Real, "client").ok();
}

#[test]
fn the_client_looks_at_the_name_of_the_server() {
    let scene = Scene::new();
    let _server = scene.serve(Whose::Ours, &[]);
    for more in [",tls-hostname=example.org", ""] {
        let [ours, real] =
            [Whose::Ours, Whose::Real].map(|whose| scene.info(whose, &certificates("client"), more));
        assert!(ours.code == Some(1) && ours.agrees_with(&real), "{ours} {real}");
    }
    let unverified = certificates("client") + ",verify-peer=off";
    scene.info(Whose::Ours, &unverified, "").ok();
}

#[test]
fn mistakes_on_the_command_line_are_told_before_anybody_connects() {
    let scene = Scene::new();
    let server = "tls-creds-x509,id=t,dir=server,endpoint=server";
    let authz = "authz-simple,id=z,identity=x";
    let say = |whose: Whose, args: &[&str]| {
        let mut command = whose.command("qemu-nbd");
        command.args(["-k", "/nonexistent/socket", "-f", "raw"]).args(args).arg("a.raw");
        Ran::of(command.current_dir(scene.dir.path()))
    };
    for args in [
        &["--tls-creds", "t"][..],
        &["--object", "secret,id=t,data=x", "--tls-creds", "t"],
        &["--object", "tls-creds-x509,id=t,dir=client", "--tls-creds", "t"],
        &["--object", server, "--tls-authz", "z"],
        &["--object", server, "--tls-hostname", "x", "--tls-creds", "t"],
    ] {
        let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| say(whose, args));
        assert!(ours.code == Some(1) && ours.agrees_with(&real), "{args:?} {ours} {real}");
    }
    // The real tool would let anybody in, and tells of a missing rule only when somebody connects.
    let off = format!("{server},verify-peer=off");
    for args in [
        &["--object", &off, "--object", authz, "--tls-creds", "t", "--tls-authz", "z"][..],
        &["--object", server, "--tls-creds", "t", "--tls-authz", "z"],
        &[
            "--object",
            "tls-creds-anon,id=t,endpoint=server",
            "--object",
            authz,
            "--tls-creds",
            "t",
            "--tls-authz",
            "z",
        ],
    ] {
        let said = say(Whose::Ours, args);
        assert!(said.code == Some(1) && said.stderr.lines().count() == 2, "{args:?} {said}");
    }
}

#[test]
fn an_encrypted_key_is_served_with() {
    let scene = Scene::new();
    let mut openssl = Command::new("openssl");
    openssl.args([
        "pkcs8",
        "-topk8",
        "-in",
        "server/server-key.pem",
        "-out",
        "key",
        "-passout",
        "pass:swordfish",
    ]);
    Ran::of(openssl.current_dir(scene.dir.path())).ok();
    fs::rename(scene.path("key"), scene.path("server/server-key.pem")).unwrap();
    let object = "tls-creds-x509,id=t,dir=server,endpoint=server,passwordid=pw";
    let _server = scene.serve_with(
        Whose::Ours,
        &["--object", "secret,id=pw,data=swordfish", "--object", object, "--tls-creds", "t"],
    );
    scene.copy(Whose::Real, &certificates("client"), ",file.tls-hostname=localhost");
}

/// A file of shared keys.
fn keys(scene: &Scene, folder: &str, users: &[(&str, &str)]) {
    fs::create_dir_all(scene.path(folder)).unwrap();
    let lines: String = users.iter().map(|(user, key)| format!("{user}:{key}\n")).collect();
    fs::write(scene.path(folder).join("keys.psk"), lines).unwrap();
    fs::write(scene.path(folder).join("dh-params.pem"), tests::certs::DH_PARAMS).unwrap();
}

const KEY: &str = "d543770c15ad93d76443fb56f501a31969235f47e999720ae8d2336f6a13fcbc";
const OTHER: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

#[test]
fn shared_keys_work_with_everybody() {
    let scene = Scene::new();
    keys(&scene, "psk", &[("qemu", KEY), ("fred", OTHER)]);
    let client = "tls-creds-psk,id=t,dir=psk,username=fred,endpoint=client";
    // The real server leaves its folder before it reads the file.
    let object = format!("tls-creds-psk,id=t,dir={},endpoint=server", scene.path("psk").display());
    let server = ["--object", &object, "--tls-creds", "t"];
    for (serving, asking) in
        [(Whose::Ours, Whose::Real), (Whose::Real, Whose::Ours), (Whose::Ours, Whose::Ours)]
    {
        let server = scene.serve_with(serving, &server);
        for more in ["", ",priority=NORMAL:-VERS-TLS1.3"] {
            scene.copy(asking, &format!("{client}{more}"), "");
        }
        server.stop();
    }
    let file = scene.path("psk/keys.psk");
    let ours = scene.serve_with(Whose::Ours, &server);
    let socket = ours.socket().display();
    scene.nbdcopy(&format!("nbds+unix://fred@/?socket={socket}&tls-psk-file={}", file.display()));
    drop(ours);
    let _ = fs::remove_file(scene.path("nbd.sock"));
    let nbdkit = scene.nbdkit(&[&format!("--tls-psk={}", file.display())]);
    scene.copy(Whose::Ours, client, "");
    let uri =
        format!("nbds+unix://fred@/?socket={}&tls-psk-file={}", nbdkit.socket().display(), file.display());
    Ran::of(Whose::Ours.command("qemu-img").args(["info", &uri])).ok();
}

#[test]
fn files_of_shared_keys_are_judged_when_the_program_starts() {
    let scene = Scene::new();
    keys(&scene, "psk", &[("qemu", KEY), ("odd", "abc"), ("text", "zz")]);
    keys(&scene, "empty", &[]);
    for options in [
        "endpoint=client",
        "dir=none",
        "dir=none,endpoint=server",
        "dir=psk",
        "dir=psk,username=qem",
        "dir=psk,username=odd",
        "dir=psk,username=text",
        "dir=empty",
        "dir=empty,endpoint=server",
        "dir=psk,endpoint=server,username=qemu",
    ] {
        let line = format!("qemu-img info --object tls-creds-psk,id=t,{options} -f raw a.raw");
        let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| whose.run(scene.dir.path(), &line));
        assert!(ours.agrees_with(&real), "{options} {ours} {real}");
    }
    // The real tool finds out when a client connects.
    let line = "qemu-img info --object tls-creds-psk,id=t,dir=psk,endpoint=server -f raw a.raw";
    let said = Whose::Ours.run(scene.dir.path(), line);
    assert!(said.code == Some(1) && said.stderr.contains("line 2 of psk/keys.psk"), "{said}");
}

#[test]
fn a_wrong_key_or_user_gets_nothing_and_rules_judge_users() {
    let scene = Scene::new();
    keys(&scene, "psk", &[("qemu", KEY), ("fred", OTHER)]);
    keys(&scene, "wrong", &[("qemu", OTHER), ("ghost", KEY)]);
    let authz = ["--object", "authz-simple,id=z,identity=qemu", "--tls-authz", "z"];
    let server = ["--object", "tls-creds-psk,id=t,dir=psk,endpoint=server", "--tls-creds", "t"];
    let server = scene.serve_with(Whose::Ours, &[&server[..], &authz].concat());
    for whose in [Whose::Ours, Whose::Real] {
        let ask =
            |options: &str| scene.info(whose, &format!("tls-creds-psk,id=t,endpoint=client,{options}"), "");
        ask("dir=psk").ok();
        for (options, why) in [
            ("dir=wrong", "client 'qemu'"),
            ("dir=wrong,username=ghost", "ghost"),
            ("dir=psk,username=fred", "TLS psk authz check for fred is denied"),
        ] {
            let said = ask(options);
            assert_eq!(said.code, Some(1), "{options} {said}");
            server.assert_complains(why, 1);
        }
    }
}

#[test]
fn no_authentication_at_all_works_with_the_real_tool() {
    let scene = Scene::new();
    let client = "tls-creds-anon,id=t,endpoint=client";
    for (serving, asking) in
        [(Whose::Ours, Whose::Real), (Whose::Real, Whose::Ours), (Whose::Ours, Whose::Ours)]
    {
        let object = "tls-creds-anon,id=t,dir=server,endpoint=server";
        let server = scene.serve_with(serving, &["--object", object, "--tls-creds", "t"]);
        scene.copy(asking, client, "");
        server.stop();
    }
}

/// The greeting of a client that wants TLS: flags, then the option.
fn ask_for_tls(server: &Server) -> std::os::unix::net::UnixStream {
    let mut stream = server.connect();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0").unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..16], 1u32.to_be_bytes(), "the option is acknowledged");
    stream
}

#[test]
fn hostile_clients_in_and_before_the_handshake_harm_nobody() {
    let scene = Scene::new();
    let server = scene.serve(Whose::Ours, &["--handshake-limit", "1"]);
    scene.info_with(Whose::Ours, "client").ok();
    let descriptors = server.descriptors();
    // Data that came before TLS is not taken for the client's.
    let mut stream = server.connect();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0IHAVEOPT\0\0\0\x03\0\0\0\0").unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    assert!(all.len() <= 18 + 20, "nothing but the greeting and the acknowledgement: {all:?}");
    // Rubbish, half a record, and leaving at every point of the first flight.
    let hello: Vec<u8> = [&[0x16, 3, 1, 2, 0][..], &[1; 300]].concat();
    for len in [0, 1, 4, 5, 6, 100, hello.len()] {
        let mut stream = ask_for_tls(&server);
        stream.write_all(&hello[..len]).unwrap();
        if len % 2 == 0 {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    for first in 0..=255u8 {
        let mut stream = ask_for_tls(&server);
        let _ = stream.write_all(&[[first; 64], [0xff; 64]].concat());
    }
    // Many that say nothing more: they cost little, and go when their time is over.
    let waiting: Vec<_> = (0..200).map(|_| ask_for_tls(&server)).collect();
    scene.info_with(Whose::Ours, "client").ok();
    let started = Instant::now();
    for mut stream in waiting {
        let _ = stream.read(&mut [0; 1]);
    }
    assert!(started.elapsed() < Duration::from_secs(20), "they are cut off when the limit has passed");
    // A byte at a time does not last longer.
    let mut slow = ask_for_tls(&server);
    let started = Instant::now();
    while slow.write_all(&hello[..1]).is_ok() {
        std::thread::sleep(Duration::from_millis(50));
        assert!(started.elapsed() < Duration::from_secs(20), "a slow client is cut off");
    }
    scene.info_with(Whose::Real, "client").ok();
    assert!(server.status("VmHWM") < 64 * 1024, "{} KiB", server.status("VmHWM"));
    while server.descriptors() > descriptors {
        assert!(started.elapsed() < Duration::from_secs(30), "descriptors are given back");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn what_tls_init_makes_works_as_it_says_with_both_tools() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    let init = |args: &[&str]| {
        Ran::of(Whose::Ours.command("qemu-img").arg("tls-init").args(args).current_dir(dir.path()))
    };
    let said = init(&["--host", "localhost", "--client", "backup, nightly", "tls"]).ok();
    assert!(said.contains("nbd-server --object") && said.contains("nbds://localhost/"), "{said}");
    for name in ["tls/ca-key.pem", "tls/server/server-key.pem", "tls/client/client-key.pem"] {
        assert_eq!(mode(&at(name)), 0o600, "{name}");
    }
    let before = fs::read(at("tls/ca-key.pem")).unwrap();
    assert_eq!(init(&["tls"]).code, Some(1));
    assert_eq!(fs::read(at("tls/ca-key.pem")).unwrap(), before);
    // The rule it prints, as typed.
    let rule = said.lines().find_map(|line| line.trim().strip_prefix("--object ")).unwrap();
    let (rule, _) = rule.rsplit_once(" --tls-authz").unwrap();
    let rule = rule.trim_matches('\'');
    fs::write(at("a.raw"), [7; 4096]).unwrap();
    for whose in [Whose::Ours, Whose::Real] {
        let object = "tls-creds-x509,id=tls0,dir=tls/server,endpoint=server";
        let args = [
            "--object",
            object,
            "--object",
            rule,
            "--tls-creds",
            "tls0",
            "--tls-authz",
            "auth0",
            "-t",
            "-f",
            "raw",
            "a.raw",
        ];
        let server = Server::start(whose, dir.path(), &args);
        for asking in [Whose::Ours, Whose::Real] {
            let object = "tls-creds-x509,id=t,dir=tls/client,endpoint=client";
            let image = "driver=nbd,path=nbd.sock,tls-creds=t,tls-hostname=localhost";
            let mut command = asking.command("qemu-img");
            Ran::of(
                command.args(["info", "--object", object, "--image-opts", image]).current_dir(dir.path()),
            )
            .ok();
        }
        server.stop();
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
