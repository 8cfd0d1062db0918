//! A header in a file of its own, looked at without its payload.

use crate::cryptsetup;
use tests::Whose::Ours;
use tests::luks::Bench;

const SECRET: &str = "--object secret,id=s,file=pw --key-secret s";

/// Detached headers of both versions, ours and cryptsetup's, each with a payload in `payload`.
fn headers(bench: &Bench) -> Vec<(&'static str, &'static str)> {
    bench.truncate("payload", 1 << 20);
    for (name, version) in [("ours1", "version=1"), ("ours2", "version=2,pbkdf=pbkdf2")] {
        let options = format!("key-secret=s,{version},pbkdf-iterations=1000,detached-header=on");
        bench.ok(Ours, &format!("qemu-img create -q SECRET -f luks -o {options} {name}"));
    }
    for (name, version) in [("theirs1", "luks1"), ("theirs2", "luks2 --pbkdf pbkdf2")] {
        cryptsetup(
            bench,
            &format!(
                "luksFormat -q --type {version} --pbkdf-force-iterations 1000 --key-file pw --header {name} payload"
            ),
        );
    }
    vec![("ours1", "luks1"), ("ours2", "luks2"), ("theirs1", "luks1"), ("theirs2", "luks2")]
}

#[test]
fn everything_that_needs_no_payload_works_on_a_header_alone() {
    let bench = Bench::new();
    for (name, kind) in headers(&bench) {
        let before = bench.bytes(name);
        bench.ok(Ours, &format!("qemu-img info --assert encrypted={kind},detached-header=true {name}"));
        let info = bench.ok(Ours, &format!("qemu-img info {name}"));
        assert!(info.contains("virtual size: 0 B") && info.contains("detached header: true"), "{info}");
        let list = bench.ok(Ours, &format!("qemu-img key list {name}"));
        assert!(list.starts_with("slot 0: ") && list.contains("iters 1000"), "{name}: {list}");
        let lint = bench.run(Ours, &format!("qemu-img key lint {name}"));
        assert!(lint.code == Some(2) && lint.stdout.lines().count() == 1, "{name}: {lint}");
        assert!(lint.stdout.contains("(weak-kdf)"), "{name}: {lint}");
        let lint = bench.run(Ours, &format!("qemu-img key lint --min-iterations 1000 {name}"));
        assert_eq!((lint.code, lint.stdout.as_str()), (Some(0), ""), "{name}");
        let test = bench.ok(Ours, &format!("qemu-img key test {SECRET} {name}"));
        assert_eq!(test, "The passphrase opens slot 0.\n");
        bench.ok(Ours, &format!("qemu-img key backup -q {name} {name}.ours"));
        cryptsetup(&bench, &format!("luksHeaderBackup --header-backup-file {name}.theirs {name}"));
        assert!(bench.bytes(&format!("{name}.ours")) == bench.bytes(&format!("{name}.theirs")), "{name}");
        assert!(bench.bytes(name) == before, "{name}: nothing was changed");
    }
}

#[test]
fn keys_of_a_header_alone_are_changed_and_a_saved_one_is_put_back() {
    let bench = Bench::new();
    bench.write("two", b"second");
    for (name, _) in headers(&bench) {
        let opens = |key: &str| {
            let line = format!("open --test-passphrase --key-file {key} --header {name} payload");
            bench.cryptsetup(&line).code == Some(0)
        };
        let before = bench.bytes(name);
        let change = format!(
            "qemu-img key change -q {SECRET} --object secret,id=t,file=two --new-secret t --pbkdf pbkdf2 \
             --pbkdf-iterations 1000 --backup {name}.saved {name}"
        );
        bench.ok(Ours, &change);
        assert!(opens("two") && !opens("pw"), "{name}");
        bench.ok(Ours, &format!("qemu-img key restore -q {name} {name}.saved"));
        assert!(opens("pw") && !opens("two"), "{name}");
        assert!(bench.bytes(name) == before, "{name}");
        bench.write(name, &vec![0; before.len()]);
        bench.ok(Ours, &format!("qemu-img key restore -q {name} {name}.saved"));
        assert!(bench.bytes(name) == before, "{name}: where there was none");
    }
}

/// The contents would be the header itself, which a write would destroy.
#[test]
fn a_header_alone_has_no_contents_to_open() {
    let bench = Bench::new();
    for (name, _) in headers(&bench) {
        let before = bench.bytes(name);
        let image = tests::luks::image(name);
        let ran = bench.run(Ours, &format!("qemu-io SECRET -c 'write 0 4096' --image-opts {image}"));
        assert!(ran.stderr.contains("LUKS payload is overlapping with the header"), "{name}: {ran}");
        assert!(ran.stderr.contains("This is a detached header, without payload."), "{name}: {ran}");
        assert!(bench.bytes(name) == before, "{name}");
        let both = format!("driver=luks,file.filename=payload,header.filename={name},key-secret=s");
        bench.ok(Ours, &format!("qemu-io SECRET -c 'write -q 0 4096' --image-opts {both}"));
        assert!(bench.bytes(name) == before, "{name}");
    }
}
