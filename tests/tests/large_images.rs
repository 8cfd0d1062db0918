//! Images of 8 TiB, in sparse files: their first and last sectors, written by one side and read by the other.

#![forbid(unsafe_code)]

use std::path::Path;
use tests::Whose;

const SECRET: &str = "--object secret,id=s,file=pass";
const IMAGE: &str = "--image-opts driver=luks,key-secret=s,file.filename=a.luks";
/// The last sector of 8 TiB.
const LAST: u64 = (8 << 40) - 512;

fn io(whose: Whose, dir: &Path, commands: &[String]) {
    let commands: Vec<String> = commands.iter().map(|command| format!("-c '{command}'")).collect();
    let said = whose.run(dir, &format!("qemu-io {SECRET} {} {IMAGE}", commands.join(" "))).ok();
    assert!(!said.contains("failed"), "{said}");
}

fn both_ends(command: &str, byte: u8) -> [String; 2] {
    [0, LAST].map(|at| format!("{command} -q -P {byte} {at} 512"))
}

/// Creates the image with `first`, and has both sides write and read its ends.
fn passes_between(first: Whose, second: Whose, options: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let dir = dir.path();
    std::fs::write(dir.join("pass"), "a passphrase").expect("the directory can be written");
    first.run(dir, &format!("qemu-img create -q -f luks {SECRET} -o key-secret=s,{options} a.luks 8T")).ok();
    io(first, dir, &both_ends("write", 7));
    io(second, dir, &both_ends("read", 7));
    io(second, dir, &both_ends("write", 9));
    io(first, dir, &both_ends("read", 9));
    let info = second.run(dir, "qemu-img info -f luks a.luks").ok();
    assert!(info.contains(&format!("({} bytes)", LAST + 512)), "{info}");
    second.run(dir, &format!("qemu-img resize -q {SECRET} {IMAGE} +1M")).ok();
    let end = LAST + 512 + (1 << 20) - 512;
    io(first, dir, &[format!("write -q -P 3 {end} 512")]);
    io(second, dir, &[format!("read -q -P 3 {end} 512"), format!("read -q -P 9 {LAST} 512")]);
}

#[test]
fn luks1_made_by_us_is_used_by_the_real_tool() {
    passes_between(Whose::Ours, Whose::Real, "iter-time=10");
}

#[test]
fn luks1_made_by_the_real_tool_is_used_by_us() {
    passes_between(Whose::Real, Whose::Ours, "iter-time=10");
}

#[test]
fn luks2_keeps_both_ends() {
    passes_between(Whose::Ours, Whose::Ours, "version=2,pbkdf=pbkdf2,pbkdf-iterations=1000");
}
