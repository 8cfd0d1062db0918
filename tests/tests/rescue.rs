//! `img rescue`: images with legacy AES, made by the real tools, come out byte for byte under LUKS or plain, and the
//! sources stay as they were.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use tempfile::TempDir;
use tests::Whose::{Ours, Real};

/// A disk of 4 MiB: a partition table, text, noise, and holes.
fn disk() -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    (bytes[446], bytes[450], bytes[458], bytes[510], bytes[511]) = (0x80, 0x83, 1, 0x55, 0xaa);
    let text = b"All that is gold does not glitter. ".iter().copied().cycle();
    bytes[100_000..300_000].iter_mut().zip(text).for_each(|(to, from)| *to = from);
    let mut x = 7u64;
    bytes[2 << 20..(2 << 20) + 700_000].fill_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        x.to_be_bytes()[0]
    });
    bytes
}

struct Bench {
    dir: TempDir,
    passphrase: &'static str,
}

impl Bench {
    fn new(passphrase: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pw"), passphrase).unwrap();
        fs::write(dir.path().join("new"), "a better one").unwrap();
        fs::write(dir.path().join("disk.raw"), disk()).unwrap();
        Bench { dir, passphrase }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn real(&self, line: &str) -> String {
        Real.run(self.path(), &format!("{line} --object secret,id=old,file=pw")).ok()
    }

    /// Has the real tool make `name` with these creation options and put the disk into it.
    fn make(&self, name: &str, format: &str, options: &str) {
        self.real(&format!(
            "qemu-img create -q -f {format} -o encrypt.format=aes,encrypt.key-secret=old{options} {name} 4M"
        ));
        self.real(&format!(
            "qemu-img convert -n -f raw --target-image-opts disk.raw driver={format},encrypt.key-secret=old,file.filename={name}"
        ));
    }

    fn rescue(&self, line: &str) -> tests::Ran {
        let secrets = "--object secret,id=old,file=pw --object secret,id=new,file=new";
        Ours.run(
            self.path(),
            &format!("qemu-img rescue {secrets} --key-secret old --new-secret new --iter-time 10 {line}"),
        )
    }

    /// What the real tool reads from a rescued qcow2 image whose backing file, if any, is one too.
    fn contents(&self, opts: &str) -> Vec<u8> {
        let secret = "--object secret,id=new,file=new";
        Real.run(self.path(), &format!("qemu-img convert {secret} --image-opts {opts} -O raw back.raw")).ok();
        fs::read(self.path().join("back.raw")).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap()
    }
}

const LUKS: &str = "driver=qcow2,encrypt.key-secret=new,file.filename";

#[test]
fn every_kind_of_legacy_image_is_rescued_and_none_is_touched() {
    // Longer than the key, and not ASCII.
    let bench = Bench::new("pässwörd, länger als sechzehn Bytes");
    let kinds = [
        ("a.qcow", "qcow", ""),
        ("b.qcow2", "qcow2", ""),
        ("c.qcow2", "qcow2", ",cluster_size=4k"),
        ("d.qcow2", "qcow2", ",cluster_size=2M,compat=0.10"),
        ("e.qcow2", "qcow2", ",extended_l2=on"),
    ];
    fs::create_dir(bench.path().join("old")).unwrap();
    for (name, format, options) in kinds {
        bench.make(&format!("old/{name}"), format, options);
    }
    fs::write(bench.path().join("old/unrelated.txt"), "nothing").unwrap();
    let before: Vec<_> = kinds.iter().map(|(name, ..)| bench.bytes(&format!("old/{name}"))).collect();
    let report = bench.rescue("-d out --output json old").ok();
    assert_eq!(report.matches("\"status\": \"rescued\"").count(), kinds.len(), "{report}");
    assert_eq!(report.matches("\"certainty\": \"certain\"").count(), kinds.len(), "{report}");
    for ((name, ..), before) in kinds.iter().zip(&before) {
        let stem = name.split('.').next().unwrap();
        assert!(bench.contents(&format!("{LUKS}=out/{stem}.qcow2")) == disk(), "{name}");
        assert!(bench.bytes(&format!("old/{name}")) == *before, "{name} was touched");
        let len = fs::metadata(bench.path().join(format!("out/{stem}.qcow2"))).unwrap().len();
        // Holes stay holes: the disk has less than 1 MiB of data, and the header takes 2 MiB.
        assert!(len < 4 << 20 || stem == "d", "{name}: {len}");
    }
    // Again: everything is there.
    let report = bench.rescue("-d out old").ok();
    assert_eq!(report.matches("rescued before").count(), kinds.len(), "{report}");
}

#[test]
fn compressed_clusters_are_rescued_and_so_are_raw_and_luks_made() {
    let bench = Bench::new("short");
    bench.make("a.qcow2", "qcow2", "");
    let io = "driver=qcow2,encrypt.key-secret=old,file.filename=a.qcow2";
    bench.real(&format!("qemu-io --image-opts {io} -c 'write -c -P 0x55 1M 64k'"));
    let mut expected = disk();
    expected[1 << 20..(1 << 20) + 65536].fill(0x55);
    bench.rescue("-d raw -O raw a.qcow2").ok();
    assert!(bench.bytes("raw/a.raw") == expected);
    bench.rescue("-d luks -O luks a.qcow2").ok();
    assert!(bench.contents("driver=luks,key-secret=new,file.filename=luks/a.luks") == expected);
}

#[test]
fn a_chain_stays_a_chain_and_snapshots_come_when_they_are_asked_for() {
    let bench = Bench::new("swordfish");
    bench.make("base.qcow2", "qcow2", "");
    bench.real(
        "qemu-img create -q -u -f qcow2 -b base.qcow2 -F qcow2 -o encrypt.format=aes,encrypt.key-secret=old top.qcow2 4M",
    );
    let base = "backing.driver=qcow2,backing.encrypt.key-secret=old,backing.file.filename=base.qcow2";
    let top = format!("driver=qcow2,encrypt.key-secret=old,file.filename=top.qcow2,{base}");
    bench.real(&format!("qemu-io --image-opts {top} -c 'write -P 0 0 512' -c 'write -P 0x77 3M 1k'"));
    bench.real(&format!("qemu-img snapshot -c first --image-opts {top}"));
    bench.real(&format!("qemu-io --image-opts {top} -c 'write -P 0x78 3M 1k'"));
    let report = bench.rescue("-d out -l top.qcow2").ok();
    assert_eq!(report.matches(" rescued ").count(), 3, "{report}");
    let mut expected = disk();
    expected[..512].fill(0);
    expected[3 << 20..(3 << 20) + 1024].fill(0x78);
    let chain = |name: &str| {
        let base = "backing.driver=qcow2,backing.encrypt.key-secret=new,backing.file.filename=out/base.qcow2";
        bench.contents(&format!("{LUKS}=out/{name},{base}"))
    };
    assert!(chain("top.qcow2") == expected);
    let info = Real.run(bench.path(), "qemu-img info out/top.qcow2").ok();
    assert!(info.contains("backing file: base.qcow2"), "{info}");
    expected[3 << 20..(3 << 20) + 1024].fill(0x77);
    assert!(chain("top.snapshot-1.qcow2") == expected);
}

#[test]
fn a_wrong_passphrase_is_noticed_before_anything_is_written() {
    let bench = Bench::new("right");
    bench.make("a.qcow", "qcow", "");
    fs::write(bench.path().join("pw"), "wrong").unwrap();
    let refused = bench.rescue("-d out a.qcow");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stdout.contains("the passphrase seems to be wrong"), "{refused}");
    assert_eq!(fs::read_dir(bench.path().join("out")).unwrap().count(), 0);
    let forced = bench.rescue("-d out --force a.qcow");
    assert_eq!(forced.code, Some(0), "{forced}");
    assert!(bench.contents(&format!("{LUKS}=out/a.qcow2")) != disk());
    assert_eq!(bench.passphrase, "right");
}

#[test]
fn a_partial_image_is_completed_for_its_own_source_and_for_no_other() {
    let bench = Bench::new("swordfish");
    bench.make("a.qcow2", "qcow2", "");
    bench.rescue("-d out a.qcow2").ok();
    // As an interrupted run leaves it: created, nothing known to be durable.
    let (target, partial) = (bench.path().join("out/a.qcow2"), bench.path().join("out/a.qcow2.partial"));
    let record = bench.path().join("out/a.qcow2.rescue.json");
    fs::rename(&target, &partial).unwrap();
    let interrupted =
        fs::read_to_string(&record).unwrap().replace("\"complete\": true", "\"complete\": false");
    let at_start = interrupted.replace("\"position\": 4194304", "\"position\": 0");
    assert_ne!(interrupted, at_start);
    fs::write(&record, at_start).unwrap();
    bench.rescue("-d out a.qcow2").ok();
    assert!(bench.contents(&format!("{LUKS}=out/a.qcow2")) == disk());
    // The source changed since.
    fs::rename(&target, &partial).unwrap();
    fs::write(&record, interrupted).unwrap();
    let io = "driver=qcow2,encrypt.key-secret=old,file.filename=a.qcow2";
    bench.real(&format!("qemu-io --image-opts {io} -c 'write -P 1 1M 64k'"));
    let refused = bench.rescue("-d out a.qcow2");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stdout.contains("was begun for something else"), "{refused}");
}

#[test]
fn what_is_not_legacy_is_refused_and_what_exists_is_not_overwritten() {
    let bench = Bench::new("swordfish");
    bench.real("qemu-img create -q -f qcow2 plain.qcow2 1M");
    let refused = bench.rescue("-d out plain.qcow2");
    assert!(
        refused.code == Some(1) && refused.stdout.contains("not encrypted with the legacy AES"),
        "{refused}"
    );
    bench.make("a.qcow2", "qcow2", "");
    fs::write(bench.path().join("out/a.qcow2"), "precious").unwrap();
    let refused = bench.rescue("-d out a.qcow2");
    assert!(refused.code == Some(1) && refused.stdout.contains("exists already"), "{refused}");
    assert_eq!(bench.bytes("out/a.qcow2"), b"precious");
}
