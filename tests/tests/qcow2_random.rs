//! Random requests on qcow2 images by our driver and by the real tool: the same contents, the same allocation, clean.

use std::path::Path;
use tests::random::{Model, Op, Random, STARTS, Shape, Start, contents, open_writable, run_real};
use tests::{Pair, Whose};

/// A run of the disk: start, length, and everything the map says but whether stored bytes are a hole of the file.
type Run = (u64, u64, String);

/// The allocation as the real tool sees it.
fn map(dir: &Path) -> Vec<Run> {
    let text = Whose::Real.run(dir, "qemu-img map --output=json t.qcow2").ok();
    let mut runs: Vec<Run> = Vec::new();
    for line in text.lines() {
        let number = |key: &str| {
            let rest = line.split_once(&format!("\"{key}\": "))?.1;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        let (start, len) = (number("start").unwrap(), number("length").unwrap());
        let stored = line.contains("\"data\": true");
        let flags = line.split_once("\"depth\"").unwrap().1.split("}").next().unwrap();
        let flags = flags.split(", \"offset\"").next().unwrap().to_owned();
        let flags = if stored { flags.replace("\"zero\": true", "\"zero\": false") } else { flags };
        // Where it would begin if the disk were one run.
        let origin = number("offset").map(|at| at.wrapping_sub(start));
        let what = format!("{flags} {origin:?}");
        match runs.last_mut() {
            Some((_, n, last)) if *last == what => *n += len,
            _ => runs.push((start, len, what)),
        }
    }
    runs
}

fn prepare(pair: &Pair, start: &Start, disk: u64) {
    let create = |whose| {
        let data_file = format!("data_file={}/", pair.dir(whose).display());
        format!("qemu-img create -q -f qcow2 -o {}", start.options.replacen("data_file=", &data_file, 1))
    };
    if let Some(len) = start.backing {
        pair.prepare(&format!("qemu-img create -q -f raw base.raw {len}"));
        pair.prepare("qemu-io -f raw base.raw -c 'write -q -P 77 0 64k' -c 'write -q -P 78 200k 300k'");
    }
    let backing = if start.backing.is_some() { "-b base.raw -F raw" } else { "" };
    for whose in [Whose::Ours, Whose::Real] {
        let line = format!("{} {backing} t.qcow2 {disk}", create(whose));
        Whose::Real.run(pair.dir(whose), &line).ok();
    }
}

/// Runs the first `count` requests of a sequence on both sides; what is not the same afterwards.
fn differential(start: &Start, seed: u64, count: usize) -> Result<(), String> {
    let mut random = Random::new(seed);
    let disk = (random.below(8) + 1) * (1 << 20) - random.below(4) * 512;
    let pair = Pair::new();
    prepare(&pair, start, disk);
    let shape = Shape { disk, cluster: start.cluster, compressed: start.compressed && seed % 2 == 1 };
    let ops: Vec<Op> = (0..count).map(|_| Op::random(&mut random, shape)).collect();
    let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| pair.dir(whose).join("t.qcow2"));
    let discards = start.backing.is_none() || !start.options.contains("compat=0.10");
    let mut model = Model::new(contents(&ours).map_err(|e| e.to_string())?, start.cluster, discards);
    let theirs = run_real(&real, &ops);
    let failures = theirs.stdout.lines().filter(|l| l.contains("failed")).count();
    let image = open_writable(&ours).map_err(|e| e.to_string())?;
    let mut failed = Vec::new();
    for op in &ops {
        match op.run(&image) {
            Ok(()) => model.run(*op),
            Err(e) => failed.push((op, e)),
        }
    }
    image.close().map_err(|e| e.to_string())?;
    let last = ops.last();
    if failed.len() != failures {
        return Err(format!("{last:?}: requests that fail: {failed:?}; there {theirs}"));
    }
    let check = Whose::Real.run(pair.dir(Whose::Ours), "qemu-img check t.qcow2");
    if check.code != Some(0) {
        return Err(format!("{last:?}: {check}"));
    }
    if contents(&ours).map_err(|e| e.to_string())? != model.bytes() {
        return Err(format!("{last:?}: we do not read what we wrote"));
    }
    Whose::Real.run(pair.dir(Whose::Ours), "qemu-img convert -O raw t.qcow2 t.raw").ok();
    if std::fs::read(ours.with_extension("raw")).map_err(|e| e.to_string())? != model.bytes() {
        return Err(format!("{last:?}: they do not read what we wrote"));
    }
    // The real tool may append compressed data to a cluster that was freed and is in use for something else, which
    // destroys that; we do not, and from then on the two go different ways.
    if ops.iter().any(|op| matches!(op, Op::Compressed { .. })) {
        return Ok(());
    }
    if contents(&real).map_err(|e| e.to_string())? != model.bytes() {
        return Err(format!("{last:?}: we do not read what they wrote"));
    }
    let [ours, real] = [Whose::Ours, Whose::Real].map(|whose| map(pair.dir(whose)));
    match ours.iter().zip(&real).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!("{last:?}: allocation\n  ours {a:?}\n  real {b:?}")),
        None => Ok(()),
    }
}

/// Fails with the shortest beginning of the sequence that goes wrong.
fn check_sequence(start: &Start, seed: u64, count: usize) {
    if differential(start, seed, count).is_ok() {
        return;
    }
    let first = (1..=count).find_map(|n| Some((n, differential(start, seed, n).err()?)));
    panic!("{} seed {seed}: {first:?}", start.options);
}

fn seeds() -> u64 {
    std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2)
}

#[test]
fn random_requests_leave_what_the_real_tool_leaves() {
    let only: Option<usize> = std::env::var("START").ok().and_then(|n| n.parse().ok());
    for (_, start) in STARTS.iter().enumerate().filter(|(i, _)| only.is_none_or(|only| only == *i)) {
        for seed in 0..seeds() {
            check_sequence(start, seed, 60);
        }
    }
}
