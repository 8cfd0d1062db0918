//! Images that are not plain: several key slots, odd passphrases, detached headers, payloads at odd places, of odd
//! lengths and of no length, and very large ones.

use tests::Whose::{Ours, Real};
use tests::luks::{BYTES, Bench, image, payload};

const FAST: &str = "--pbkdf-force-iterations 1000";

/// The payload, read by our program with the passphrase in `file`.
fn reads_with(bench: &Bench, file: &str, options: &str) -> bool {
    let line =
        format!("qemu-img convert --object secret,id=s,file={file} --image-opts -O raw {options} back.raw");
    let ran = bench.run(Ours, &line);
    ran.code == Some(0) && bench.bytes("back.raw").starts_with(&bench.bytes("src.raw"))
}

#[test]
fn every_slots_passphrase_opens_the_image_whoever_added_it() {
    let bench = Bench::new();
    bench.create_ours("a", "cipher-alg=aes-256");
    let keys: [(u8, &[u8]); 4] = [(1, b"x"), (3, &payload(512)), (6, b"\0\xff\nbinary\n"), (7, b"\n")];
    for (slot, bytes) in keys {
        let name = format!("key{slot}");
        bench.write(&name, bytes);
        let line = format!("luksAddKey -q {FAST} --key-slot {slot} --key-file pw a {name}");
        assert_eq!(bench.cryptsetup(&line).code, Some(0));
        // The size limits what is taken of the file; without it a newline is part of a key file for both.
        assert!(reads_with(&bench, &name, &image("a")), "slot {slot}");
    }
    assert!(bench.reads(Ours, &image("a")), "slot 0");
    assert_eq!(bench.cryptsetup("luksKillSlot -q a 0 --key-file key1").code, Some(0));
    assert!(!reads_with(&bench, "pw", &image("a")), "the slot is gone");
    assert!(reads_with(&bench, "key7", &image("a")));
}

#[test]
fn passphrases_of_one_and_of_512_bytes_open_everywhere() {
    for passphrase in ["x".to_owned(), "ä".repeat(256)] {
        let bench = Bench::new();
        bench.write("pw", passphrase.as_bytes());
        bench.create_ours("ours", "cipher-alg=aes-128");
        assert!(bench.reads(Real, &image("ours")));
        assert!(bench.nbdkit_reads("ours"));
        assert_eq!(bench.cryptsetup("open --test-passphrase --key-file pw ours").code, Some(0));
        bench.create(Real, "theirs", "cipher-alg=aes-128,iter-time=1");
        assert!(bench.reads(Ours, &image("theirs")));
    }
}

#[test]
fn a_binary_key_file_opens_but_does_not_create() {
    let bench = Bench::new();
    bench.write("pw", b"\xde\xad\0\xbe\xef");
    bench.truncate("a", 4 << 20);
    let format = bench.cryptsetup(&format!("luksFormat -q --type luks1 {FAST} --key-file pw a"));
    assert_eq!(format.code, Some(0));
    bench.fill(Ours, &image("a"));
    assert!(reads_with(&bench, "pw", &image("a")));
    let create = "qemu-img create -q SECRET -f luks -o key-secret=s,iter-time=1 b 1M";
    let [ours, real] = [Ours, Real].map(|whose| bench.run(whose, create));
    assert_eq!((ours.code, ours.stderr.lines().next()), (real.code, real.stderr.lines().next()));
    assert!(!bench.path("b").exists());
}

#[test]
fn a_newline_too_many_is_named() {
    let bench = Bench::new();
    bench.create_ours("a", "cipher-alg=aes-128");
    bench.write("pw", b"passphrase\n");
    let ran = bench.run(Ours, &format!("qemu-img convert SECRET --image-opts {} b", image("a")));
    let want = "Invalid password, cannot unlock any keyslot: the secret 's' matches without the newline at its end\n";
    assert!(ran.stderr.contains(want) && ran.stderr.contains("head -c -1 'pw'"), "{ran}");
}

/// How an image with its header elsewhere is named.
const DETACHED: &str = "driver=luks,file.filename=payload,header.filename=header,key-secret=s";

#[test]
fn our_detached_header_works_for_qemu_and_cryptsetup() {
    let bench = Bench::new();
    let create = "qemu-img create -q SECRET -f luks -o key-secret=s,iter-time=1,detached-header=on header";
    bench.ok(Ours, create);
    assert_eq!(bench.len("header"), 2_068_480);
    bench.truncate("payload", BYTES as u64);
    bench.fill(Ours, DETACHED);
    assert_ne!(bench.bytes("payload"), bench.bytes("src.raw"));
    assert!(bench.reads(Ours, DETACHED));
    assert!(bench.reads(Real, DETACHED));
    let info =
        "qemu-img info --image-opts --output=json driver=luks,file.filename=payload,header.filename=header";
    assert_eq!(bench.ok(Ours, info), bench.ok(Real, info));
    assert_eq!(
        bench.cryptsetup("open --test-passphrase --key-file pw --header header payload").code,
        Some(0)
    );
}

#[test]
fn cryptsetups_detached_header_works_at_any_payload_offset() {
    for (option, sectors) in [("", 0), ("--offset 4096", 4096), ("--align-payload 5001", 5001)] {
        let bench = Bench::new();
        bench.truncate("payload", (sectors * 512 + BYTES) as u64);
        let format =
            format!("luksFormat -q --type luks1 {FAST} {option} --key-file pw --header header payload");
        let ran = bench.cryptsetup(&format);
        assert_eq!(ran.code, Some(0), "{ran}");
        bench.fill(Real, DETACHED);
        assert!(bench.reads(Ours, DETACHED), "{option}");
    }
}

#[test]
fn an_attached_payload_begins_where_the_header_says() {
    for (option, sectors) in
        [("--offset 4096", 4096), ("--offset 5000", 5000), ("--align-payload 8192", 8192)]
    {
        let bench = Bench::new();
        bench.truncate("a", (sectors * 512 + BYTES) as u64);
        let ran = bench.cryptsetup(&format!("luksFormat -q --type luks1 {FAST} {option} --key-file pw a"));
        assert_eq!(ran.code, Some(0), "{ran}");
        bench.fill(Real, &image("a"));
        assert!(bench.reads(Ours, &image("a")), "{option}");
    }
}

#[test]
fn a_header_backup_serves_as_detached_header() {
    let bench = Bench::new();
    bench.create_ours("payload", "cipher-alg=aes-256");
    assert_eq!(bench.cryptsetup("luksHeaderBackup payload --header-backup-file header").code, Some(0));
    assert!(bench.reads(Ours, DETACHED));
}

#[test]
fn a_payload_that_ends_inside_a_sector_has_the_size_qemu_gives_it() {
    for size in [0, 1, 511, 512, 513, 1000] {
        let bench = Bench::new();
        let create = "qemu-img create -q SECRET -f luks -o key-secret=s,cipher-alg=aes-128,iter-time=1";
        bench.ok(Ours, &format!("{create} a {size}"));
        assert_eq!(bench.len("a"), 1_056_768 - 4096 + size, "{size}");
        let info = "qemu-img info --output=json a";
        assert_eq!(bench.ok(Ours, info), bench.ok(Real, info), "{size}");
        bench.write("src.raw", &payload((size as usize).next_multiple_of(512)));
        bench.fill(Ours, &image("a"));
        assert!(bench.reads(Ours, &image("a")) && bench.reads(Real, &image("a")), "{size}");
    }
}

#[test]
fn cut_inside_a_sector_both_read_the_same() {
    let bench = Bench::new();
    bench.create_ours("a", "cipher-alg=aes-128");
    for cut in [1, 100, 511] {
        bench.truncate("a", bench.len("a") - cut);
        assert_eq!(bench.read(Ours, &image("a")), bench.read(Real, &image("a")), "{cut}");
    }
}

#[test]
fn both_ends_of_an_8_tib_image_can_be_reached() {
    const END: u64 = (8 << 40) - 65_536;
    let bench = Bench::new();
    bench.write("src.raw", &payload(65_536));
    let part = |offset: u64| {
        format!("driver=raw,offset={offset},size=64k,file.driver=luks,file.file.filename=a,file.key-secret=s")
    };
    bench.ok(Ours, "qemu-img create -q SECRET -f luks -o key-secret=s,iter-time=1 a 8T");
    assert_eq!(bench.len("a"), (8 << 40) + 2_068_480);
    let info = "qemu-img info --output=json a";
    assert_eq!(bench.ok(Ours, info), bench.ok(Real, info));
    for (writer, reader) in [(Ours, Real), (Real, Ours), (Ours, Ours)] {
        for offset in [0, END, (4 << 40) - 512] {
            bench.write("src.raw", &payload(65_536 - offset as usize % 1000));
            bench.truncate("src.raw", 65_536);
            bench.fill(writer, &part(offset));
            assert!(bench.reads(reader, &part(offset)), "{writer:?} {offset}");
        }
    }
}

#[test]
fn an_all_zero_source_covers_what_was_there() {
    let bench = Bench::new();
    bench.create_ours("a", "cipher-alg=aes-128");
    bench.write("src.raw", &[0; BYTES]);
    bench.fill(Ours, &image("a"));
    assert!(bench.reads(Real, &image("a")));
}
