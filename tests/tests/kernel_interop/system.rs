//! A small system that boots from every form of its disk, and finds the same files.

use crate::guest;
use crate::luks::ours;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use tests::Whose::Ours;
use tests::certs::{Cert, Shape, folder};
use tests::guest::{Machine, script};
use tests::luks::payload;
use tests::nbd::Server;
use tests::words;

/// Bytes of the disk.
const SIZE: u64 = 48 << 20;

/// What the disk is turned into, one after the other: a name, how it is converted from the one before, how it is opened.
const FORMS: &[(&str, &str, &str)] = &[
    ("raw", "", "driver=raw,file.filename=a.raw"),
    ("qcow2", "-f raw -O qcow2 a.raw a.qcow2", "driver=qcow2,file.filename=a.qcow2"),
    (
        "qcow2 with LUKS inside",
        "-O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1 a.qcow2 b.qcow2",
        "driver=qcow2,file.filename=b.qcow2,encrypt.key-secret=s",
    ),
    (
        "LUKS2",
        "--image-opts -O luks -o key-secret=s,version=2,pbkdf=pbkdf2,pbkdf-iterations=1000 \
         driver=qcow2,file.filename=b.qcow2,encrypt.key-secret=s a.luks",
        "driver=luks,file.filename=a.luks,key-secret=s",
    ),
];

/// busybox under all its names, and files of all sizes, kinds and rights.
fn tree(machine: &Machine) {
    for folder in ["bin", "sbin", "proc", "dev", "sys", "tmp", "var", "usr/share/deep/er/still", "etc"] {
        fs::create_dir_all(machine.path(&format!("tree/{folder}"))).unwrap();
    }
    machine.tool(
        "sh",
        &["-c", "cp $(command -v busybox) tree/bin/ && cp -r /usr/share/common-licenses tree/usr/share/"],
    );
    for name in machine.tool("busybox", &["--list"]).lines().filter(|name| *name != "busybox") {
        symlink("busybox", machine.path(&format!("tree/bin/{name}"))).unwrap();
    }
    for (i, size) in [0, 1, 4095, 4096, 70_001, 5_000_000].into_iter().enumerate() {
        let path = machine.path(&format!("tree/usr/share/deep/er/{i}"));
        fs::write(&path, payload(size)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400 + i as u32)).unwrap();
    }
    fs::write(machine.path("tree/sbin/init"), script("system-init")).unwrap();
    fs::set_permissions(machine.path("tree/sbin/init"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Boots a disk, and gives what the system says of itself: its fingerprint, and how often it has booted.
fn boot(machine: &Machine, name: &str, disk: &[&str]) -> (String, String) {
    let console = machine.boot(disk, "root=/dev/vda");
    let [fingerprint, boots] = ["fingerprint", "boots"].map(|key| console.said(key).concat());
    assert_eq!(console.said("end"), ["0"], "{name}: {}", console.0);
    // Two sums and a blank.
    assert_eq!(fingerprint.len(), 129, "{name}: {}", console.0);
    (fingerprint, boots)
}

/// A server of the LUKS image that lets in who has a certificate; and what a client needs.
fn over_tls(machine: &Machine, luks: &str) -> (Server, Vec<String>) {
    let ca = Cert::root(&Shape::ca("ca"));
    let server = Cert::issued(&Shape::server("server").named(&["localhost"]), &ca);
    let client = Cert::issued(&Shape::client("client"), &ca);
    folder(&machine.path("server"), &[&ca], "server", Some(&server));
    folder(&machine.path("client"), &[&ca], "client", Some(&client));
    let words = words(&format!(
        "--object secret,id=s,file=../disk/pw --object tls-creds-x509,id=t,endpoint=server,dir=. --tls-creds t \
         --source {}",
        luks.replace("file.filename=", "file.filename=../")
    ));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let server = Server::start(Ours, &machine.path("server"), &words);
    let source = format!(
        "--object tls-creds-x509,id=t,endpoint=client,dir=client --source \
         driver=nbd,server.type=unix,server.path={},tls-creds=t,tls-hostname=localhost",
        server.socket().display()
    );
    (server, self::words(&source))
}

#[test]
fn a_system_boots_from_every_form_of_its_disk_and_finds_the_same_files() {
    let Some(guest) = guest() else { return };
    let machine = Machine::new(guest);
    fs::write(machine.path("disk/pw"), "passphrase").unwrap();
    tree(&machine);
    machine.tool("truncate", &["-s", &SIZE.to_string(), "a.raw"]);
    machine.tool("mke2fs", &["-q", "-t", "ext4", "-d", "tree", "a.raw"]);
    let mut first = None;
    for (i, (name, convert, source)) in FORMS.iter().enumerate() {
        if !convert.is_empty() {
            ours(&machine, &format!("qemu-img convert SECRET {convert}"));
        }
        let disk = ["--object", "secret,id=s,file=disk/pw", "--source", source];
        let (fingerprint, boots) = boot(&machine, name, &disk);
        assert_eq!(*first.get_or_insert_with(|| fingerprint.clone()), fingerprint, "{name}");
        assert_eq!(boots, (i + 1).to_string(), "{name}");
    }
    let (.., luks) = FORMS[FORMS.len() - 1];
    let (_server, disk) = over_tls(&machine, luks);
    let disk: Vec<&str> = disk.iter().map(String::as_str).collect();
    let (fingerprint, boots) = boot(&machine, "served over TLS", &disk);
    assert_eq!(first, Some(fingerprint));
    assert_eq!(boots, (FORMS.len() + 1).to_string());
}
