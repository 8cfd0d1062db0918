//! Images that are wrong on purpose: one field at a time is set to something illegal, or bytes of the metadata are changed at
//! random. Our programs end with an error that names what is wrong, never with a panic, never hang, and never use more
//! memory than an honest image would. `BLOCKIMG_SEED` and `BLOCKIMG_COUNT` choose seeds of the random ones.

#[path = "qcow2_hostile/images.rs"]
mod images;
#[path = "qcow2_hostile/messages.rs"]
mod messages;

use images::{Field, KINDS, Kind};
use nix::sys::resource::{UsageWho, getrusage};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tests::random::Random;
use tests::seeds::Seeds;
use tests::{Ran, Whose, words};

/// The most memory any of the programs may have used, in KiB.
const MEMORY: i64 = 256 << 10;
/// After how long a program is said to hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many images are made of one seed.
const IMAGES: usize = 4;

/// What programs do with an image, which `IMG` stands for. A file that is written is there for one line only.
const LINES: [&str; 24] = [
    "qemu-img info IMG",
    "qemu-img check IMG",
    "qemu-img map IMG",
    "qemu-img map --output=json IMG",
    "qemu-img measure -O qcow2 IMG",
    "qemu-img convert -O qcow2 IMG out",
    "qemu-img convert -c -O qcow2 --bitmaps --skip-broken-bitmaps IMG out",
    "qemu-img convert -O raw -l one IMG out",
    "qemu-img snapshot -l IMG",
    "qemu-img snapshot -c three IMG",
    "qemu-img snapshot -a one IMG",
    "qemu-img snapshot -d one IMG",
    "qemu-img bitmap --add IMG new",
    "qemu-img bitmap --clear IMG b",
    "qemu-img bitmap --remove IMG b",
    "qemu-img amend -o compat=0.10 IMG",
    "qemu-img rebase -b '' IMG",
    "qemu-img commit IMG",
    "qemu-img resize IMG +1M",
    "qemu-img resize --shrink IMG 1M",
    "qemu-io -r IMG -c 'read -q 0 1M' -c 'read -q 1M 64k'",
    "qemu-io IMG -c 'write -q 0 64k' -c 'write -q 3M 64k' -c 'write -q -c 1M 64k' -c 'discard -q 128k 64k' -c 'write -q -z 2M 64k'",
    "qemu-img check -r leaks IMG",
    "qemu-img check -r all IMG",
];

/// Runs one of our programs on the image of the directory, with an end to patience.
fn run(dir: &Path, kind: &Kind, line: &str) -> Ran {
    let words = words(&line.replace("IMG", &kind.named()));
    Ran::within(PATIENCE, Whose::Ours.command(&words[0]).args(&words[1..]).current_dir(dir))
}

/// Runs lines on the image `bad`, each on a fresh copy; gives what went wrong with the first that failed.
fn suffers(dir: &Path, kind: &Kind, bad: &[u8], lines: &[&str]) -> Option<String> {
    lines.iter().find_map(|line| {
        kind.restore(dir, bad);
        let ran = run(dir, kind, line);
        let _ = std::fs::remove_file(dir.join("out"));
        let greedy = greedy();
        let fine = ran.code.is_some_and(|code| code < 64) && !ran.stderr.contains("panicked") && !greedy;
        (!fine).then(|| format!("{line}: {}{ran}", if greedy { "too much memory: " } else { "" }))
    })
}

/// Whether a program used more memory than it may, and more than any before it. Of two that run at a time it may be the other.
fn greedy() -> bool {
    static MOST: AtomicI64 = AtomicI64::new(MEMORY - 1);
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    MOST.fetch_max(used, Ordering::Relaxed) < used
}

/// The lines for the `n`th case: all of them in long runs, else some, others for each case.
fn lines_for(n: usize) -> Vec<&'static str> {
    let count = if std::env::var_os("BLOCKIMG_LONG").is_some() { LINES.len() } else { 2 };
    (0..count).map(|i| LINES[(n * count + i) % LINES.len()]).collect()
}

/// Sets every field of an image to every illegal value; tells what that did to our programs.
fn attack(kind: &Kind) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = kind.make(dir);
    let (mut n, mut failures) = (0, Vec::new());
    for Field { name, at, width } in kind.fields(&good) {
        for value in images::values(width) {
            let mut bad = good.clone();
            bad[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
            let failed = suffers(dir, kind, &bad, &lines_for(n));
            failures.extend(failed.map(|failed| format!("{}: {name} = {value:#x}: {failed}", kind.name)));
            n += 1;
        }
    }
    failures
}

/// Changes bytes of the metadata of some images at random; tells what that did to our programs.
fn disturb(seed: u64) -> Option<String> {
    let number = usize::try_from(seed).unwrap();
    let kind = &KINDS[number % KINDS.len()];
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = kind.make(dir);
    let places = kind.metadata(&good);
    let mut random = Random::new(seed);
    let mut failures = Vec::new();
    for n in 0..IMAGES {
        let mut bad = good.clone();
        let count = random.below(4) + 1;
        let changes: Vec<_> = (0..count).map(|_| images::change(&mut bad, &places, &mut random)).collect();
        let failed = suffers(dir, kind, &bad, &lines_for(number * IMAGES + n));
        failures.extend(failed.map(|failed| format!("{}: seed {seed}: {changes:x?}: {failed}\n", kind.name)));
    }
    (!failures.is_empty()).then(|| failures.concat())
}

#[test]
fn no_field_makes_a_program_panic_or_eat_memory() {
    let failures: Vec<_> = KINDS.iter().flat_map(attack).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn no_bytes_of_metadata_make_a_program_panic_hang_or_eat_memory() {
    let failures = Seeds::asked(30, 2500).run(disturb);
    assert!(failures.is_empty(), "{}", failures.concat());
}
