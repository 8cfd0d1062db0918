//! Random command lines, good and bad, run by our programs and the real ones on the same files.
//!
//! `generate` makes the lines, [`Zoo`] the files, `judge` says what counts: the exit status, what is on standard
//! output but for times and sizes on disk, the class of what is on standard error, and the contents of every image
//! afterwards. Left out, as the two have different words for them on purpose: help and usage errors, and what makes the
//! real tool crash.

mod generate;
mod judge;
mod zoo;

use crate::random::Random;
use crate::{Pair, Ran, Whose};
use std::fmt;

pub use zoo::Zoo;

/// How many command lines run on the same files before they are made anew.
const SEQUENCE: u64 = 4;

/// Command lines after which the two differ.
#[derive(Debug)]
pub struct Difference {
    /// The seed of the sequence.
    pub seed: u64,
    /// The lines of the sequence, up to the one that differs.
    pub lines: Vec<String>,
    /// What differs.
    pub what: String,
    /// What ours and the real one did at the last line.
    pub ran: [Ran; 2],
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { seed, lines, what, ran: [ours, real] } = self;
        writeln!(f, "--- seed {seed}: {what}")?;
        lines.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        writeln!(f, " ours {ours}\n real {real}")
    }
}

/// Runs `count` command lines in sequences that begin at `seed`; gives what differs.
///
/// # Panics
/// The files cannot be made.
pub fn run(seed: u64, count: u64) -> Vec<Difference> {
    let zoo = Zoo::new();
    (0..count.div_ceil(SEQUENCE)).filter_map(|n| sequence(&zoo, seed + n)).collect()
}

/// One sequence; ends where the two differ.
fn sequence(zoo: &Zoo, seed: u64) -> Option<Difference> {
    let mut random = Random::new(seed);
    let pair = zoo.fill();
    let mut lines = Vec::new();
    for _ in 0..SEQUENCE {
        let line = generate::line(&mut random);
        lines.push(line.clone());
        let ran = [Whose::Ours, Whose::Real].map(|whose| run_limited(&pair, whose, &line));
        match judge::differs(zoo, &pair, &line, &ran) {
            judge::Verdict::Same => {}
            // The files may differ from here on.
            judge::Verdict::LeftOut => return None,
            judge::Verdict::Differs(what) => return Some(Difference { seed, lines, what, ran }),
        }
    }
    None
}

/// Runs a line; after ten seconds it is ended, which both sides would have to do alike.
fn run_limited(pair: &Pair, whose: Whose, line: &str) -> Ran {
    let words = crate::words(line);
    let (name, args) = words.split_first().expect("a command line has a first word");
    let mut program = whose.command(name);
    program.args(args).current_dir(pair.dir(whose));
    Ran::of(&mut program)
}
