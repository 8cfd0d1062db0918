//! Headers that are wrong, one generated from a good one for each way to be wrong: our program says what the real one
//! says, on one line, and then where the fault is.

use tests::Whose::{Ours, Real};
use tests::luks::{Bench, image};

fn slot(index: usize, offset: usize) -> usize {
    208 + 48 * index + offset
}

fn be(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// Patches of one field: what is wrong, where, the bytes.
fn patches() -> Vec<(&'static str, usize, Vec<u8>)> {
    let text = |text: &str| [text.as_bytes(), b"\0"].concat();
    let mut patches = vec![
        ("magic", 0, b"X".to_vec()),
        ("version 0", 6, vec![0, 0]),
        ("version 9", 6, vec![0, 9]),
        ("cipher without end", 8, vec![b'a'; 32]),
        ("mode without end", 40, vec![b'a'; 32]),
        ("hash without end", 72, vec![b'a'; 32]),
        ("no cipher", 8, vec![0; 32]),
        ("no mode", 40, vec![0; 32]),
        ("no hash", 72, vec![0; 32]),
        ("unknown cipher", 8, text("foo")),
        ("cipher of the kernel", 8, text("camellia")),
        ("unknown mode", 40, text("foo-plain64")),
        ("mode without IV generator", 40, text("foo")),
        ("unknown IV generator", 40, text("xts-foo")),
        ("unknown hash of the IV generator", 40, text("cbc-essiv:foo")),
        ("unknown hash", 72, text("foo")),
        ("payload in the header", 104, be(7)),
        ("payload 0", 104, be(0)),
        ("payload over key material", 104, be(8)),
        ("no key", 108, be(0)),
        ("odd key", 108, be(63)),
        ("key of the wrong size", 108, be(65)),
        ("digest without iterations", 164, be(0)),
    ];
    for index in [0, 1, 7] {
        patches.extend([
            ("slot state", slot(index, 0), be(1)),
            ("slot with few stripes", slot(index, 44), be(3999)),
            ("slot without stripes", slot(index, 44), be(0)),
            ("slot in the header", slot(index, 40), be(7)),
            ("slot over the payload", slot(index, 40), be(4039)),
            ("slot in the payload", slot(index, 40), be(4040)),
        ]);
    }
    patches.extend([
        ("active slot without iterations", slot(0, 4), be(0)),
        ("slot over another", slot(1, 40), be(8)),
        ("slot over another", slot(3, 40), be(2530)),
    ]);
    patches
}

#[test]
fn what_is_wrong_is_said_in_the_words_of_the_real_tool_and_where_it_is_below() {
    let bench = Bench::new();
    bench.ok(Ours, "qemu-img create -q SECRET -f luks -o key-secret=s,iter-time=1 good 1M");
    let good = bench.bytes("good");
    let mut differing = String::new();
    for (what, offset, value) in patches() {
        let mut bad = good.clone();
        bad[offset..offset + value.len()].copy_from_slice(&value);
        bench.write("bad", &bad);
        let line = match what {
            // We report on a header without payload; its contents are refused as by the real tool.
            "payload 0" => format!("qemu-io SECRET -c 'read 0 512' --image-opts {}", image("bad")),
            _ => "qemu-img info -f luks bad".to_owned(),
        };
        let [ours, real] = [Ours, Real].map(|whose| bench.run(whose, &line));
        let mut lines = ours.stderr.lines();
        let same = lines.next() == Some(real.stderr.trim_end()) && ours.code == real.code;
        // Without the magic there is no field to point at.
        if !same || (lines.count() != 1 && what != "magic") {
            differing += &format!("{what} at {offset}:\n ours {ours}\n real {real}\n");
        }
    }
    assert!(differing.is_empty(), "{differing}");
}

/// Where the real tool's arithmetic overflows it takes the header for good; we do not.
#[test]
fn absurd_places_are_refused() {
    let bench = Bench::new();
    bench.ok(Ours, "qemu-img create -q SECRET -f luks -o key-secret=s,iter-time=1 good 1M");
    for (offset, value, want) in [
        (slot(0, 40), u32::MAX, "Keyslot 0 is overlapping with the encrypted payload"),
        (slot(7, 40), u32::MAX, "Keyslot 7 is overlapping with the encrypted payload"),
        (108, 0x8000_0000, "Keyslot 0 is overlapping with the encrypted payload"),
        (108, u32::MAX, "Keyslot 0 is overlapping with the encrypted payload"),
        (104, u32::MAX, "LUKS payload begins at byte 2199023255040, but the file ends at byte 3117056"),
    ] {
        let mut bad = bench.bytes("good");
        bad[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
        bench.write("bad", &bad);
        let ran = bench.run(Ours, "qemu-img info bad");
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.starts_with(&format!("qemu-img: Could not open 'bad': {want}\n")), "{ran}");
    }
}

#[test]
fn a_file_cut_off_anywhere_in_the_header_is_refused() {
    let bench = Bench::new();
    bench.ok(Ours, "qemu-img create -q SECRET -f luks -o key-secret=s,iter-time=1 good 1M");
    let good = bench.bytes("good");
    for len in [0, 5, 7, 8, 100, 512, 591, 592, 593, 4096, 260_096, 2_067_968] {
        bench.write("bad", &good[..len]);
        for line in
            ["qemu-img info -f luks bad", &format!("qemu-img convert SECRET --image-opts {} b", image("bad"))]
        {
            let ran = bench.run(Ours, line);
            assert_eq!(ran.code, Some(1), "{len}: {ran}");
            assert!(ran.stderr.starts_with("qemu-img: Could not open '"), "{len}: {ran}");
            assert!(ran.stderr.lines().count() <= 2 && !ran.stderr.contains("panicked"), "{len}: {ran}");
        }
    }
}

#[test]
fn options_that_do_not_go_together_are_refused_in_the_words_of_the_real_tool() {
    let bench = Bench::new();
    for options in [
        "cipher-alg=foo",
        "cipher-alg=sm4",
        "cipher-alg=des",
        "cipher-mode=foo",
        "ivgen-alg=foo",
        "ivgen-hash-alg=foo",
        "hash-alg=foo",
        "iter-time=foo",
        "detached-header=foo",
        "ivgen-alg=essiv,ivgen-hash-alg=sha1",
        "ivgen-alg=essiv,ivgen-hash-alg=sha512",
        "cipher-alg=cast5-128",
        "cipher-alg=cast5-128,cipher-mode=cbc,ivgen-alg=essiv",
        "cluster_size=4k",
        "preallocation=foo",
        "key-secret=",
        "key-secret=other",
    ] {
        let line = format!("qemu-img create SECRET -f luks -o key-secret=s,iter-time=1,{options} a 1M");
        let [ours, real] = [Ours, Real].map(|whose| {
            let ran = bench.run(whose, &line);
            (ran.code, ran.stdout, ran.stderr.lines().next().map(str::to_owned))
        });
        assert_eq!(ours, real, "{options}");
        assert!(!bench.path("a").exists(), "{options}");
    }
}

/// What could be guessed the next time is not written to the start of an image whose format was guessed.
#[test]
fn a_format_header_is_not_written_to_the_start_of_an_image_that_was_guessed_to_be_raw() {
    let bench = Bench::new();
    let mut headers = vec!["luks".to_owned()];
    bench.ok(Real, "qemu-img create -q SECRET -f luks -o key-secret=s,iter-time=10 luks 1M");
    for format in ["qcow", "qcow2"] {
        bench.ok(Real, &format!("qemu-img create -q -f {format} {format} 1M"));
        headers.push(format.to_owned());
    }
    for header in headers {
        let mut head = bench.bytes(&header)[..512].to_vec();
        bench.write("head", &head);
        for (write, refused) in [
            ("-c 'write -q -s head 0 512' raw", true),
            ("-c 'write -q -s head 512 512' raw", false),
            ("-f raw -c 'write -q -s head 0 512' raw", false),
        ] {
            let [ours, real] = [Ours, Real].map(|whose| {
                bench.write("raw", &[0; 65536]);
                let ran = bench.run(whose, &format!("qemu-io {write}"));
                (ran, bench.bytes("raw"))
            });
            assert_eq!(ours, real, "{header}: {write}");
            assert_eq!(
                ours.0.stderr.contains("write operations on block 0 will be restricted"),
                !write.starts_with("-f")
            );
            assert_eq!(
                ours.0.stdout.contains("write failed: Operation not permitted"),
                refused,
                "{header}: {write}"
            );
            assert_eq!(ours.1 == [0; 65536], refused, "{header}: {write}");
        }
        // Nor by writing a part of it where the rest is already.
        head[..4].fill(0);
        bench.write("raw", &[&head[..], &[0; 65536 - 512]].concat());
        let [ours, real] =
            [Ours, Real].map(|whose| bench.run(whose, &format!("qemu-io -c 'write -q -s {header} 0 4' raw")));
        assert_eq!(ours, real, "{header}");
        assert!(ours.stdout.contains("Operation not permitted"), "{header}: {ours}");
    }
}

/// The real tool does not know LUKS2, and lets anybody write its header.
#[test]
fn a_luks2_header_is_not_written_there_either() {
    let bench = Bench::new();
    let options = "key-secret=s,version=2,pbkdf=pbkdf2,pbkdf-iterations=1000";
    bench.ok(Ours, &format!("qemu-img create -q SECRET -f luks -o {options} luks2 1M"));
    bench.write("head", &bench.bytes("luks2")[..512]);
    bench.write("raw", &[0; 65536]);
    let ran = bench.run(Ours, "qemu-io -c 'write -q -s head 0 512' raw");
    assert!(ran.stdout.contains("write failed: Operation not permitted"), "{ran}");
    assert!(bench.bytes("raw") == [0; 65536]);
}
