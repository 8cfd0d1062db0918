//! Command lines of `img`, given to ours and to the real tool: output, messages and exit status must be the same.

#![forbid(unsafe_code)]

use tests::{Pair, Whose};

fn with_images() -> Pair {
    let pair = Pair::new();
    pair.prepare("qemu-img create -q -f raw r.img 1M");
    pair.prepare(
        "qemu-img create -q -f luks --object secret,id=s,data=1 -o key-secret=s,iter-time=10 l.img 1M",
    );
    pair.share("l.img");
    pair
}

#[test]
fn words_that_make_no_command_are_refused_alike() {
    Pair::new().check(&[
        "",
        "--bogus",
        "-T",
        "nosuch",
        "create",
        "create --bogus",
        "create -f",
        "create --object",
        "create a 1k extra",
        "info",
        "info a b",
        "info --image-opts=on a",
        "info --output",
        "map",
        "convert",
        "convert a",
    ]);
}

#[test]
fn options_are_taken_in_every_spelling() {
    let pair = with_images();
    pair.check(&[
        "create -fraw a.img 1k -q",
        "create b.img -f raw 1k",
        "create -q b.img -- 1k",
        "create -f foo -f raw c.img 1k",
        "create -o -f b.img 1k",
        "create -- -f 1k",
        "info a.img --",
        "info -Uf raw a.img",
        "info -f -- a.img",
        "info -f a.img",
        "info --outp json a.img",
        "info --output=json a.img",
        "info --form raw a.img",
        "info --image-opts -f raw a.img",
    ]);
}

#[test]
fn create_says_what_it_makes_and_what_is_wrong() {
    let pair = with_images();
    pair.check(&[
        "create a.img 1M",
        "create a.img 0",
        "create a.img 1",
        "create a.img 1.5M",
        "create a.img 8T",
        "create a=b,c 1k",
        "create file:d.img 1k",
        "create -q a.img 1k",
        "create a.img",
        "create -u a.img",
        "create -u a.img 1k",
        "create a.img -- -1",
        "create a.img 16E",
        "create a.img 8E",
        "create -o size=1k a.img",
        "create -o size=1k a.img 2k",
        "create -o size=1k,size=2k a.img",
        "create -o size=1k -o size=2k a.img",
        "create -o size=x a.img",
        "create -o size=-1 a.img",
        "create -o size=-1k a.img",
        "create -o size=16E a.img",
        "create -o size a.img",
        "create -o foo=bar a.img 1k",
        "create -o foo=help a.img 1k",
        "create -o size=1k,foo=1 a.img 1k",
        "create -o help=on a.img 1k",
        "create -o nohelp a.img 1k",
        "create -o '' a.img 1k",
        "create -o , a.img 1k",
        "create -o ,x a.img 1k",
        "create -o x, a.img 1k",
        "create -o nocow=foo a.img 1k",
        "create -o extent_size_hint=foo a.img 1k",
        "create -o extent_size_hint=-1 a.img 1k",
        "create -o preallocation=falloc a.img 1k",
        "create -o preallocation=full,extent_size_hint=1M,nocow=off a.img 1k",
        "create -o nocow=y a.img 1k",
        "create -o preallocation=foo a.img 1k",
        "create -o preallocation=metadata a.img 1k",
        "create -f foo a.img 1k",
        "create foo:x 1k",
        "create json:{} 1k",
        "create nosuch/x 1k",
        "create . 1k",
        "create '' 1k",
        "create -b r.img a.img",
        "create -b r.img -F raw a.img 1k",
        "create -F raw a.img 1k",
        "create -f luks -b r.img a.img 1k",
        "create -f luks a.img 1k",
        "create -f luks -o key-secret=s a.img 1k",
        "create -f luks --object secret,id=s,data=1 -o key-secret=s a.img",
        "create -f luks -o key-secret=s,cipher-alg=foo a.img 1k",
        "create -f luks -o key-secret=s,iter-time=x a.img 1k",
    ]);
}

/// The ways to ask for creation options.
const HELP: [&str; 4] = ["-o help", "-o ? a.img", "-o size=1,help a.img", "-o help -o size=1"];

#[test]
fn create_lists_the_options_there_are() {
    let mut lines = Vec::new();
    for format in ["raw", "file", "qcow", "qcow2"] {
        lines.extend(HELP.map(|rest| format!("create -f {format} {rest}")));
    }
    lines.push("create -f foo -o help".into());
    lines.push("create -o help nope:x".into());
    Pair::new().check(&lines);
}

/// What ours lists for luks and the real tool, which knows LUKS1 only, does not (docs/differences.md).
const LUKS2: [&str; 11] = [
    "keyslots-size",
    "label",
    "metadata-size",
    "pbkdf",
    "pbkdf-iterations",
    "pbkdf-memory",
    "pbkdf-parallel",
    "sector-size",
    "subsystem",
    "uuid",
    "version",
];

#[test]
fn create_lists_the_real_tools_luks_options_and_those_of_luks2() {
    let pair = Pair::new();
    for rest in HELP {
        let [mut ours, real] = pair.run(&format!("qemu-img create -f luks {rest}"));
        let name = |line: &str| line.trim_start().split('=').next().unwrap_or_default().to_owned();
        let (added, common): (Vec<_>, Vec<_>) =
            ours.stdout.lines().partition(|line| LUKS2.contains(&name(line).as_str()));
        assert_eq!(added.iter().map(|line| name(line)).collect::<Vec<_>>(), LUKS2, "{rest}");
        ours.stdout = common.iter().map(|line| format!("{line}\n")).collect();
        assert!(ours.agrees_with(&real), "{rest}\n ours {ours}\n real {real}");
    }
}

#[test]
fn info_says_the_same() {
    let pair = with_images();
    let mut lines = Vec::new();
    for name in [
        "r.img",
        "./r.img",
        "file:r.img",
        "-f raw l.img",
        "-f file r.img",
        "l.img",
        "-f luks l.img",
        "-f luks r.img",
        "nosuch",
        "''",
        "/",
        "/dev/null",
        "foo:bar",
        "-f foo r.img",
        "json:{",
        "json:[]",
        r#"'json:{"driver":"nope"}'"#,
        r#"'json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"r.img"}}'"#,
        r#"'json:{"driver":"raw","file.filename":"r.img"}'"#,
        "--image-opts ''",
        "--image-opts driver",
        "--image-opts a=b",
        "--image-opts driver=raw",
        "--image-opts r.img",
        "--image-opts file.filename=r.img",
        "--image-opts driver=file,filename=r.img",
        "--image-opts driver=raw,offset=512,file.filename=r.img",
        "--image-opts driver=raw,offset=512,size=1k,file.filename=r.img",
        "--image-opts driver=raw,offset=2M,file.filename=r.img",
        "--image-opts driver=raw,size=2M,file.filename=r.img",
        "--image-opts driver=raw,size=100,file.filename=r.img",
        "--image-opts driver=raw,offset=x,file.filename=r.img",
        "--image-opts driver=raw,file.driver=raw,file.file.filename=r.img",
        "--image-opts driver=raw,file.driver=raw,file.offset=512,file.file.filename=r.img",
        "--image-opts driver=raw,file.driver=file,file.filename=r.img,file.locking=off",
        "--image-opts driver=raw,file.filename=r.img,cache.direct=on,read-only=off,node-name=x",
        "--image-opts driver=raw,file.filename=r.img,foo=x",
        "--image-opts driver=raw,file.filename=r.img,file.foo=x",
        "--image-opts driver=luks,file.filename=l.img",
        "--image-opts driver=luks,key-secret=s,file.filename=l.img",
    ] {
        for report in ["", "--output=json", "--backing-chain --output json", "-U --backing-chain"] {
            lines.push(format!("info {report} {name}"));
        }
    }
    pair.check(&lines);
}

#[test]
fn map_lists_the_same_extents() {
    let pair = Pair::new();
    let mut bytes = vec![0; 1 << 20];
    bytes[65536..131_072].fill(1);
    bytes[1_000_000..].fill(2);
    pair.write("dense.img", &bytes);
    pair.prepare("qemu-img convert -f raw -O raw dense.img s.img");
    pair.prepare("qemu-img create -q -f raw empty.img 0");
    pair.prepare("qemu-img create -q -f raw hole.img 1G");
    pair.prepare(
        "qemu-img create -q -f luks --object secret,id=s,data=1 -o key-secret=s,iter-time=10 l.img 1M",
    );
    pair.share("l.img");
    let mut lines = Vec::new();
    for name in [
        "s.img",
        "dense.img",
        "empty.img",
        "hole.img",
        "-s 100 s.img",
        "-l 100 s.img",
        "-s 100 -l 70000 s.img",
        "-s 0x10000 -l 4k s.img",
        "-s 2M s.img",
        "-s 1M s.img",
        "-l 0 s.img",
        "-s -1 s.img",
        "-l -1 s.img",
        "--start-offset=64k --max-length=16E s.img",
        "-l 1E s.img",
        "--image-opts driver=raw,offset=512,file.filename=s.img",
        "--image-opts driver=raw,offset=65536,size=65536,file.filename=s.img",
        "--object secret,id=s,data=1 --image-opts driver=luks,key-secret=s,file.filename=l.img",
        "l.img",
        "-f raw -U l.img",
        "nosuch",
    ] {
        for report in ["", "--output=json"] {
            lines.push(format!("map {report} {name}"));
        }
    }
    pair.check(&lines);
}

#[test]
fn measure_asks_for_the_secrets_an_image_would_be_made_with() {
    let secret = "--object secret,id=s,data=1";
    let lines = [
        "-O luks",
        "-O luks -o key-secret=nope",
        &format!("{secret} -O luks -o key-secret=s"),
        "-O qcow2 -o encrypt.format=luks",
        "-O qcow2 -o encrypt.format=luks,encrypt.key-secret=nope",
        &format!("{secret} -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s"),
    ];
    Pair::new().check(&lines.map(|line| format!("measure --size 1M {line}")));
}

#[test]
fn the_name_of_a_backing_file_ends_at_a_nul() {
    let pair = Pair::new();
    pair.prepare("qemu-img create -q -f qcow2 -u -b abcdefgh -F raw whole.img 64k");
    let whole = std::fs::read(pair.dir(Whose::Real).join("whole.img")).unwrap();
    let at = whole.windows(8).position(|window| window == b"abcdefgh").unwrap();
    for (name, nul) in [("cut.img", 3), ("none.img", 0)] {
        let mut bytes = whole.clone();
        bytes[at + nul] = 0;
        pair.write(name, &bytes);
    }
    pair.check(&["info cut.img", "map cut.img", "info none.img", "map none.img"]);
}
