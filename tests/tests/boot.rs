//! Machines that boot: boot sectors, assembled here, run by `kvm-runner` from every kind of disk. Where this machine has no
//! usable KVM, each test says that it was not run.

#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tests::Whose::{self, Ours, Real};
use tests::boot::{Shape, assemble};
use tests::luks::payload;
use tests::nbd::Server;
use tests::{Ran, bin_dir, words};

const SECTOR: usize = 512;
const DISK: usize = 4096 * SECTOR;
const SECRET: &str = "--object secret,id=s,data=opensesame";

/// Whether guests can run here; says so where they cannot.
fn runs() -> bool {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    kvm.inspect_err(|e| tests::not_run(&format!("/dev/kvm: {e}"))).is_ok()
}

/// A folder with a guest's disk.
struct Scene {
    dir: TempDir,
    disk: Vec<u8>,
}

impl Scene {
    /// The disk `disk.raw` begins with the guest's program; no two other sectors are alike.
    fn new(guest: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = assemble(dir.path(), guest, Shape::Sector);
        let mut disk = payload(DISK);
        disk[..program.len()].copy_from_slice(&program);
        fs::write(dir.path().join("disk.raw"), &disk).unwrap();
        Scene { dir, disk }
    }

    fn run(&self, whose: Whose, line: &str) -> String {
        whose.run(self.dir.path(), &line.replace("SECRET", SECRET)).ok()
    }

    /// Runs `kvm-runner`.
    fn boot(&self, line: &str) -> Ran {
        Ran::of(self.runner(line).stdin(Stdio::null()))
    }

    /// Runs `kvm-runner` and types `keys`.
    fn boot_and_type(&self, line: &str, keys: &str) -> Ran {
        fs::write(self.dir.path().join("keys"), keys).unwrap();
        Ran::of(self.runner(line).stdin(fs::File::open(self.dir.path().join("keys")).unwrap()))
    }

    fn runner(&self, line: &str) -> Command {
        let path = bin_dir().join("kvm-runner");
        assert!(path.exists(), "{} is missing: build it first", path.display());
        let mut command = Command::new(path);
        command.args(["--accel", "kvm", "--timeout", "120"]).args(words(&line.replace("SECRET", SECRET)));
        command.current_dir(self.dir.path());
        command
    }

    /// Changes bytes of the guest's program.
    fn patch(&mut self, from: &[u8], to: &[u8]) {
        let at =
            self.disk.windows(from.len()).position(|window| window == from).expect("the program has them");
        self.disk[at..at + to.len()].copy_from_slice(to);
        fs::write(self.dir.path().join("disk.raw"), &self.disk).unwrap();
    }

    /// The checksum of some sectors, as the guests compute it.
    fn checksum(&self, sectors: std::ops::Range<usize>) -> String {
        let words = self.disk[sectors.start * SECTOR..sectors.end * SECTOR].chunks(2);
        let add =
            |sum: u16, word: &[u8]| sum.rotate_left(1).wrapping_add(u16::from_le_bytes([word[0], word[1]]));
        format!("{:04X}", words.fold(0, add))
    }
}

/// A kind of disk: how `disk.raw` becomes one, and how that is named.
struct Kind {
    make: fn(&Scene) -> Option<Server>,
    /// Arguments of the runner.
    runner: &'static str,
    /// What the real tool reads it back by.
    real: &'static str,
}

const RAW: Kind = Kind { make: |_| None, runner: "-f raw disk.raw", real: "-f raw disk.raw" };

const BACKING: Kind = Kind {
    make: |scene| {
        // The base has the right bytes but for a part, which the overlay has.
        let part = 1000 * SECTOR..1100 * SECTOR;
        fs::write(scene.dir.path().join("part"), &scene.disk[part.clone()]).unwrap();
        let (at, len) = (part.start, part.len());
        scene.run(Real, "qemu-img convert -f raw -O qcow2 disk.raw base.qcow2");
        scene.run(Real, &format!("qemu-io -f qcow2 -c 'w -P 0 {at} {len}' base.qcow2"));
        scene.run(Real, "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
        scene.run(Real, &format!("qemu-io -f qcow2 -c 'w -s part {at} {len}' top.qcow2"));
        None
    },
    runner: "-f qcow2 top.qcow2",
    real: "-f qcow2 top.qcow2",
};

const COMPRESSED: Kind = Kind {
    make: |scene| {
        scene.run(Real, "qemu-img convert -c -f raw -O qcow2 disk.raw c.qcow2");
        None
    },
    runner: "--source driver=qcow2,file.filename=c.qcow2",
    real: "-f qcow2 c.qcow2",
};

const LEGACY_AES: Kind = Kind {
    make: |scene| {
        let options = "encrypt.format=aes,encrypt.key-secret=s";
        scene.run(Real, &format!("qemu-img convert SECRET -f raw -O qcow2 -o {options} disk.raw aes.qcow2"));
        None
    },
    runner: "SECRET --source driver=qcow2,encrypt.key-secret=s,legacy-aes-write=on,file.filename=aes.qcow2",
    real: "SECRET --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=aes.qcow2",
};

const LUKS1: Kind = Kind {
    make: |scene| {
        scene
            .run(Real, "qemu-img convert SECRET -f raw -O luks -o key-secret=s,iter-time=10 disk.raw a.luks");
        None
    },
    runner: "SECRET --image-opts driver=luks,key-secret=s,file.filename=a.luks",
    real: "SECRET --image-opts driver=luks,key-secret=s,file.filename=a.luks",
};

const LUKS2: Kind = Kind {
    make: |scene| {
        // The real tool's header (16 MiB of it), and bytes of ours: it cannot write any without the kernel.
        let file = fs::File::create(scene.dir.path().join("b.luks")).unwrap();
        file.set_len(DISK as u64 + (16 << 20)).unwrap();
        fs::write(scene.dir.path().join("pw"), "opensesame").unwrap();
        let format = "-q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 b.luks pw";
        let mut cryptsetup = Command::new("cryptsetup");
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        Ran::of(cryptsetup.args(words(format)).env("PATH", path).current_dir(scene.dir.path())).ok();
        let target = "driver=luks,key-secret=s,file.filename=b.luks";
        scene.run(Ours, &format!("qemu-img convert -n SECRET -f raw --target-image-opts disk.raw {target}"));
        None
    },
    runner: "SECRET --source driver=luks,key-secret=s,file.filename=b.luks",
    real: "",
};

const NBD_TLS: Kind = Kind {
    make: |scene| {
        scene.run(Ours, "qemu-img tls-init --host localhost --client guest tls");
        let object = "tls-creds-x509,id=t,dir=tls/server,endpoint=server";
        let args = ["--object", object, "--tls-creds", "t", "-t", "-f", "raw", "disk.raw"];
        Some(Server::start(Ours, scene.dir.path(), &args))
    },
    runner: "--object tls-creds-x509,id=t,dir=tls/client,endpoint=client \
             --source driver=raw,file.driver=nbd,file.path=nbd.sock,file.tls-creds=t,file.tls-hostname=localhost",
    real: "-f raw disk.raw",
};

/// Boots from a disk of this kind, reads all of it in every way, and writes to it.
fn boots_from(kind: &Kind) {
    if !runs() {
        return;
    }
    reads_from(kind);
    writes_to(kind);
}

fn reads_from(kind: &Kind) {
    let scene = Scene::new("read");
    let _server = (kind.make)(&scene);
    let [chs, lba, last] = [1..101, 1..2001, 4095..4096].map(|sectors| scene.checksum(sectors));
    let says = format!("CHS {chs} LBA {lba} LAST {last} OK");
    let ran = scene.boot(&format!("--expect '{says}' --screen screen --read-only {}", kind.runner));
    assert_eq!(ran.code, Some(0), "{says}: {ran}");
    // The run ends at the last letter.
    assert_eq!(fs::read_to_string(scene.dir.path().join("screen")).unwrap().trim_end(), says);
}

fn writes_to(kind: &Kind) {
    let mut scene = Scene::new("write");
    let server = (kind.make)(&scene);
    let ran = scene.boot(kind.runner);
    assert_eq!((ran.code, &ran.stdout[..]), (Some(0), "WRITTEN OK\r\n"), "{ran}");
    if let Some(server) = server {
        assert_eq!(server.stop(), Some(0));
    }
    let sector: Vec<u8> = scene.disk[SECTOR..2 * SECTOR].iter().map(|byte| !byte).collect();
    for at in [70, 300] {
        scene.disk[at * SECTOR..(at + 1) * SECTOR].copy_from_slice(&sector);
    }
    // The real tool knows no LUKS2.
    let (whose, image) = if kind.real.is_empty() {
        (Ours, kind.runner.replace("--source", "--image-opts"))
    } else {
        (Real, kind.real.to_owned())
    };
    scene.run(whose, &format!("qemu-img convert {image} -O raw back.raw"));
    let back = fs::read(scene.dir.path().join("back.raw")).unwrap();
    let differs =
        (0..DISK / SECTOR).find(|at| back[at * SECTOR..][..SECTOR] != scene.disk[at * SECTOR..][..SECTOR]);
    assert_eq!((back.len(), differs), (DISK, None));
}

#[test]
fn a_boot_sector_reads_and_writes_a_raw_disk() {
    boots_from(&RAW);
}

#[test]
fn a_boot_sector_reads_and_writes_a_qcow2_image_with_a_backing_file() {
    boots_from(&BACKING);
}

#[test]
fn a_boot_sector_reads_and_writes_a_compressed_qcow2_image() {
    boots_from(&COMPRESSED);
}

#[test]
fn a_boot_sector_reads_and_writes_a_qcow2_image_with_legacy_encryption() {
    boots_from(&LEGACY_AES);
}

#[test]
fn a_boot_sector_reads_and_writes_a_luks1_image() {
    boots_from(&LUKS1);
}

#[test]
fn a_boot_sector_reads_and_writes_a_luks2_image() {
    boots_from(&LUKS2);
}

#[test]
fn a_boot_sector_reads_and_writes_a_disk_behind_nbd_and_tls() {
    boots_from(&NBD_TLS);
}

#[test]
fn the_emulator_and_its_firmware_read_the_same_from_the_same_disk() {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        return tests::not_run("qemu-system-x86_64 is not installed (scripts/peers)");
    }
    let scene = Scene::new("read");
    let _server = (LUKS2.make)(&scene);
    let [chs, lba, last] = [1..101, 1..2001, 4095..4096].map(|sectors| scene.checksum(sectors));
    // That firmware keeps the last letters to itself until more follow.
    let says = format!("CHS {chs} LBA {lba} LAST {last}");
    let ran = scene.boot(&format!("--accel tcg --expect '{says}' --read-only {}", LUKS2.runner));
    assert_eq!(ran.code, Some(0), "{says}: {ran}");
}

#[test]
fn a_guest_drives_the_virtio_disk_by_itself() {
    if !runs() {
        return;
    }
    for (name, kind) in [("compressed qcow2", COMPRESSED), ("LUKS2", LUKS2)] {
        let mut scene = Scene::new("virtio");
        let _server = (kind.make)(&scene);
        let ran = scene.boot(kind.runner);
        let says = format!("VIRTIO {} OK\r\n", scene.checksum(1..2001));
        assert_eq!((ran.code, &ran.stdout), (Some(0), &says), "{name}: {ran}");
        // It has written the last 50 sectors that it read to another place, turned over.
        let written: Vec<u8> = scene.disk[1951 * SECTOR..2001 * SECTOR].iter().map(|byte| !byte).collect();
        scene.disk[2500 * SECTOR..2550 * SECTOR].copy_from_slice(&written);
        scene.run(
            Ours,
            &format!("qemu-img convert {} -O raw back.raw", kind.runner.replace("--source", "--image-opts")),
        );
        assert!(fs::read(scene.dir.path().join("back.raw")).unwrap() == scene.disk, "{name}");
    }
}

#[test]
fn a_kernel_finds_what_the_boot_protocol_promises() {
    if !runs() {
        return;
    }
    let scene = Scene::new("stuck");
    assemble(scene.dir.path(), "kernel", Shape::Kernel);
    fs::write(scene.dir.path().join("initrd"), "the initial RAM disk").unwrap();
    let ran = scene.boot("--cpus 2 --kernel guest --initrd initrd --append 'hello world' -f raw disk.raw");
    assert_eq!(
        (ran.code, ran.stdout),
        (Some(0), "hello world|the initial RAM disk".to_owned()),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_boot_sector_that_asks_for_the_impossible_is_answered_and_one_without_a_stack_ended() {
    if !runs() {
        return;
    }
    let scene = Scene::new("wild");
    let ran = scene.boot("--memory 1 -f raw disk.raw");
    // B: no such thing; E: no such sector; J: no such buffer.
    assert_eq!((ran.code, &ran.stdout[..]), (Some(2), "BBBBEJJBEEEJBB"), "{ran}");
    assert!(ran.stderr.ends_with("the guest crashed: its stack is not inside the memory\n"), "{ran}");
    assert!(fs::read(scene.dir.path().join("disk.raw")).unwrap() == scene.disk, "nothing was written");
}

#[test]
fn a_driver_whose_rings_lead_nowhere_is_ended() {
    if !runs() {
        return;
    }
    // The first descriptor of its requests: header, 16 bytes, one follows, which is the second. And the second's buffer.
    let header = [0, 0x30, 1, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 1, 0];
    let itself = [0, 0x30, 1, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0];
    let data = [0, 0, 2, 0, 0, 0, 0, 0, 0, 100, 0, 0];
    let nowhere = [0, 0, 0, 0xff, 0, 0, 0, 0, 0, 100, 0, 0];
    let endless = [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0xff];
    for (from, to, why) in [
        (&header[..], &itself[..], "the buffers of a request loop or are too long"),
        (&data, &nowhere, "a buffer is not inside the memory"),
        (&data, &endless, "a buffer is not inside the memory"),
    ] {
        let mut scene = Scene::new("virtio");
        scene.patch(from, to);
        let ran = scene.boot("-f raw disk.raw");
        let says = format!("kvm-runner: the guest crashed: virtio-blk 0: {why}\n");
        assert_eq!((ran.code, ran.stderr), (Some(2), says));
        assert!(fs::read(scene.dir.path().join("disk.raw")).unwrap() == scene.disk, "nothing was written");
    }
}

#[test]
fn what_is_typed_comes_in_by_the_firmware_and_by_the_serial_port() {
    if !runs() {
        return;
    }
    let scene = Scene::new("keys");
    let ran = scene.boot_and_type("-f raw disk.raw", "typed in q not this");
    assert_eq!((ran.code, &ran.stdout[..]), (Some(0), "typed in "), "{ran}");
    // A guest that waits for a key that cannot come does not wait for ever.
    let ran = scene.boot_and_type("-f raw disk.raw", "typed");
    assert_eq!((ran.code, &ran.stdout[..]), (Some(0), "typed"), "{ran}");
    assemble(scene.dir.path(), "serial", Shape::Kernel);
    let many = "0123456789".repeat(50);
    let ran = scene.boot_and_type("--kernel guest", &format!("{many}q"));
    assert_eq!((ran.code, &ran.stdout), (Some(0), &many), "{ran}");
}

#[test]
fn a_second_disk_is_the_second_for_the_guest_too() {
    if !runs() {
        return;
    }
    let scene = Scene::new("second");
    let mut other = b"the other disk\0".to_vec();
    other.resize(1 << 20, 0);
    fs::write(scene.dir.path().join("other.raw"), other).unwrap();
    scene.run(Real, "qemu-img convert -f raw -O qcow2 other.raw other.qcow2");
    // Options come before names, whatever their order.
    let options =
        "--image-opts driver=qcow2,file.filename=other.qcow2 --source driver=raw,file.filename=disk.raw";
    let ran = scene.boot(options);
    assert_eq!((ran.code, &ran.stdout[..]), (Some(0), "the other disk"), "{ran}");
}

#[test]
fn the_exit_status_tells_how_a_guest_ended() {
    if !runs() {
        return;
    }
    let status = |guest: &str, line: &str| {
        let ran = Scene::new(guest).boot(line);
        (ran.code, ran.stderr)
    };
    assert_eq!(status("write", "-f raw disk.raw"), (Some(0), String::new()));
    assert_eq!(status("write", "--expect WRITTEN -f raw disk.raw"), (Some(0), String::new()));
    let (code, text) = status("write", "--expect SOMETHING -f raw disk.raw");
    assert_eq!((code, &text[..]), (Some(2), "kvm-runner: the guest ended without the expected text\n"));
    let (code, text) = status("fault", "-f raw disk.raw");
    assert!(code == Some(2) && text.starts_with("kvm-runner: the guest crashed: "), "{text}");
    let (code, text) = status("stuck", "--timeout 1 --expect OK -f raw disk.raw");
    assert_eq!((code, &text[..]), (Some(3), "kvm-runner: the expected text did not come in time\n"));
}

#[test]
fn a_disk_that_may_only_be_read_and_one_that_does_not_boot_are_told() {
    if !runs() {
        return;
    }
    let scene = Scene::new("write");
    let ran = scene.boot("--read-only -f raw disk.raw");
    assert_eq!((ran.code, &ran.stdout[..]), (Some(0), "FAILED 0003"), "{ran}");
    fs::write(scene.dir.path().join("empty"), [0; 4096]).unwrap();
    let ran = scene.boot("-f raw empty");
    assert!(ran.code == Some(1) && ran.stderr.contains("the signature 55 aa is missing"), "{ran}");
}

#[test]
fn a_kernel_of_a_distribution_is_refused_where_it_would_hang() {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap();
    let hardware = flags.split_whitespace().any(|word| matches!(word, "vmx" | "svm"));
    if hardware {
        return tests::not_run("no kernel hangs on this machine");
    }
    if !runs() {
        return;
    }
    let scene = Scene::new("stuck");
    let mut kernel = vec![0; 4096];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    fs::write(scene.dir.path().join("bzImage"), kernel).unwrap();
    let ran = scene.boot("--kernel bzImage");
    assert!(ran.code == Some(1) && ran.stderr.contains("without hardware virtualisation"), "{ran}");
    assert!(ran.stderr.contains("--accel tcg"), "{ran}");
}
