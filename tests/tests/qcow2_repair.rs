//! `check -r all` beside the real tool, on images that were damaged at random: the same exit status, the same text, and
//! afterwards images that the real tool finds as sound and reads the same from.
//!
//! `BLOCKIMG_SEED` and `BLOCKIMG_COUNT` choose the cases ([`tests::seeds`]), `BLOCKIMG_LONG` runs some hundreds.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use tests::random::Random;
use tests::seeds::Seeds;
use tests::{Pair, Ran, Whose};

/// The copied flag of table entries.
const COPIED: u64 = 1 << 63;
/// The offset in a table entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// An image in memory, with what has to be known to damage it.
struct Image {
    bytes: Vec<u8>,
    cluster: u64,
    wide: bool,
}

impl Image {
    fn load(path: &Path, wide: bool) -> Self {
        let bytes = fs::read(path).unwrap();
        let mut image = Image { bytes, cluster: 0, wide };
        image.cluster = 1 << image.get(20, 4);
        image
    }

    fn get(&self, at: u64, width: usize) -> u64 {
        let at = usize::try_from(at).unwrap();
        self.bytes[at..at + width].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn set(&mut self, at: u64, width: usize, value: u64) {
        let at = usize::try_from(at).unwrap();
        self.bytes[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
    }

    /// Offsets of the entries, different from 0, of a table of `count` numbers.
    fn entries(&self, at: u64, count: u64, step: u64) -> Vec<u64> {
        (0..count).map(|n| at + n * step).filter(|at| self.get(*at, 8) != 0).collect()
    }

    fn l1(&self) -> Vec<u64> {
        self.entries(self.get(40, 8), self.get(36, 4), 8)
    }

    fn l2(&self) -> Vec<u64> {
        let step = if self.wide { 16 } else { 8 };
        let table = |at: u64| self.entries(self.get(at, 8) & OFFSET, self.cluster / step, step);
        self.l1().into_iter().flat_map(table).collect()
    }

    fn refblocks(&self) -> Vec<u64> {
        self.entries(self.get(48, 8), self.get(56, 4) * self.cluster / 8, 8)
    }

    /// Damages it in one way; says how. `None` where there is nothing of the kind.
    fn damage(&mut self, random: &mut Random) -> Option<String> {
        let kind = random.below(10);
        let mut pick = |from: Vec<u64>| (!from.is_empty()).then(|| *random.pick(&from));
        match kind {
            0 | 1 => {
                // Refcounts have 16 bits in all these images.
                let block = self.get(pick(self.refblocks())?, 8);
                let used = (0..self.cluster / 2).filter(|n| self.get(block + 2 * n, 2) > 0).collect();
                let (at, value) = (block + 2 * pick(used)?, random.below(4));
                self.set(at, 2, value);
                Some(format!("refcount at {at:#x} is {value}"))
            }
            2 => {
                let block = self.get(pick(self.refblocks())?, 8);
                let clusters = (self.bytes.len() as u64 / self.cluster).min(self.cluster / 2);
                let at = block + 2 * random.below(clusters + 8).min(self.cluster / 2 - 1);
                self.set(at, 2, 1);
                Some(format!("refcount at {at:#x} is 1"))
            }
            3 | 4 => {
                let at = if kind == 3 { pick(self.l2())? } else { pick(self.l1())? };
                self.set(at, 8, self.get(at, 8) ^ COPIED);
                Some(format!("copied flag at {at:#x} is wrong"))
            }
            5 => {
                let count = self.get(60, 4).checked_sub(1)?;
                self.set(60, 4, count);
                Some(format!("{count} snapshots"))
            }
            6 if self.get(4, 4) == 3 => {
                let bits = 1 + random.below(3);
                self.set(72, 8, self.get(72, 8) | bits);
                Some(format!("features {bits}"))
            }
            7 => {
                let at = pick(self.refblocks())?;
                self.set(at, 8, 0);
                Some(format!("no refcount block at {at:#x}"))
            }
            8 => {
                let at = pick(self.l2())?;
                self.set(at, 8, self.get(at, 8) | 0x200);
                Some(format!("entry at {at:#x} is not aligned"))
            }
            _ => {
                let at = pick(self.l2())?;
                let other = self.get(pick(self.l2())?, 8);
                self.set(at, 8, other);
                Some(format!("entry at {at:#x} is {other:#x}"))
            }
        }
    }
}

/// Makes an image with data, zeroes and perhaps snapshots on the real side.
fn make(pair: &Pair, random: &mut Random) -> bool {
    let wide = random.below(4) == 0;
    let options = match wide {
        true => "extended_l2=on".to_owned(),
        false => {
            let size = *random.pick(&["512", "4k", "64k"]);
            let compat = *random.pick(&["1.1", "1.1", "0.10", "1.1,lazy_refcounts=on"]);
            format!("cluster_size={size},compat={compat}")
        }
    };
    let run = |line: &str| Whose::Real.run(pair.dir(Whose::Real), line).ok();
    run(&format!("qemu-img create -q -f qcow2 -o {options} a.qcow2 2M"));
    for round in 0..=random.below(3) {
        if round > 0 {
            run(&format!("qemu-img snapshot -c s{round} a.qcow2"));
        }
        for _ in 0..=random.below(5) {
            let (at, len) = (random.below(30) * 64, random.below(100) + 1);
            let zero = if random.below(4) == 0 { "-z" } else { "-P 7" };
            run(&format!("qemu-io a.qcow2 -c 'write -q {zero} {at}k {len}k'"));
        }
    }
    wide
}

/// What the real tool reads from an image: whether it can, and what.
fn contents(dir: &Path) -> (Option<i32>, Vec<u8>) {
    let ran = Whose::Real.run(dir, "qemu-img convert -f qcow2 -O raw a.qcow2 a.raw");
    (ran.code, if ran.code == Some(0) { fs::read(dir.join("a.raw")).unwrap() } else { Vec::new() })
}

fn sound(dir: &Path) -> Ran {
    Whose::Real.run(dir, "qemu-img check a.qcow2")
}

/// What a check told, but for where the file ends: refcounts made anew may be elsewhere.
fn told(ran: &Ran) -> Ran {
    let lines = ran.stdout.lines().filter(|line| !line.starts_with("Image end offset"));
    Ran { stdout: lines.map(|line| format!("{line}\n")).collect(), ..ran.clone() }
}

/// One case; what differs.
fn case(seed: u64) -> Option<String> {
    let mut random = Random::new(seed);
    let pair = Pair::new();
    let wide = make(&pair, &mut random);
    let path = pair.dir(Whose::Real).join("a.qcow2");
    let mut image = Image::load(&path, wide);
    let times = random.below(3) + 1;
    let damages: Vec<String> = (0..times).filter_map(|_| image.damage(&mut random)).collect();
    fs::write(&path, &image.bytes).unwrap();
    pair.share("a.qcow2");
    let [ours, real] = pair.run("qemu-img check -r all a.qcow2");
    let mut differs = String::new();
    if told(&ours) != told(&real) {
        differs += &format!("\n ours {ours}\n real {real}");
    }
    let [mine, theirs] = [Whose::Ours, Whose::Real].map(|whose| sound(pair.dir(whose)));
    if mine.code != theirs.code {
        differs += &format!("\n sound: ours {mine}\n real {theirs}");
    }
    let [mine, theirs] = [Whose::Ours, Whose::Real].map(|whose| contents(pair.dir(whose)));
    if mine != theirs {
        differs += &format!("\n contents: {:?} {:?}", mine.0, theirs.0);
    }
    (!differs.is_empty()).then(|| format!("--- seed {seed}: {damages:?}{differs}\n"))
}

#[test]
fn damaged_images_are_repaired_as_by_the_real_tool() {
    let seeds = Seeds::asked(40, 500);
    let found = seeds.run(case);
    assert!(found.is_empty(), "{} of {} differ\n{}", found.len(), seeds.count(), found.concat());
}
