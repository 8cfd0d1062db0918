//! A power cut at any point of a random workload on qcow2: what is left opens, gives back every flushed byte, and is
//! mended by a check without changing one.
//!
//! The model of the disk: a flush makes everything before it durable; of what came after, in one kind of cut everything
//! arrived in order, in the other any part did, in pieces of 512 bytes, the header cluster as one.

#![forbid(unsafe_code)]

mod cut;
mod verdict;
mod workload;

use cut::{Replay, Tear};
use std::sync::atomic::{AtomicUsize, Ordering};
use tests::random::{Random, STARTS, Start};
use verdict::Judge;
use workload::Workload;

/// How much is tried.
struct Extent {
    sequences: u64,
    acts: usize,
    /// Cuts of one sequence, each in order and torn.
    cuts: usize,
}

fn extent() -> Extent {
    if std::env::var_os("BLOCKIMG_LONG").is_some() {
        return Extent { sequences: 4, acts: 40, cuts: 100 };
    }
    Extent { sequences: 1, acts: 30, cuts: 8 }
}

/// Cuts one sequence at evenly spread points; how many cuts that were.
fn cut_sequence(start: &Start, seed: u64, extent: &Extent) -> usize {
    let workload = Workload::run(start, seed, extent.acts);
    let journal = workload.journal();
    let stride = (journal.len() / extent.cuts).max(1);
    let mut judge = Judge::new(&workload, &format!("{} seed {seed}", start.options));
    let mut replay = Replay::new(workload.before.clone(), start.cluster);
    let mut cuts = 0;
    for (done, step) in journal.iter().enumerate() {
        replay.step(step);
        if done % stride == stride - 1 {
            let mut random = Random::new(seed << 32 | done as u64);
            judge.judge(done + 1, &replay.files(&mut Tear::Nothing));
            judge.judge(done + 1, &replay.files(&mut Tear::Anything(&mut random)));
            cuts += 2;
        }
    }
    cuts
}

#[test]
fn whatever_a_power_cut_leaves_opens_and_holds_every_flushed_byte() {
    let extent = extent();
    let jobs: Vec<(&Start, u64)> = STARTS
        .iter()
        .filter(|start| start.cluster <= 65536)
        .flat_map(|start| (0..extent.sequences).map(move |seed| (start, seed)))
        .collect();
    let (next, cuts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((start, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    cuts.fetch_add(cut_sequence(start, *seed, &extent), Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} cuts", cuts.into_inner());
}
