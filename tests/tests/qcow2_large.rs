//! qcow2 images at the limits: disks of 64 TiB, chains of 200 images, thousands of snapshots and bitmaps, each made by one side and
//! used by the other, which must agree on all that can be asked of them.
//!
//! `BLOCKIMG_LONG` adds more shapes of clusters, longer lists, and what takes the real tool minutes.

#![forbid(unsafe_code)]

use std::path::Path;
use tests::Whose::{self, Ours, Real};

/// The largest disk, in bytes.
const SIZE: u64 = 64 << 40;
/// Where data is: both ends, the middle, and across the ends of L2 tables.
const PLACES: [u64; 5] = [0, (1 << 40) - 65536, 32 << 40, (48 << 40) + 12345 * 65536, SIZE - 131_072];

fn long() -> bool {
    std::env::var_os("BLOCKIMG_LONG").is_some()
}

/// Runs a command that has to succeed.
fn ok(whose: Whose, dir: &Path, line: &str) -> String {
    let ran = whose.run(dir, line);
    assert!(ran.code == Some(0) && !ran.stdout.contains("failed"), "{whose:?}: {line}: {ran}");
    ran.stdout
}

/// Runs a command with both, which have to say the same; gives that.
fn both(dir: &Path, line: &str) -> String {
    let [ours, real] = [Ours, Real].map(|whose| whose.run(dir, line));
    assert!(ours.agrees_with(&real), "{line}:\n ours {ours}\n real {real}");
    ours.stdout
}

fn clean(dir: &Path, image: &str) {
    let said = both(dir, &format!("qemu-img check {image}"));
    assert!(said.contains("No errors were found"), "{said}");
}

/// Commands that write (or read and compare) a byte at every place.
fn everywhere(verb: &str, byte: u64) -> String {
    let one = |(i, at): (u64, &u64)| format!("-c '{verb} -q -P {} {at} 128k' ", byte + i);
    (0..).zip(&PLACES).map(one).collect()
}

/// A disk of 64 TiB made by `maker` and used by `user`.
fn huge(maker: Whose, user: Whose, options: &str) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ok(maker, dir, &format!("qemu-img create -q -f qcow2 -o {options} a 64T"));
    ok(maker, dir, &format!("qemu-io -f qcow2 {} a", everywhere("write", 1)));
    ok(user, dir, &format!("qemu-io -f qcow2 {} a", everywhere("read", 1)));
    clean(dir, "a");
    // Of clusters that are not filled, the two tell the holes of the file differently.
    if !options.contains("2M") {
        both(dir, "qemu-img map --output=json a");
    }
    both(dir, "qemu-img info a");
    ok(user, dir, "qemu-img snapshot -c one a");
    ok(maker, dir, &format!("qemu-io -f qcow2 {} a", everywhere("write", 101)));
    ok(user, dir, &format!("qemu-io -f qcow2 -c 'discard {} 1G' a", SIZE - (1 << 30)));
    clean(dir, "a");
    ok(maker, dir, "qemu-img snapshot -a one a");
    ok(user, dir, &format!("qemu-io -f qcow2 {} a", everywhere("read", 1)));
    ok(user, dir, "qemu-img snapshot -d one a");
    clean(dir, "a");
    ok(Ours, dir, &format!("qemu-img convert -O qcow2 -o {options} a b"));
    ok(Ours, dir, "qemu-img compare a b");
    if long() {
        ok(Real, dir, &format!("qemu-img convert -O qcow2 -o {options} b c"));
        ok(Real, dir, "qemu-img compare a c");
    }
    // The real tool takes minutes for this one.
    ok(Ours, dir, "qemu-img resize -q --shrink b 33T");
    clean(dir, "b");
    ok(Real, dir, "qemu-img resize -q b 64T");
    let middle = PLACES[2];
    ok(
        Ours,
        dir,
        &format!(
            "qemu-io -f qcow2 -c 'read -q -P 3 {middle} 128k' -c 'read -q -P 0 {} 1M' b",
            SIZE - (1 << 20)
        ),
    );
    clean(dir, "b");
}

#[test]
fn disks_of_64_tib_made_by_us_are_used_by_the_real_tool() {
    huge(Ours, Real, "cluster_size=64k");
    huge(Ours, Real, "cluster_size=64k,extended_l2=on");
    if long() {
        huge(Ours, Real, "cluster_size=16k,extended_l2=on");
        huge(Ours, Real, "cluster_size=2M");
    }
}

#[test]
fn disks_of_64_tib_made_by_the_real_tool_are_used_by_us() {
    huge(Real, Ours, "cluster_size=2M");
    if long() {
        huge(Real, Ours, "cluster_size=16k");
        huge(Real, Ours, "cluster_size=64k,extended_l2=on");
    }
}

/// How many images are above the first of a chain.
const DEPTH: usize = 200;

/// A chain in which every tenth image has data of its own, made by `maker` and used by `user`.
fn chain(maker: Whose, user: Whose) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ok(maker, dir, "qemu-img create -q -f qcow2 0 64M");
    for n in 1..=DEPTH {
        ok(maker, dir, &format!("qemu-img create -q -f qcow2 -b {} -F qcow2 {n} 64M", n - 1));
        if n % 10 == 0 {
            ok(maker, dir, &format!("qemu-io -f qcow2 -c 'write -q -P {n} {}k 128k' {n}", n * 64));
        }
    }
    let top = DEPTH.to_string();
    let listed = both(dir, &format!("qemu-img info --backing-chain {top}"));
    assert_eq!(listed.matches("image: ").count(), DEPTH + 1);
    both(dir, &format!("qemu-img map --output=json {top}"));
    ok(user, dir, &format!("qemu-img convert -O raw {top} flat"));
    both(dir, &format!("qemu-img compare {top} flat"));
    ok(user, dir, &format!("qemu-img rebase -b {} -F qcow2 {top}", DEPTH / 2));
    both(dir, &format!("qemu-img compare {top} flat"));
    ok(user, dir, &format!("qemu-img commit -q -b {} {top}", DEPTH / 4));
    both(dir, &format!("qemu-img compare {} flat", DEPTH / 4));
    clean(dir, &top);
    clean(dir, &(DEPTH / 4).to_string());
}

#[test]
fn chains_of_200_images_made_by_us_are_used_by_the_real_tool() {
    chain(Ours, Real);
}

#[test]
fn chains_of_200_images_made_by_the_real_tool_are_used_by_us() {
    chain(Real, Ours);
}

fn be(image: &[u8], at: usize, width: usize) -> usize {
    image[at..at + width].iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Multiplies the one entry of a table: `entry` gives the bytes of each copy. The new table is appended; gives where and how long
/// it is. Who made the image then counts the references that came with it.
fn multiply(image: &mut Vec<u8>, count: usize, entry: impl Fn(usize) -> Vec<u8>) -> (u64, u64) {
    image.resize(image.len().next_multiple_of(65536), 0);
    let at = image.len();
    for n in 0..count {
        image.extend(entry(n));
        image.resize(image.len().next_multiple_of(8), 0);
    }
    (at as u64, (image.len() - at) as u64)
}

fn number(n: usize) -> String {
    format!("{n:05}")
}

/// Gives the image of a directory `count` snapshots in place of the one it has.
fn many_snapshots(dir: &Path, maker: Whose, count: usize) {
    let mut image = std::fs::read(dir.join("a")).unwrap();
    let table = be(&image, 64, 8);
    let names = 40 + be(&image, table + 36, 4);
    let fixed = image[table..table + names].to_vec();
    let (at, _) = multiply(&mut image, count, |n| {
        let lengths = [0u8, 5, 0, 6];
        let text = format!("{}s{}", number(n + 1), number(n + 1));
        [&fixed[..12], &lengths, &fixed[16..], text.as_bytes()].concat()
    });
    image[60..64].copy_from_slice(&u32::try_from(count).unwrap().to_be_bytes());
    image[64..72].copy_from_slice(&at.to_be_bytes());
    std::fs::write(dir.join("a"), image).unwrap();
    maker.run(dir, "qemu-img check -r all a");
    clean(dir, "a");
}

fn thousands_of_snapshots(maker: Whose, user: Whose, count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ok(maker, dir, "qemu-img create -q -f qcow2 a 64M");
    ok(maker, dir, "qemu-io -f qcow2 -c 'write -q -P 1 0 8M' a");
    ok(maker, dir, "qemu-img snapshot -c first a");
    many_snapshots(dir, maker, count);
    ok(maker, dir, "qemu-io -f qcow2 -c 'write -q -P 2 1M 2M' a");
    let listed = both(dir, "qemu-img snapshot -l a");
    assert_eq!(listed.lines().count(), count + 2);
    both(dir, "qemu-img info --output=json a");
    let name = |n: usize| format!("s{}", number(n));
    ok(user, dir, &format!("qemu-img snapshot -d {} a", name(count / 3)));
    ok(user, dir, "qemu-img snapshot -c new a");
    ok(user, dir, &format!("qemu-img snapshot -a {} a", name(count / 2)));
    clean(dir, "a");
    ok(maker, dir, "qemu-io -f qcow2 -c 'read -q -P 1 0 8M' a");
    both(dir, "qemu-img snapshot -l a");
    for whose in [Ours, Real] {
        ok(whose, dir, "qemu-img convert -l new -O raw a new.raw");
        ok(whose, dir, "qemu-io -f raw -c 'read -q -P 2 1M 2M' -c 'read -q -P 1 3M 5M' new.raw");
    }
}

#[test]
fn thousands_of_snapshots_made_by_us_are_used_by_the_real_tool() {
    thousands_of_snapshots(Ours, Real, 3000);
}

#[test]
fn thousands_of_snapshots_made_by_the_real_tool_are_used_by_us() {
    thousands_of_snapshots(Real, Ours, if long() { 20_000 } else { 3000 });
}

/// Gives the image of a directory `count` bitmaps in place of the one it has.
fn many_bitmaps(dir: &Path, maker: Whose, count: usize) {
    let mut image = std::fs::read(dir.join("a")).unwrap();
    let mut extension = be(&image, 100, 4);
    while be(&image, extension, 4) != 0x2385_2875 {
        extension += 8 + be(&image, extension + 4, 4).next_multiple_of(8);
    }
    let directory = be(&image, extension + 24, 8);
    let fixed = image[directory..directory + 24].to_vec();
    let (at, len) =
        multiply(&mut image, count, |n| [&fixed[..18], &[0, 5, 0, 0, 0, 0], number(n).as_bytes()].concat());
    image[extension + 8..extension + 12].copy_from_slice(&u32::try_from(count).unwrap().to_be_bytes());
    image[extension + 16..extension + 24].copy_from_slice(&len.to_be_bytes());
    image[extension + 24..extension + 32].copy_from_slice(&at.to_be_bytes());
    std::fs::write(dir.join("a"), image).unwrap();
    maker.run(dir, "qemu-img check -r all a");
    clean(dir, "a");
}

fn thousands_of_bitmaps(maker: Whose, user: Whose, count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ok(maker, dir, "qemu-img create -q -f qcow2 a 64M");
    ok(maker, dir, "qemu-img bitmap --add a one");
    ok(maker, dir, "qemu-io -f qcow2 -c 'write -q -P 1 3M 64k' a");
    many_bitmaps(dir, maker, count);
    both(dir, "qemu-img info --output=json a");
    ok(user, dir, &format!("qemu-img bitmap --remove a {}", number(count / 2)));
    ok(user, dir, "qemu-img bitmap --add a another");
    clean(dir, "a");
    ok(maker, dir, "qemu-io -f qcow2 -c 'write -q -P 1 5M 64k' a");
    let info = both(dir, "qemu-img info --output=json a");
    assert_eq!(info.matches("\"granularity\"").count(), count);
    clean(dir, "a");
}

#[test]
fn thousands_of_bitmaps_made_by_us_are_used_by_the_real_tool() {
    thousands_of_bitmaps(Ours, Real, 1000);
}

#[test]
fn thousands_of_bitmaps_made_by_the_real_tool_are_used_by_us() {
    thousands_of_bitmaps(Real, Ours, if long() { 5000 } else { 1000 });
}
