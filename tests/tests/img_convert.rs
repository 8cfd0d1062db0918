//! `img convert` beside the real tool: what it refuses, what it writes, and what is left when it cannot finish.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use tests::{Pair, Whose};

/// A mebibyte with data, zeroes that are stored, and (after conversion) holes.
fn picture() -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    bytes[..4096].fill(1);
    bytes[65536..131_072].fill(2);
    bytes[262_144..262_656].fill(3);
    bytes[307_200] = 4;
    bytes[1_047_000..].fill(5);
    bytes
}

fn with_pictures() -> Pair {
    let pair = Pair::new();
    pair.write("dense", &picture());
    pair.write("odd", &picture()[..70_001]);
    pair.write("full", &vec![0xaa; 1 << 20]);
    pair.prepare("qemu-img convert -f raw -O raw dense sparse");
    pair.prepare("qemu-img create -q -f raw hole 2M");
    pair.prepare("qemu-img create -q -f raw empty 0");
    pair
}

#[test]
fn options_that_make_no_sense_are_refused_alike() {
    let pair = with_pictures();
    let lines: Vec<_> = [
        "-S 100",
        "-S 17M",
        "-S -1",
        "-m 0",
        "-m 17",
        "-m x",
        "-m 4k",
        "-r -1",
        "-T foo",
        "-n -o size=1",
        "-C -c",
        "-C -S 4k",
        "-C -S 0 --salvage",
        "-C --salvage",
        "-c",
        "-n -c",
        "-c -O luks",
        "-B x",
        "-B x -F raw",
        "-F raw",
        "-l x",
        "-l ''",
        "-l snapshot.id=1",
        "-l snapshot.foo=1",
        "-o foo=1",
        "-o ,,",
        "-o help",
        "-o ?",
        "-O foo",
        "-O foo -c",
        "-O foo -o x=y",
        "-n -O foo",
        "-f foo",
        "-O luks -B x",
        "-O luks",
        "--target-image-opts",
        "--target-image-opts -o a=b",
        "--target-is-zero",
        "-n --target-image-opts -O raw",
        "-n --target-image-opts",
        "-n",
        "--bitmaps",
        "-n --bitmaps",
        "--skip-broken-bitmaps",
        "-o backing_file=x",
        "--image-opts",
        "--image-opts -f raw",
        "-n -o help",
    ]
    .into_iter()
    .map(|options| format!("convert {options} dense nosuch"))
    .collect();
    pair.check(&lines);
    pair.check(&[
        "convert",
        "convert dense",
        "convert nosuch out",
        "convert -O foo nosuch out",
        "convert dense nosuch/out",
        "convert -l x dense full out",
        "convert --bitmaps dense full out",
        "convert dense foo:out",
        "convert foo:dense out",
        "convert -n dense foo:out",
        "convert -n hole full",
        "convert -o help",
        "convert -O foo -o help",
        "convert -o help x y z",
        "convert dense sparse --bogus",
    ]);
}

/// Runs `convert` with these words on both sides; the target must come out the same, holes included.
fn same_target(pair: &Pair, words: &str, target: &str) {
    let [ours, real] = same_bytes(pair, words, target);
    assert_eq!(ours, real, "{words}: the holes differ");
}

/// Runs `convert` with these words on both sides; the target must hold the same bytes. Gives what the targets are made
/// of.
fn same_bytes(pair: &Pair, words: &str, target: &str) -> [String; 2] {
    let [ours, real] = pair.run(&format!("qemu-img convert {words} {target}"));
    assert_eq!(ours, real, "{words}");
    let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| {
        let bytes = fs::read(pair.dir(whose).join(target)).unwrap();
        let map = Whose::Real.run(pair.dir(whose), &format!("qemu-img map -f raw --output=json {target}"));
        (bytes, map.ok())
    });
    assert!(ours.0 == real.0, "{words}: the bytes differ");
    [ours.1, real.1]
}

#[test]
fn copy_offloading_keeps_what_is_stored() {
    let pair = with_pictures();
    for source in ["dense", "sparse", "odd", "hole", "empty", "hole odd empty sparse"] {
        same_target(&pair, &format!("-f raw -O raw -C {source}"), "out");
    }
}

#[test]
fn offloaded_copies_are_the_source_byte_for_byte() {
    let pair = Pair::new();
    // Longer than what is copied at once, with an end that is no whole sector.
    let bytes: Vec<u8> = (0..5_000_001u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    pair.write("big", &bytes);
    pair.prepare("qemu-img convert -f raw -O qcow2 big big.qcow2");
    pair.prepare("qemu-io -f qcow2 -c 'write -P 7 3M 100' -c 'discard 64k 64k' big.qcow2");
    for words in [
        "-C -f raw -O raw big",
        "-C -f qcow2 -O raw big.qcow2",
        "-C -W -m 3 -f qcow2 -O raw big.qcow2",
        "-C -O raw --image-opts driver=raw,offset=1536,size=3M,file.filename=big",
        "-C -O raw --image-opts driver=raw,file.driver=blkdebug,file.image.filename=big",
        "-C -f raw -O qcow2 big",
        "-C -f raw -O qcow2 -o cluster_size=512 big",
        "-C -f qcow2 -O qcow2 big.qcow2",
        "-C -f qcow2 -O qcow2 -o extended_l2=on,cluster_size=2M big.qcow2",
    ] {
        same_bytes(&pair, words, "out");
    }
    for format in ["raw", "qcow2"] {
        let line = format!("qemu-img -T node_copy convert -C -f raw -O {format} big out");
        let ran = Whose::Ours.run(pair.dir(Whose::Ours), &line);
        let copied = |line: &str| line.contains(&format!(" driver {format} ")) && line.ends_with(": ok");
        assert!(ran.code == Some(0) && ran.stderr.lines().all(|line| line.ends_with(": ok")), "{ran}");
        assert!(ran.stderr.lines().any(copied), "{ran}");
    }
}

#[test]
fn targets_have_the_same_bytes_and_the_same_holes() {
    let pair = with_pictures();
    for options in
        ["", "-S 0", "-S 512", "-S 64k", "-S 16M", "-W", "-m 1", "-m 16 -W", "--salvage", "-r 100M"]
    {
        for source in ["dense", "sparse", "odd", "hole", "empty", "sparse odd dense", "hole odd empty sparse"]
        {
            same_target(&pair, &format!("-f raw -O raw {options} {source}"), "out");
        }
    }
    for options in [
        "-o preallocation=falloc",
        "-o preallocation=full",
        "-o preallocation=full -S 0",
        "-o size=5M",
        "-t none",
        "-T none -t directsync",
    ] {
        same_target(&pair, &format!("{options} sparse"), "out");
    }
}

/// What `image` stores, as the real tool sees it, without where.
fn stored(whose: Whose, pair: &Pair, image: &str) -> String {
    let map = Whose::Real.run(pair.dir(whose), &format!("qemu-img map --output=json {image}")).ok();
    map.lines().map(|line| line.split(", \"offset\"").next().unwrap_or_default().to_owned() + "\n").collect()
}

#[test]
fn zeroes_are_left_out_in_the_units_of_the_real_tool() {
    let pair = Pair::new();
    let mut bytes = vec![0; 5 << 20];
    for sector in [20, 57, 84, 130, 8175, 8210, 4090, 4092, 4116] {
        bytes[sector * 512..][..512].fill(7);
    }
    pair.write("scattered", &bytes);
    for sparse in ["0", "512", "1536", "4k", "8k", "12k", "20k", "64k"] {
        for options in ["-o cluster_size=512", "-o cluster_size=4k", "-c -o cluster_size=1k"] {
            let line = format!("qemu-img convert -f raw -O qcow2 -S {sparse} {options} scattered out");
            let [ours, real] = pair.run(&line);
            assert_eq!(ours, real, "{line}");
            let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| stored(whose, &pair, "out"));
            assert_eq!(ours, real, "{line}");
        }
    }
}

#[test]
fn an_image_that_allocates_is_filled_from_front_to_back() {
    let pair = Pair::new();
    let bytes: Vec<u8> = (0..12 << 20).map(|i: u32| (i >> 9) as u8 | 1).collect();
    pair.write("full", &bytes);
    let secret = "--object secret,id=s,data=abc";
    let encrypted = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    for options in ["cluster_size=64k".to_owned(), "cluster_size=2M".to_owned(), encrypted.to_owned()] {
        let line = format!("qemu-img convert {secret} -f raw -O qcow2 -o {options} full out");
        pair.run(&line).into_iter().for_each(|ran| assert_eq!(ran.ok(), "", "{line}"));
        let check = format!("qemu-img check {secret} --image-opts driver=qcow2,file.filename=out");
        let check = if options == encrypted { check + ",encrypt.key-secret=s" } else { check };
        let [ours, real] =
            [Whose::Ours, Whose::Real].map(|whose| Whose::Real.run(pair.dir(whose), &check).ok());
        assert_eq!(ours, real, "{line}");
        assert!(ours.contains(" 0.00% fragmented"), "{ours}");
    }
}

#[test]
fn what_an_existing_target_held_is_overwritten_also_by_zeroes() {
    for options in ["", "-S 0", "-S 64k", "-W -m 4", "-t none", "-t writethrough"] {
        for source in ["dense", "sparse"] {
            let pair = with_pictures();
            same_target(&pair, &format!("-n {options} {source}"), "full");
            assert!(fs::read(pair.dir(Whose::Ours).join("full")).unwrap() == picture());
        }
    }
    let pair = with_pictures();
    same_target(&pair, "-n --target-is-zero sparse", "full");
    same_target(&pair, "-n odd", "full");
    let [ours, real] = pair.run("qemu-img convert -n --target-image-opts odd driver=raw,file.filename=full");
    assert_eq!(ours, real);
    let [ours, real] =
        [Whose::Ours, Whose::Real].map(|whose| fs::read(pair.dir(whose).join("full")).unwrap());
    assert!(ours == real);
}

/// The real tool says so too, with an exit status of 0.
#[test]
fn a_target_with_a_backing_file_is_not_taken_for_zeroes() {
    let pair = with_pictures();
    let line = "qemu-img convert -f raw -O qcow2 -n --target-is-zero -B full -F raw dense full";
    let [ours, real] = pair.run(line);
    assert_eq!((ours.code, &ours.stderr), (Some(1), &real.stderr));
}

#[test]
fn progress_is_printed_as_by_the_real_tool() {
    let pair = with_pictures();
    pair.check(&[
        "convert -p dense out",
        "convert -p -m 1 sparse hole out",
        "convert -p empty out",
        "convert -p hole out",
        "convert -p -m 1 -n sparse full",
        "convert -p nosuch out",
        "convert -p dense nosuch/out",
        "convert -pq dense out",
    ]);
}

fn assert_untouched(dir: &Path, name: &str) {
    assert!(fs::read(dir.join(name)).unwrap() == picture(), "{name} was changed");
}

#[test]
fn a_source_that_is_the_target_is_refused_under_any_name() {
    let pair = with_pictures();
    let dir = pair.dir(Whose::Ours);
    std::os::unix::fs::symlink("dense", dir.join("link")).unwrap();
    fs::hard_link(dir.join("dense"), dir.join("hard")).unwrap();
    for words in [
        "dense dense",
        "dense ./dense",
        "dense link",
        "hard dense",
        "-n dense link",
        "hole dense file:dense",
        "-n --target-image-opts dense driver=raw,file.filename=link",
        "--image-opts driver=raw,file.filename=dense link",
        r#"'json:{"driver":"raw","file.filename":"dense"}' link"#,
    ] {
        let ran = Whose::Ours.run(dir, &format!("qemu-img convert {words}"));
        assert_eq!(ran.code, Some(1), "{words}");
        assert!(ran.stderr.contains("a source and the target at once"), "{words}: {}", ran.stderr);
        assert_untouched(dir, "dense");
    }
}

#[test]
fn streams_are_refused_with_what_to_do() {
    let pair = with_pictures();
    let dir = pair.dir(Whose::Ours);
    for words in ["- out", "/dev/stdin out", "dense -", "dense /dev/stdout"] {
        let ran = Whose::Ours.run(dir, &format!("qemu-img convert {words}"));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{words}");
        assert_eq!(ran.stderr.lines().count(), 2, "{words}: {}", ran.stderr);
        assert!(!dir.join("-").exists() && !dir.join("out").exists());
    }
}
