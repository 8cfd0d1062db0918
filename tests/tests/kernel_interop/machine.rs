//! Our own machine with the stock kernel in it, on KVM: that of a guest whose emulated processor has virtualisation.

use crate::guest;
use crate::luks::{Form, ours};
use std::fs;
use std::os::unix::fs::FileExt;
use tests::boot::{Shape, assemble};
use tests::guest::{Machine, script};

/// A LUKS2 disk with a boot sector, and a file system behind it with files and their sums.
fn disk(machine: &Machine) {
    fs::create_dir(machine.path("tree")).unwrap();
    for (i, size) in [1, 511, 4096, 65537, 1_234_567].into_iter().enumerate() {
        fs::write(machine.path(&format!("tree/{i}")), tests::luks::payload(size)).unwrap();
    }
    machine.tool("sh", &["-c", "cd tree && sha256sum * >SUMS"]);
    machine.tool("truncate", &["-s", "16M", "payload.raw"]);
    machine.tool("mke2fs", &["-q", "-t", "ext4", "-d", "tree", "payload.raw"]);
    // The file system leaves the first two sectors alone.
    let sector = assemble(&machine.path(""), "hello", Shape::Sector);
    let payload = fs::OpenOptions::new().write(true).open(machine.path("payload.raw")).unwrap();
    payload.write_all_at(&sector, 0).unwrap();
    fs::write(machine.path("disk/pw"), "passphrase").unwrap();
    let options = "key-secret=s,version=2,pbkdf=pbkdf2,pbkdf-iterations=1000";
    ours(machine, &format!("qemu-img convert SECRET -f raw -O luks -o {options} payload.raw disk/disk.luks"));
}

#[test]
fn the_stock_kernel_and_a_boot_sector_run_in_our_machine_from_a_luks2_disk() {
    if !Form::Long.is_wanted() {
        return tests::not_run("takes too long; BLOCKIMG_LONG=1 runs it");
    }
    let Some(guest) = guest() else { return };
    let machine = Machine::new(guest);
    disk(&machine);
    fs::copy(tests::bin_dir().join("kvm-runner"), machine.path("job/kvm-runner")).unwrap();
    machine.tool("strip", &["job/kvm-runner"]);
    fs::copy(guest.kernel(), machine.path("job/vmlinuz")).unwrap();
    let job = script("kvm.sh") + "check sector sector\ncheck kernel kernel\ncheck sector sector\n";
    machine.run(&job, 64 << 20).assert_passed(&["sector", "kernel", "sector"].map(str::to_owned));
    // What the inner kernel wrote is in the image, and what was there still is.
    let image = "driver=luks,key-secret=s,file.filename=back/disk.luks";
    ours(&machine, &format!("qemu-img convert SECRET --image-opts -O raw {image} read.raw"));
    machine.tool("e2fsck", &["-fn", "read.raw"]);
    fs::create_dir(machine.path("files")).unwrap();
    machine.tool("debugfs", &["-R", "rdump / files", "read.raw"]);
    machine.tool("sh", &["-c", "cd files && sha256sum -c SUMS RANDOM"]);
    assert_eq!(fs::read(machine.path("files/random")).unwrap().len(), 4 * 512);
}
