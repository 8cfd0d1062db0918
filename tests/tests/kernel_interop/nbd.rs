//! The kernel's NBD client and our server, in one guest.

use crate::guest;
use crate::luks::{Form, assert_files};
use std::fs;
use tests::Whose::Real;
use tests::certs::{Cert, Shape, folder};
use tests::guest::{Machine, script};

use Form::{Long, Short};

/// One case: its name, the line of the job behind it, and whether it leaves an image.
struct Case(&'static str, Form, &'static str, Leaves);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Image,
    Nothing,
}
use Leaves::{Image, Nothing};

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case("tcp", Short, "client tcp '-b 127.0.0.1' 127.0.0.1", Image),
    Case("unix", Long, "client unix '-k /run/nbd.sock' '-unix /run/nbd.sock'", Image),
    Case("ioctl", Long, "client ioctl '-b 127.0.0.1' '-nonetlink 127.0.0.1'", Image),
    Case("connections", Long, "client connections '-b 127.0.0.1' '-connections 4 127.0.0.1'", Image),
    Case("blocks", Long, "client blocks '-b 127.0.0.1' '-block-size 4096 127.0.0.1'", Image),
    Case("no-go", Long, "client no-go '-b 127.0.0.1' '-g 127.0.0.1'", Image),
    Case("tls", Short, "client tls \"-b 127.0.0.1 $TLS\" \"$CERTIFICATES 127.0.0.1\"", Image),
    Case("refused", Short, "refused", Nothing),
    Case("device", Short, "device device", Image),
    Case("successor", Short, "successor", Nothing),
    Case("trimmed", Long, "trimmed", Nothing),
    Case("killed", Long, "killed killed", Image),
    Case("restarted", Short, "restarted restarted reconnect-delay=60,reconnect-unsafe=on", Image),
    Case("restarted-tls", Short,
        "restarted restarted-tls reconnect-delay=60,reconnect-unsafe=on,tls-creds=tls \"$TLS\" \"$CLIENT\"", Image),
    Case("encrypted", Short, "encrypted encrypted", Nothing),
];

fn credentials(machine: &Machine) {
    let ca = Cert::root(&Shape::ca("ca"));
    let server = Cert::issued(&Shape::server("server").named(&["localhost", "127.0.0.1"]), &ca);
    let client = Cert::issued(&Shape::client("client"), &ca);
    folder(&machine.path("job/server"), &[&ca], "server", Some(&server));
    folder(&machine.path("job/client"), &[&ca], "client", Some(&client));
}

#[test]
fn the_kernels_client_keeps_file_systems_on_our_server_plain_and_over_tls() {
    let Some(guest) = guest() else { return };
    let machine = Machine::new(guest);
    for folder in ["disk/images", "disk/sums"] {
        fs::create_dir(machine.path(folder)).unwrap();
    }
    fs::write(machine.path("job/pw"), "passphrase").unwrap();
    credentials(&machine);
    let cases: Vec<&Case> = CASES.iter().filter(|case| case.1.is_wanted()).collect();
    let job: String = cases.iter().map(|Case(name, _, line, _)| format!("check {name} {line}\n")).collect();
    let console = machine.run(&(script("nbd.sh") + &job), 2 << 30);
    let names: Vec<String> = cases.iter().map(|case| case.0.to_owned()).collect();
    console.assert_passed(&names);
    for Case(name, _, _, leaves) in cases {
        if *leaves == Image {
            Real.run(&machine.path("back/images"), &format!("qemu-img check -q {name}.qcow2")).ok();
            let back = format!("qemu-img convert -O raw back/images/{name}.qcow2 read.raw");
            Real.run(&machine.path(""), &back).ok();
            assert_files(&machine, "read.raw", name);
        }
    }
}
