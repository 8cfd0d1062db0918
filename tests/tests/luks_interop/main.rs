//! LUKS1 images, ours and those of the real tools, each read by the others.
//!
//! The matrix of algorithms is generated ([`combination`]): a pairwise choice of it, or all of it when `BLOCKIMG_LONG` is set.
//! Nothing in it is left out silently: what no tool here can prove is listed with its reason.

#![forbid(unsafe_code)]

mod combination;
mod conversion;
mod refusals;
mod shapes;

use combination::{Combination, Peer, choose, ciphers, hashes};
use tests::Whose::{Ours, Real};
use tests::luks::{BYTES, Bench, image};

/// Runs `test` on every combination and tells all that fail.
fn each(combinations: &[Combination], test: impl Fn(&Bench, &Combination) -> Result<(), String>) {
    let bench = Bench::new();
    let run = |c| test(&bench, c).err().map(|e| format!("{} {}: {e}\n", c.spec(), c.options()));
    let failures: String = combinations.iter().filter_map(run).collect();
    assert!(failures.is_empty(), "{failures}");
}

fn must(condition: bool, what: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what.to_owned()) }
}

fn known_to(peer: Peer, all: Vec<Combination>) -> Vec<Combination> {
    all.into_iter().filter(|c| c.known_to(peer)).collect()
}

/// Creates an image with our program and has it read by every peer that knows its algorithms.
fn ours_to_theirs(bench: &Bench, c: &Combination) -> Result<(), String> {
    bench.create_ours("a", &c.options());
    must(bench.reads(Ours, &image("a")), "ours does not read it back")?;
    // It does not even show a header with md5.
    must(bench.cryptsetup("luksDump a").code == Some(0) || c.hash == "md5", "cryptsetup luksDump")?;
    if c.known_to(Peer::Qemu) {
        must(bench.reads(Real, &image("a")), "qemu-img reads something else")?;
    }
    if c.known_to(Peer::Cryptsetup) {
        let open = bench.cryptsetup("open --test-passphrase --key-file pw a");
        must(open.code == Some(0), &format!("cryptsetup open: {open}"))?;
    }
    if c.known_to(Peer::Nbdkit) {
        must(bench.nbdkit_reads("a"), "nbdkit reads something else")?;
    }
    Ok(())
}

#[test]
fn images_we_create_are_read_by_all_who_know_their_ciphers() {
    each(&choose(ciphers()), ours_to_theirs);
}

#[test]
fn images_we_create_are_read_by_all_who_know_their_hash() {
    each(&hashes(), ours_to_theirs);
}

fn qemus_to_ours(bench: &Bench, c: &Combination) -> Result<(), String> {
    bench.create(Real, "a", &format!("iter-time=1,{}", c.options()));
    must(bench.reads(Ours, &image("a")), "ours reads something else")
}

#[test]
fn images_qemu_creates_are_read_by_us_whatever_the_cipher() {
    each(&choose(known_to(Peer::Qemu, ciphers())), qemus_to_ours);
}

#[test]
fn images_qemu_creates_are_read_by_us_whatever_the_hash() {
    each(&known_to(Peer::Qemu, hashes()), qemus_to_ours);
}

/// Formats with cryptsetup; the payload is written by QEMU where it can and by us where not.
fn cryptsetups_to_ours(bench: &Bench, c: &Combination) -> Result<(), String> {
    bench.truncate("a", (4096 * 512 + BYTES) as u64);
    let bits = c.key_bytes() * 8;
    let format = bench.cryptsetup(&format!(
        "luksFormat -q --type luks1 --cipher {} --key-size {bits} --hash {} --pbkdf-force-iterations 1000 --key-file pw a",
        c.spec(),
        c.hash
    ));
    must(format.code == Some(0), &format!("cryptsetup luksFormat: {format}"))?;
    bench.fill(if c.known_to(Peer::Qemu) { Real } else { Ours }, &image("a"));
    // Where the payload begins depends on the key, so how long it is does too.
    must(bench.read(Ours, &image("a")).starts_with(&bench.bytes("src.raw")), "ours reads something else")
}

#[test]
fn images_cryptsetup_formats_are_opened_by_us() {
    each(&known_to(Peer::Cryptsetup, ciphers()), cryptsetups_to_ours);
    each(&known_to(Peer::Cryptsetup, hashes()), cryptsetups_to_ours);
}

/// The payloads that cryptsetup can re-encrypt; benbi is only the kernel's.
fn reencryptable() -> Vec<Combination> {
    known_to(Peer::Cryptsetup, ciphers()).into_iter().filter(|c| c.ivgen != "benbi").collect()
}

/// Moves the payload of `name` to sector 4096, where LUKS2 headers leave it.
fn move_payload(bench: &Bench, name: &str) {
    let bytes = bench.bytes(name);
    let old = u32::from_be_bytes(bytes[104..108].try_into().unwrap()) as usize * 512;
    let mut moved = bytes[..old].to_vec();
    moved.resize(4096 * 512, 0);
    moved.extend_from_slice(&bytes[old..]);
    moved[104..108].copy_from_slice(&4096_u32.to_be_bytes());
    bench.write(name, &moved);
}

#[test]
fn cryptsetup_decrypts_payloads_that_we_encrypted() {
    each(&choose(reencryptable()), |bench, c| {
        bench.create_ours("a", &c.options());
        move_payload(bench, "a");
        must(bench.reads(Ours, &image("a")), "ours does not read the moved payload")?;
        let convert = bench.cryptsetup("convert -q --type luks2 a");
        must(convert.code == Some(0), &format!("cryptsetup convert: {convert}"))?;
        let _ = std::fs::remove_file(bench.path("header"));
        let decrypt = bench
            .cryptsetup("reencrypt -q --decrypt --force-offline-reencrypt --header header --key-file pw a");
        must(decrypt.code == Some(0), &format!("cryptsetup reencrypt --decrypt: {decrypt}"))?;
        must(bench.bytes("a")[..BYTES] == bench.bytes("src.raw"), "cryptsetup decrypts to something else")
    });
}

#[test]
fn we_decrypt_payloads_that_cryptsetup_encrypted() {
    each(&choose(reencryptable()), |bench, c| {
        std::fs::copy(bench.path("src.raw"), bench.path("a")).unwrap();
        bench.truncate("a", BYTES as u64 + (32 << 20));
        let encrypt = bench.cryptsetup(&format!(
            "reencrypt -q --encrypt --type luks2 --cipher {} --key-size {} --sector-size 512 --pbkdf pbkdf2 \
             --pbkdf-force-iterations 1000 --reduce-device-size 32M --key-file pw a",
            c.spec(),
            c.key_bytes() * 8
        ));
        must(encrypt.code == Some(0), &format!("cryptsetup reencrypt --encrypt: {encrypt}"))?;
        must(
            bench.read(Ours, &image("a")).starts_with(&bench.bytes("src.raw")),
            "ours reads something else of LUKS2",
        )?;
        let convert = bench.cryptsetup("convert -q --type luks1 a");
        must(convert.code == Some(0), &format!("cryptsetup convert: {convert}"))?;
        must(bench.read(Ours, &image("a")).starts_with(&bench.bytes("src.raw")), "ours reads something else")
    });
}
