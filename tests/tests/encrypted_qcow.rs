//! qcow, and encryption inside qcow2: images of ours and of the real tools, each read by the other.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use tests::Whose::{self, Ours, Real};

/// A disk of 3 MiB with data at both ends of many clusters, and holes.
fn disk() -> Vec<u8> {
    let mut bytes = vec![0; 3 << 20];
    for (i, at) in (1000..bytes.len() - 5000).step_by(150_001).enumerate() {
        let byte = (i + 1).to_le_bytes()[0];
        bytes[at..at + 1500 + i * 100].fill(byte);
    }
    bytes
}

const SECRET: &str = "--object secret,id=s,data=opensesame";

fn reads(whose: Whose, dir: &Path, opts: &str) -> Vec<u8> {
    whose.run(dir, &format!("qemu-img convert {SECRET} --image-opts {opts} -O raw back.raw")).ok();
    fs::read(dir.join("back.raw")).unwrap()
}

/// Every shape of a qcow2 image with LUKS.
const SHAPES: [&str; 7] = [
    "",
    ",cluster_size=512",
    ",cluster_size=2M",
    ",compat=0.10",
    ",preallocation=metadata",
    ",extended_l2=on",
    ",encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv",
];

#[test]
fn qcow2_with_luks_is_read_by_the_other_in_every_shape() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("disk"), disk()).unwrap();
    for (maker, reader) in [(Ours, Real), (Real, Ours)] {
        for shape in SHAPES {
            let options = format!("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10{shape}");
            maker
                .run(
                    dir.path(),
                    &format!("qemu-img convert {SECRET} -f raw -O qcow2 -o {options} disk a.qcow2"),
                )
                .ok();
            let image = "driver=qcow2,encrypt.key-secret=s,file.filename=a.qcow2";
            assert!(reads(reader, dir.path(), image) == disk(), "{maker:?} {shape}");
            assert!(reads(maker, dir.path(), image) == disk(), "{maker:?} {shape}, by itself");
            Real.run(dir.path(), &format!("qemu-img check -q {SECRET} --image-opts {image}")).ok();
        }
    }
}

#[test]
fn a_new_qcow2_image_with_luks_has_everything_where_the_real_tool_has_it() {
    let dir = tempfile::tempdir().unwrap();
    for shape in SHAPES {
        let options = format!("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10{shape}");
        let make = |whose: Whose, name: &str| {
            whose
                .run(dir.path(), &format!("qemu-img create -q {SECRET} -f qcow2 -o {options} {name} 3M"))
                .ok();
            fs::read(dir.path().join(name)).unwrap()
        };
        let (ours, real) = (make(Ours, "ours"), make(Real, "real"));
        assert_eq!(ours.len(), real.len(), "{shape}");
        // Salts and keys differ, inside the first key slot's room; where that is stands in the extension.
        let header = if shape.contains("0.10") { 72 } else { 112 };
        let extension = &real[header + 8..header + 16];
        let start = usize::try_from(u64::from_be_bytes(extension.try_into().unwrap())).unwrap();
        let random = start..start + 4096 + 256_000;
        let same = |(i, (a, b)): (usize, (&u8, &u8))| a == b || random.contains(&i);
        assert!(ours.iter().zip(&real).enumerate().all(same), "{shape}");
    }
}

#[test]
fn encrypted_clusters_are_copied_on_write_at_their_new_place() {
    let dir = tempfile::tempdir().unwrap();
    let create = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let run = |line: &str| Ours.run(dir.path(), line).ok();
    run(&format!("qemu-img create -q {SECRET} -f qcow2 -o {create} base.qcow2 1M"));
    let base = "driver=qcow2,encrypt.key-secret=s,file.filename=base.qcow2";
    run(&format!("qemu-io {SECRET} --image-opts {base} -c 'w -P 3 0 200k'"));
    run(&format!("qemu-img create -q {SECRET} -f qcow2 -o {create} -b base.qcow2 -F qcow2 top.qcow2"));
    let below = "backing.driver=qcow2,backing.encrypt.key-secret=s,backing.file.filename=base.qcow2";
    let top = format!("driver=qcow2,encrypt.key-secret=s,file.filename=top.qcow2,{below}");
    run(&format!("qemu-io {SECRET} --image-opts {top} -c 'w -P 4 70000 1000' -c 'w -z 131072 64k'"));
    let mut expected = vec![0; 1 << 20];
    expected[..200 << 10].fill(3);
    expected[70_000..71_000].fill(4);
    expected[131_072..131_072 + 65_536].fill(0);
    assert!(reads(Real, dir.path(), &top) == expected);
}

#[test]
fn keys_are_added_and_erased_and_the_real_tool_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = format!("{SECRET} --object secret,id=t,data=second");
    let create = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    Ours.run(dir.path(), &format!("qemu-img create -q {SECRET} -f qcow2 -o {create} a.qcow2 1M")).ok();
    let opens = |whose: Whose, id: &str| {
        let image = format!("driver=qcow2,encrypt.key-secret={id},file.filename=a.qcow2");
        whose.run(dir.path(), &format!("qemu-io -r {secrets} --image-opts {image} -c 'r 0 512'")).code
            == Some(0)
    };
    let amend = |id: &str, change: &str| {
        let image = format!("driver=qcow2,encrypt.key-secret={id},file.filename=a.qcow2");
        Ours.run(dir.path(), &format!("qemu-img amend {secrets} --image-opts {image} -o {change}")).ok();
    };
    amend("s", "encrypt.state=active,encrypt.new-secret=t,encrypt.iter-time=10");
    assert!([Ours, Real].into_iter().all(|whose| opens(whose, "s") && opens(whose, "t")));
    amend("t", "encrypt.state=inactive,encrypt.old-secret=s");
    assert!([Ours, Real].into_iter().all(|whose| !opens(whose, "s") && opens(whose, "t")));
}

#[test]
fn luks2_inside_qcow2_and_compression_with_encryption_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("disk"), disk()).unwrap();
    let create = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let both = |line: &str| {
        let [ours, real] = [Ours, Real].map(|whose| whose.run(dir.path(), line));
        assert!(ours.agrees_with(&real), "{line}\n ours {ours}\n real {real}");
        assert_eq!(ours.code, Some(1), "{line}");
    };
    both(&format!("qemu-img convert -c {SECRET} -f raw -O qcow2 -o {create} disk c.qcow2"));
    Real.run(dir.path(), &format!("qemu-img create -q {SECRET} -f qcow2 -o {create} a.qcow2 1M")).ok();
    let good = fs::read(dir.path().join("a.qcow2")).unwrap();
    let damage = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        fs::write(dir.path().join("bad.qcow2"), bad).unwrap();
    };
    // The version. The real tool knows no other than 1 anywhere.
    damage(0x40007, 2);
    let [ours, real] = [Ours, Real].map(|whose| whose.run(dir.path(), "qemu-img info bad.qcow2"));
    assert_eq!((ours.code, real.code), (Some(1), Some(1)), "{ours}\n{real}");
    let sentence = "LUKS2 inside qcow2 is not a standard\n";
    assert!(ours.stderr.starts_with(&format!("qemu-img: Could not open 'bad.qcow2': {sentence}")), "{ours}");
    for line in [
        format!("qemu-img create -q {SECRET} -f qcow2 -o {create},encrypt.version=2 good.qcow2 1M"),
        "qemu-img create -q -f qcow2 -o encrypt.version=2 good.qcow2 1M".to_owned(),
        format!("qemu-img convert {SECRET} -f raw -O qcow2 -o {create},encrypt.version=2 disk good.qcow2"),
        format!("qemu-img measure {SECRET} --size 1M -O qcow2 -o {create},encrypt.version=2"),
    ] {
        fs::write(dir.path().join("good.qcow2"), &good).unwrap();
        let refused = Ours.run(dir.path(), &line);
        assert!(refused.code == Some(1) && refused.stderr.contains(sentence), "{line}\n{refused}");
        assert!(fs::read(dir.path().join("good.qcow2")).unwrap() == good, "{line} touched the image");
    }
    // Magic, and the length and the alignment of the extension.
    for (at, byte) in [(0x40000, b'X'), (126, 0), (134, 0), (134, 2), (126, 2)] {
        damage(at, byte);
        if Real.run(dir.path(), "qemu-img info bad.qcow2").code != Some(0) {
            both("qemu-img info bad.qcow2");
        }
    }
}

#[test]
fn legacy_aes_is_read_and_written_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for format in ["qcow", "qcow2"] {
        let create = format!("{SECRET} -f {format} -o encrypt.format=aes,encrypt.key-secret=s");
        let image = format!("driver={format},encrypt.key-secret=s,file.filename=a");
        Real.run(dir.path(), &format!("qemu-img create -q {create} a 1M")).ok();
        Real.run(dir.path(), &format!("qemu-io {SECRET} --image-opts {image} -c 'w -P 9 1000 90000'")).ok();
        let mut expected = vec![0; 1 << 20];
        expected[1000..91_000].fill(9);
        assert!(reads(Ours, dir.path(), &image) == expected, "{format}");
        for line in [
            format!("qemu-img create -q {create} b 1M"),
            format!("qemu-io {SECRET} --image-opts {image} -c 'w -P 1 0 512'"),
        ] {
            let refused = Ours.run(dir.path(), &line);
            assert!(refused.code == Some(1) && refused.stderr.contains("img rescue"), "{refused}");
        }
        let write = format!("{image},legacy-aes-write=on");
        Ours.run(dir.path(), &format!("qemu-io {SECRET} --image-opts {write} -c 'w -P 8 2048 1000'")).ok();
        expected[2048..3048].fill(8);
        assert!(reads(Real, dir.path(), &image) == expected, "{format}");
        Ours.run(dir.path(), &format!("qemu-img create -q {create},legacy-aes-write=on b 1M")).ok();
        let image = image.replace("filename=a", "filename=b");
        Real.run(
            dir.path(),
            &format!("qemu-io {SECRET} --image-opts {image} -c 'w -P 5 0 1M' -c 'r -P 5 0 1M'"),
        )
        .ok();
    }
}

#[test]
fn qcow_images_are_read_by_the_other_whole_compressed_and_with_a_backing_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("disk"), disk()).unwrap();
    for (maker, reader) in [(Ours, Real), (Real, Ours)] {
        for compress in ["", "-c"] {
            // The real tool ends with status 1 after compressing, though the image is good.
            maker.run(dir.path(), &format!("qemu-img convert {compress} -f raw -O qcow disk base.qcow"));
            assert!(reads(reader, dir.path(), "driver=qcow,file.filename=base.qcow") == disk(), "{maker:?}");
            maker.run(dir.path(), "qemu-img create -q -f qcow -b base.qcow -F qcow top.qcow").ok();
            let line = "qemu-io -f qcow -c 'w -P 0xee 5000 70000' -c 'w -P 0xef 2M 512' top.qcow";
            maker.run(dir.path(), line).ok();
            let mut expected = disk();
            expected[5000..75_000].fill(0xee);
            expected[2 << 20..(2 << 20) + 512].fill(0xef);
            assert!(reads(reader, dir.path(), "driver=qcow,file.filename=top.qcow") == expected, "{maker:?}");
        }
    }
}

#[test]
fn a_new_qcow_image_is_the_real_tools_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("base"), [1; 512]).unwrap();
    for options in ["a 1", "a 4M", "a 10G", "-b base -F raw a", "-b base -F raw a 3G"] {
        let make = |whose: Whose| {
            whose.run(dir.path(), &format!("qemu-img create -q -f qcow {options}")).ok();
            fs::read(dir.path().join("a")).unwrap()
        };
        assert!(make(Ours) == make(Real), "{options}");
    }
}

#[test]
fn committing_into_a_qcow_image_empties_the_one_above() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("disk"), disk()).unwrap();
    let read = |name: &str| reads(Real, dir.path(), &format!("driver=qcow,file.filename={name}"));
    for whose in [Ours, Real] {
        Real.run(dir.path(), "qemu-img convert -f raw -O qcow disk base").ok();
        Real.run(dir.path(), "qemu-img create -q -f qcow -b base -F qcow top").ok();
        Real.run(dir.path(), "qemu-io -f qcow -c 'w -P 0xee 5000 70000' -c 'w -P 0xef 2M 512' top").ok();
        let expected = read("top");
        assert_eq!(whose.run(dir.path(), "qemu-img commit -f qcow top").ok(), "Image committed.\n");
        assert!(read("base") == expected && read("top") == expected, "{whose:?}");
        let len = fs::metadata(dir.path().join("top")).unwrap().len();
        assert!(len < 512, "{whose:?} leaves {len} bytes");
        Real.run(dir.path(), "qemu-io -f qcow -c 'w -P 1 1M 64k' -c 'r -P 0xef 2M 512' top").ok();
    }
}

#[test]
fn legacy_aes_opened_to_read_is_not_reopened_to_write() {
    let dir = tempfile::tempdir().unwrap();
    for format in ["qcow", "qcow2"] {
        let create = format!("{SECRET} -f {format} -o encrypt.format=aes,encrypt.key-secret=s");
        Real.run(dir.path(), &format!("qemu-img create -q {create} a 1M")).ok();
        let before = fs::read(dir.path().join("a")).unwrap();
        let image = format!("driver={format},encrypt.key-secret=s,file.filename=a");
        let line =
            format!("qemu-io -r {SECRET} --image-opts {image} -c 'reopen -w' -c 'w 0 512' -c 'r 0 512'");
        let ran = Ours.run(dir.path(), &line);
        assert!(ran.stderr.contains("img rescue") && ran.stdout.contains("read 512/512"), "{ran}");
        assert!(fs::read(dir.path().join("a")).unwrap() == before, "{format}");
        let allowed = line.replace(",file.", ",legacy-aes-write=on,file.");
        assert!(Ours.run(dir.path(), &allowed).ok().contains("wrote 512/512"), "{format}");
    }
}
