//! `img key` next to cryptsetup: what we change, it accepts.

use crate::shape::{Kdf, Shape, shapes};
use crate::{bench, create_ours, create_theirs, cryptsetup, opens, reads};
use tests::Whose::Ours;

const SECRETS: &str =
    "--object secret,id=one,file=pw --object secret,id=two,file=two --object secret,id=three,file=three";

const CHEAP: &str = "--pbkdf-iterations 1000 --pbkdf-memory 64 --pbkdf-parallel 1";

#[test]
fn cryptsetup_accepts_the_keys_we_add_change_and_remove() {
    let bench = bench();
    bench.write("two", b"second");
    bench.write("three", b"third");
    for shape in shapes() {
        create_theirs(&bench, &shape);
        let header = if shape.detached { "a.header" } else { "a" };
        let key = |line: &str| bench.ok(Ours, &format!("qemu-img key {line} {SECRETS} {header}"));
        let (kdf, cost) = (shape.kdf.name(), shape.kdf.cost());
        let add = format!("add --key-secret one --new-secret two --pbkdf {kdf} {cost}");
        assert_eq!(key(&add), "The new passphrase is in slot 1.\n");
        assert!(opens(&bench, &shape, "pw") && opens(&bench, &shape, "two"), "{shape:?}");
        key(&format!("change --key-secret two --new-secret three --pbkdf {kdf} {cost}"));
        assert!(opens(&bench, &shape, "three") && !opens(&bench, &shape, "two"), "{shape:?}");
        assert_eq!(key("remove --old-secret one"), "Removed slot 0.\n");
        assert!(opens(&bench, &shape, "three") && !opens(&bench, &shape, "pw"), "{shape:?}");
        assert_eq!(key("test --key-secret three"), "The passphrase opens slot 1.\n");
        cryptsetup(&bench, &format!("luksDump {header}"));
        assert!(reads(&bench, &shape, "three"));
    }
}

#[test]
fn a_header_restored_by_either_opens_with_the_passphrases_it_had() {
    let bench = bench();
    bench.write("two", b"second");
    bench.write("three", b"third");
    let shape = Shape { kdf: Kdf::Pbkdf2, ..shapes()[0] };
    create_ours(&bench, &shape);
    let key = |line: &str| bench.run(Ours, &format!("qemu-img key {line}"));
    let change =
        format!("change --key-secret one --new-secret two --pbkdf pbkdf2 {CHEAP} {SECRETS} --backup saved a");
    key(&change).ok();
    assert!(opens(&bench, &shape, "two") && !opens(&bench, &shape, "pw"));
    key("restore a saved").ok();
    assert!(opens(&bench, &shape, "pw") && !opens(&bench, &shape, "two"));
    assert_eq!(key(&change).code, Some(1), "a backup is never overwritten");
    cryptsetup(&bench, "luksHeaderRestore -q --header-backup-file saved a");
    assert!(reads(&bench, &shape, "pw"));
    std::fs::copy(bench.path("saved"), bench.path("other")).unwrap();
    create_ours(&bench, &shape);
    let foreign = key("restore a other");
    assert!(foreign.stderr.contains("of another container"), "{foreign}");
    assert!(opens(&bench, &shape, "pw"), "nothing was touched");
}

#[test]
fn what_other_programs_put_into_the_metadata_stays_to_the_letter() {
    let bench = bench();
    let shape = Shape { kdf: Kdf::Pbkdf2, ..shapes()[0] };
    create_ours(&bench, &shape);
    bench.write("two", b"second");
    bench.write("three", b"third");
    let token =
        r#"{"type":"x","keyslots":["0"],"z":1.50,"a":{"n":[1e3,18446744073709551615],"é":"\u00e9\/"}}"#;
    bench.write("token", token.as_bytes());
    cryptsetup(&bench, "token import --json-file token a");
    let json = |bench: &tests::luks::Bench| {
        let area = &bench.bytes("a")[4096..16384];
        String::from_utf8(area.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
    };
    let tokens =
        |text: &str| text[text.find("\"tokens\"").unwrap()..text.find("\"segments\"").unwrap()].to_owned();
    let before = tokens(&json(&bench));
    assert!(before.contains("1.5"), "{before}");
    let add =
        format!("qemu-img key add --key-secret one --new-secret two --pbkdf pbkdf2 {CHEAP} {SECRETS} a");
    bench.ok(Ours, &add);
    assert_eq!(tokens(&json(&bench)), before);
    cryptsetup(&bench, "token export --token-id 0 --json-file exported a");
}

#[test]
fn priorities_are_honoured() {
    let bench = bench();
    bench.write("two", b"second");
    let shape = Shape { kdf: Kdf::Pbkdf2, ..shapes()[0] };
    create_ours(&bench, &shape);
    cryptsetup(&bench, "luksAddKey -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file pw a two");
    cryptsetup(&bench, "config --key-slot 0 --priority ignore a");
    assert!(!reads(&bench, &shape, "pw") && reads(&bench, &shape, "two"));
    let test = |more: &str| {
        bench
            .run(Ours, &format!("qemu-img key test --object secret,id=one,file=pw --key-secret one {more} a"))
    };
    bench.write("three", b"third");
    let line =
        format!("qemu-img key change --key-secret two --new-secret three --pbkdf pbkdf2 {CHEAP} {SECRETS} a");
    cryptsetup(&bench, "config --key-slot 1 --priority prefer a");
    bench.ok(Ours, &line);
    let list = bench.ok(Ours, "qemu-img key list a");
    assert!(list.contains("slot 0: type luks2, priority ignore"), "{list}");
    assert!(list.contains("slot 1: type luks2, priority prefer"), "{list}");
    assert_eq!(test("").code, Some(1));
    assert_eq!(test("--slot 0").ok(), "The passphrase opens slot 0.\n");
}

#[test]
fn an_unfinished_reencryption_is_named_and_nothing_is_touched() {
    let bench = bench();
    let shape = Shape { kdf: Kdf::Pbkdf2, ..shapes()[0] };
    create_theirs(&bench, &shape);
    cryptsetup(
        &bench,
        "reencrypt -q --init-only --force-offline-reencrypt --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file pw a",
    );
    let before = bench.bytes("a");
    let info = bench.ok(Ours, "qemu-img info a");
    assert!(info.contains("in reencryption: true") && info.contains("online-reencrypt"), "{info}");
    for line in [
        "convert --object secret,id=one,file=pw --image-opts -O raw driver=luks,file.filename=a,key-secret=one b",
        "key add --key-secret one --new-secret one --object secret,id=one,file=pw a",
        "key remove --slot 0 --force a",
    ] {
        let ran = bench.run(Ours, &format!("qemu-img {line}"));
        assert_eq!(ran.code, Some(1), "{line}");
        assert!(ran.stderr.contains("requirement 'online-reencrypt"), "{line}: {ran}");
    }
    assert!(bench.bytes("a") == before);
}

#[test]
fn luks1_keys_are_changed_like_luks2_ones() {
    let bench = bench();
    bench.write("two", b"second");
    bench.write("three", b"third");
    let options = "key-secret=s,pbkdf-iterations=1000";
    bench.ok(Ours, &format!("qemu-img create -q SECRET -f luks -o {options} a {}", crate::BYTES));
    bench.fill(Ours, "driver=luks,file.filename=a,key-secret=s");
    let key = |line: &str| bench.ok(Ours, &format!("qemu-img key {line} {SECRETS} a"));
    let opens = |key: &str| bench.cryptsetup(&format!("open --test-passphrase --key-file {key} a")).code;
    key("add --key-secret one --new-secret two --slot 6 --pbkdf-iterations 1000");
    assert_eq!((opens("pw"), opens("two")), (Some(0), Some(0)));
    key("change --key-secret two --new-secret three --pbkdf-iterations 1000");
    assert_eq!((opens("three"), opens("two")), (Some(0), Some(2)));
    assert_eq!(key("remove --slot 0"), "Removed slot 0.\n");
    assert_eq!((opens("three"), opens("pw")), (Some(0), Some(2)));
    let list = bench.ok(Ours, "qemu-img key list a");
    assert!(
        list.starts_with("slot 6: type luks1, kdf pbkdf2, hash sha256, iters 1000")
            && list.lines().count() == 1
    );
    cryptsetup(&bench, "luksHeaderBackup --header-backup-file theirs a");
    bench.ok(Ours, "qemu-img key backup -q a ours");
    assert!(bench.bytes("theirs") == bench.bytes("ours"), "the backups differ");
    let lint = bench.run(Ours, "qemu-img key lint a");
    assert!(lint.code == Some(2) && lint.stdout.contains("(weak-kdf)"), "{lint}");
    assert_eq!(bench.run(Ours, "qemu-img key lint --min-iterations 1000 a").code, Some(0));
    let image = "driver=luks,file.filename=a,key-secret=k";
    bench.ok(
        Ours,
        &format!("qemu-img convert --object secret,id=k,file=three --image-opts -O raw {image} back"),
    );
    assert!(bench.bytes("back") == bench.bytes("src.raw"));
}

#[test]
fn amend_changes_luks2_with_the_rules_it_has_for_luks1() {
    let bench = bench();
    bench.write("two", b"second");
    bench.write("three", b"third");
    let shape = Shape { kdf: Kdf::Pbkdf2, ..shapes()[0] };
    create_ours(&bench, &shape);
    let amend = |options: &str| {
        let image = "driver=luks,file.filename=a,key-secret=one";
        bench.run(Ours, &format!("qemu-img amend {SECRETS} --image-opts {image} -o {options}"))
    };
    amend("state=active,new-secret=two,iter-time=1,keyslot=31").ok();
    assert!(opens(&bench, &shape, "two"));
    for (options, says) in [
        ("state=active,new-secret=two,keyslot=31", "Refusing to overwrite active keyslot 31"),
        ("state=active,new-secret=two,keyslot=32", "must be between 0 and 31"),
        ("state=inactive,old-secret=three", "No keyslots match given (old) password"),
        ("state=inactive,keyslot=5", "Given keyslot 5 is already erased"),
    ] {
        let ran = amend(options);
        assert!(ran.code == Some(1) && ran.stderr.contains(says), "{options}: {ran}");
    }
    amend("state=inactive,old-secret=two").ok();
    assert!(opens(&bench, &shape, "pw") && !opens(&bench, &shape, "two"));
    assert!(amend("state=inactive,keyslot=0").stderr.contains("the only active keyslot 0"));
}

#[test]
fn the_lock_that_cryptsetup_takes_is_honoured() {
    let bench = bench();
    bench.write("two", b"second");
    bench.write("three", b"third");
    let shape = Shape { kdf: Kdf::Pbkdf2, ..shapes()[0] };
    create_ours(&bench, &shape);
    let lock = std::fs::File::open(bench.path("a")).unwrap();
    lock.lock().unwrap();
    let add =
        format!("qemu-img key add --key-secret one --new-secret two --pbkdf pbkdf2 {CHEAP} {SECRETS} a");
    let ran = bench.run(Ours, &add);
    assert!(ran.code == Some(1) && ran.stderr.contains("Another program is changing the header"), "{ran}");
    lock.unlock().unwrap();
    bench.ok(Ours, &add);
}

#[test]
fn a_damaged_primary_header_is_named_where_the_format_is_not_and_restored() {
    let bench = bench();
    bench.write("two", b"second");
    bench.write("three", b"third");
    let shape = Shape { kdf: Kdf::Pbkdf2, ..shapes()[0] };
    create_ours(&bench, &shape);
    bench.ok(Ours, "qemu-img key backup -q a saved");
    let whole = bench.bytes("a");
    let mut bytes = whole.clone();
    bytes[..4096].fill(0);
    bench.write("a", &bytes);
    let info = bench.run(Ours, "qemu-img info a");
    assert!(info.stderr.contains("whose primary header is damaged"), "{info}");
    bench.ok(Ours, "qemu-img info -f luks --assert header=damaged,encrypted=luks2 a");
    assert_eq!(
        bench.ok(Ours, &format!("qemu-img key test {SECRETS} --key-secret one a")),
        "The passphrase opens slot 0.\n"
    );
    bytes[..1 << 20].fill(0);
    bench.write("a", &bytes);
    let lint = bench.run(Ours, "qemu-img key lint a");
    assert!(lint.code == Some(2) && lint.stdout.contains("(header)"), "{lint}");
    bench.ok(Ours, "qemu-img key restore a saved");
    assert!(bench.bytes("a") == whole);
}

#[test]
fn keys_inside_qcow2_are_changed_by_the_same_command_and_qemu_opens_the_image() {
    let bench = bench();
    bench.write("two", b"second");
    bench.write("three", b"third");
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1";
    bench.ok(Ours, &format!("qemu-img create -q SECRET -f qcow2 -o {options} a 1M"));
    let key = |line: &str| bench.ok(Ours, &format!("qemu-img key {line} {SECRETS} a"));
    key("add --key-secret one --new-secret two --pbkdf-iterations 1000");
    key("change --key-secret two --new-secret three --pbkdf-iterations 1000");
    assert_eq!(key("remove --slot 0"), "Removed slot 0.\n");
    for (secret, code) in [("three", Some(0)), ("two", Some(1)), ("one", Some(1))] {
        let image = format!("driver=qcow2,file.filename=a,encrypt.key-secret={secret}");
        let ran = bench
            .run(tests::Whose::Real, &format!("qemu-img convert {SECRETS} --image-opts -O raw {image} back"));
        assert_eq!(ran.code, code, "{secret}: {ran}");
    }
    bench.ok(Ours, "qemu-img info --assert encrypted=luks1,format=qcow2 a");
}

#[test]
fn a_passphrase_in_several_slots_opens_none_of_them_once_it_is_changed() {
    let bench = bench();
    bench.write("two", b"second");
    bench.write("three", b"third");
    for version in ["luks1", "luks2 --pbkdf pbkdf2"] {
        let _ = std::fs::remove_file(bench.path("a"));
        bench.truncate("a", 18 << 20);
        let cost = "--pbkdf-force-iterations 1000";
        cryptsetup(&bench, &format!("luksFormat -q --type {version} {cost} --key-file pw a"));
        for key in ["two", "pw", "pw"] {
            let pbkdf = if version == "luks1" { "" } else { "--pbkdf pbkdf2" };
            cryptsetup(&bench, &format!("luksAddKey -q {pbkdf} {cost} --key-file pw a {key}"));
        }
        let change = format!(
            "qemu-img key change --key-secret one --new-secret three --pbkdf pbkdf2 {CHEAP} {SECRETS} a"
        );
        assert_eq!(
            bench.ok(Ours, &change),
            "The new passphrase is in slot 0.\nRemoved slots 2, 3, which the old passphrase opened as well.\n"
        );
        for (key, code) in [("pw", Some(2)), ("two", Some(0)), ("three", Some(0))] {
            let ran = bench.cryptsetup(&format!("open --test-passphrase --key-file {key} a"));
            assert_eq!(ran.code, code, "{version}, {key}: {ran}");
        }
    }
}
