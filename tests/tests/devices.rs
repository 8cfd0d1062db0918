//! Block devices, by way of loop devices. Where this machine gives none (no root, no module), the tests say that they
//! were not run.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use tests::{Ran, Whose};

/// A loop device over the file `disk` of a directory.
struct Loop {
    device: String,
    dir: TempDir,
}

impl Loop {
    /// A device of `bytes`, all 0xaa, with logical sectors of `sector` bytes.
    fn new(bytes: usize, sector: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("disk"), vec![0xaa; bytes]).unwrap();
        let sector = sector.to_string();
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--sector-size", &sector, "disk"]).current_dir(dir.path());
        match losetup.output() {
            Ok(done) if done.status.success() => {
                let device = String::from_utf8(done.stdout).unwrap().trim().to_owned();
                Some(Loop { device, dir })
            }
            _ => {
                tests::not_run("this machine gives us no loop device");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `line`, in which `DEV` stands for the device.
    fn run(&self, whose: Whose, line: &str) -> Ran {
        whose.run(self.path(), &line.replace("DEV", &self.device))
    }

    fn both(&self, line: &str) {
        let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| self.run(whose, line));
        assert!(ours.agrees_with(&real), "{line}\n ours {ours}\n real {real}");
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.device).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

const SIZE: usize = (8 << 20) + 4096;

#[test]
fn a_device_is_described_like_the_real_tool_does() {
    for sector in [512, 4096] {
        let Some(dev) = Loop::new(SIZE, sector) else { return };
        for line in [
            "qemu-img info -f raw DEV",
            "qemu-img info --output=json -f raw DEV",
            "qemu-img info --image-opts driver=host_device,filename=DEV",
            "qemu-img map -f raw --output=json DEV",
            "qemu-img measure -O raw -f raw DEV",
            "qemu-img resize -f raw DEV +1M",
            "qemu-img resize -f raw --shrink DEV 1M",
            "qemu-img create -f raw DEV 4M",
            "qemu-img create -f raw DEV 64M",
        ] {
            dev.both(line);
        }
    }
}

#[test]
fn every_request_gives_the_right_bytes_whatever_the_sector_and_the_cache() {
    for (sector, cache) in [(512, "writeback"), (512, "none"), (4096, "none"), (4096, "directsync")] {
        let Some(dev) = Loop::new(SIZE, sector) else { return };
        let line = format!(
            "qemu-io -f raw -t {cache} -c 'write -P 1 0 512' -c 'write -P 2 1000 5000' -c 'write -z 65536 65536' \
             -c 'write -zu 131072 131072' -c 'discard 262144 65536' -c 'write -P 3 8392192 512' -c flush DEV"
        );
        dev.run(Whose::Ours, &line).ok();
        let bytes = dev.bytes();
        assert_eq!(bytes.len(), SIZE, "the size stays");
        let all = |range: std::ops::Range<usize>, byte| bytes[range].iter().all(|b| *b == byte);
        assert!(all(0..512, 1) && all(512..1000, 0xaa) && all(1000..6000, 2) && all(6000..65536, 0xaa));
        assert!(all(65536..262_144, 0), "{sector} {cache}: zeroes");
        assert!(all(327_680..8_392_192, 0xaa) && all(8_392_192..8_392_704, 3), "{sector} {cache}");
    }
}

#[test]
fn discards_give_space_back() {
    let Some(dev) = Loop::new(SIZE, 512) else { return };
    let used = || {
        use std::os::unix::fs::MetadataExt;
        dev.path().join("disk").metadata().unwrap().blocks() * 512
    };
    let before = used();
    dev.run(Whose::Ours, "qemu-io -f raw -d unmap -c 'discard 0 4M' DEV").ok();
    Command::new("sync").arg(dev.path().join("disk")).status().unwrap();
    assert!(used() + (2 << 20) < before, "{} of {before}", used());
}

#[test]
fn images_go_onto_a_device_and_come_back() {
    let Some(dev) = Loop::new(SIZE, 512) else { return };
    let mut source = vec![0; 4 << 20];
    source[..100_000].fill(7);
    source[1 << 20..(1 << 20) + 4096].fill(9);
    fs::write(dev.path().join("src"), &source).unwrap();
    fs::write(dev.path().join("pw"), "letmein").unwrap();

    dev.run(Whose::Ours, "qemu-img convert -n -f raw -O raw src DEV").ok();
    assert!(dev.bytes()[..4 << 20] == source, "zeroes are written where the device held something");
    assert!(dev.bytes()[4 << 20..].iter().all(|b| *b == 0xaa), "what is behind the image is not touched");
    dev.run(Whose::Ours, "qemu-img convert -f raw -O raw DEV out").ok();
    assert!(fs::read(dev.path().join("out")).unwrap() == dev.bytes());

    let secret = "--object secret,id=s,file=pw";
    let image = "driver=luks,key-secret=s,file.driver=host_device,file.filename=DEV";
    dev.run(Whose::Ours, &format!("qemu-img create -q -f luks {secret} -o key-secret=s,iter-time=10 DEV 4M"))
        .ok();
    dev.run(Whose::Ours, &format!("qemu-img convert -n {secret} -f raw --target-image-opts src {image}"))
        .ok();
    for reader in [Whose::Ours, Whose::Real] {
        dev.run(reader, &format!("qemu-img convert {secret} --image-opts {image} -O raw back")).ok();
        assert!(fs::read(dev.path().join("back")).unwrap().starts_with(&source), "{reader:?}");
    }
    let cryptsetup = ["open", "--test-passphrase", "--key-file", "pw", &dev.device];
    let done = Command::new("cryptsetup").args(cryptsetup).current_dir(dev.path()).status().unwrap();
    assert!(done.success());
}
