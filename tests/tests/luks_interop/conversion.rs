//! Conversions to and from encrypted images: zeroes are written where a hole would decrypt to garbage, and become holes
//! on the way back.

use tests::Whose::{Ours, Real};
use tests::luks::{Bench, image};

const MIB: usize = 1 << 20;

/// Whether the real tool finds `raw` and the encrypted `name` equal.
fn equal(bench: &Bench, raw: &str, name: &str) -> bool {
    let compare =
        format!("qemu-img compare SECRET --image-opts driver=raw,file.filename={raw} {}", image(name));
    bench.run(Real, &compare).code == Some(0)
}

/// An encrypted image of 2 MiB whose payload, as stored, is 0xaa throughout.
fn write_filled(bench: &Bench, name: &str) {
    bench.ok(Ours, "qemu-img create -q SECRET -f luks -o key-secret=s,iter-time=1 header 0");
    let mut bytes = bench.bytes("header");
    bytes.resize(bytes.len() + 2 * MIB, 0xaa);
    bench.write(name, &bytes);
}

#[test]
fn zeroes_cover_what_the_target_held_with_and_without_creating_it() {
    let bench = Bench::new();
    bench.write("zero", &vec![0; 2 * MIB]);
    bench.truncate("hole", 2 * MIB as u64);
    for source in ["zero", "hole"] {
        for options in ["", "--target-is-zero", "-S 0", "-S 64k"] {
            write_filled(&bench, "a");
            let line = format!(
                "qemu-img convert -n {options} SECRET -f raw --target-image-opts {source} {}",
                image("a")
            );
            let ran = bench.run(Ours, &line);
            assert_eq!(ran.code, Some(0), "{line}: {ran}");
            assert_eq!(ran.stderr.contains("--target-is-zero does not apply"), options.contains("zero"));
            assert!(equal(&bench, "zero", "a"), "{line}");
        }
        write_filled(&bench, "b");
        bench.ok(
            Ours,
            &format!("qemu-img convert SECRET -f raw -O luks -o key-secret=s,iter-time=1 {source} b"),
        );
        assert!(equal(&bench, "zero", "b"), "{source}, created");
    }
}

#[test]
fn a_new_encrypted_target_needs_its_secret_named_once() {
    let bench = Bench::new();
    bench.ok(Ours, "qemu-img convert SECRET -f raw -O luks -o key-secret=s,iter-time=1 src.raw a");
    assert!(bench.reads(Ours, &image("a")) && bench.reads(Real, &image("a")));
}

#[test]
fn zeroes_become_the_holes_that_the_real_tool_makes_on_the_way_back() {
    let bench = Bench::new();
    let mut bytes = vec![0; 4 * MIB];
    bytes[..4096].fill(1);
    bytes[65_536..131_072].fill(2);
    bytes[262_144..262_656].fill(3);
    bytes[307_200] = 4;
    bytes[2 * MIB..2 * MIB + 5000].fill(5);
    bench.write("picture", &bytes);
    bench.ok(Ours, "qemu-img convert SECRET -f raw -O luks -o key-secret=s,iter-time=1 picture a");
    for sparse in ["", "-S 0", "-S 512", "-S 4k", "-S 64k", "-S 1M", "-S 3M", "-S 16M"] {
        let [ours, real] = [Ours, Real].map(|whose| {
            bench.ok(
                whose,
                &format!("qemu-img convert {sparse} SECRET --image-opts {} -O raw out", image("a")),
            );
            assert!(bench.bytes("out") == bytes, "{whose:?} {sparse}");
            bench.ok(Real, "qemu-img map -f raw --output=json out")
        });
        assert_eq!(ours, real, "{sparse}");
    }
}

#[test]
fn a_slot_that_would_take_too_long_is_skipped_and_the_others_are_tried() {
    let bench = Bench::new();
    bench.create_ours("a", "cipher-alg=aes-128");
    bench.write("second", b"second");
    let add = "luksAddKey -q --pbkdf-force-iterations 1000 --key-file pw a second";
    assert_eq!(bench.cryptsetup(add).code, Some(0));
    let mut bytes = bench.bytes("a");
    bytes[212..216].fill(0xff);
    bench.write("a", &bytes);
    let open = |secret: &str, more: &str| {
        let secret = format!("--object secret,id=s,file={secret}");
        bench.run(Ours, &format!("qemu-img convert {more} {secret} --image-opts -O raw {} out", image("a")))
    };
    assert_eq!(open("second", "").code, Some(0));
    assert!(bench.bytes("out") == bench.bytes("src.raw"));
    for more in ["", "--max-kdf-time 1"] {
        let ran = open("pw", more);
        let hint = ran.stderr.lines().nth(1).unwrap_or_default();
        assert!(ran.code == Some(1) && hint.contains("--max-kdf-time SECONDS allows more time"), "{ran}");
    }
}
