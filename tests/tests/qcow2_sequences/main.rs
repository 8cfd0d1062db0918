//! Random sequences of commands on qcow2 images, by our programs and by the real ones from the same start: they fail and
//! succeed alike, the images are clean, and both tools read the same from both.

#![forbid(unsafe_code)]

mod kind;
mod sequence;

use kind::{Kind, kinds};
use sequence::Sequence;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many sequences are run: CI's share, and with `BLOCKIMG_LONG` the whole.
fn count() -> usize {
    let given = std::env::var("SEQUENCES").ok().and_then(|n| n.parse().ok());
    given.unwrap_or(if std::env::var_os("BLOCKIMG_LONG").is_some() { 2000 } else { 100 })
}

/// What goes wrong with the first sequence that does, cut to its shortest bad beginning.
fn explain(kind: &Kind, seed: u64, commands: usize) -> Option<String> {
    let run = |length| Sequence::new(kind, seed).run(length).err();
    run(commands)?;
    let (length, error) = (1..=commands).find_map(|length| Some((length, run(length)?)))?;
    Some(format!("{kind:?} seed {seed}, {length} commands: {error}"))
}

#[test]
fn sequences_of_commands_leave_what_the_real_tools_leave() {
    const COMMANDS: usize = 8;
    let kinds = kinds();
    let only: Option<usize> = std::env::var("SEED").ok().and_then(|n| n.parse().ok());
    let next = AtomicUsize::new(only.unwrap_or(0));
    let end = only.map_or_else(count, |seed| seed + 1);
    let worker = || {
        let mut found = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return found;
            }
            found.extend(explain(&kinds[seed % kinds.len()], seed as u64, COMMANDS));
        }
    };
    let found: Vec<String> = std::thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker ends")).collect()
    });
    println!("{end} sequences over {} kinds of image", kinds.len());
    assert!(found.is_empty(), "{} sequences differ:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_kinds_of_image_have_every_pair_of_features() {
    let kinds = kinds();
    for feature in
        ["compat=0.10", "lazy_refcounts=on", "extended_l2=on", "data_file_raw=on", "encrypt.format=luks"]
    {
        assert!(kinds.iter().any(|kind| kind.options().contains(feature)), "{feature}");
    }
    assert!(kinds.len() < 60, "{} kinds", kinds.len());
}
