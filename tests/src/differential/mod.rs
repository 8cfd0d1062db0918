//! Random command lines, good and bad, run by our programs and the real ones on the same files.
//!
//! `generate` makes the lines, [`Zoo`] the files, `judge` and `contents` say what counts: the exit status, what is on
//! standard output but for times and sizes on disk, the class of what is on standard error, and the contents of every
//! image afterwards. Left out, as the two have different words for them on purpose: help and usage errors, and what makes
//! the real tool crash.

mod contents;
mod generate;
mod judge;
mod zoo;

use crate::random::Random;
use crate::{Pair, Ran, Whose};
use std::fmt;
use std::fs::File;
use std::io::{Seek, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use zoo::Zoo;

/// How many command lines run on the same files before they are made anew.
const SEQUENCE: u64 = 4;

/// How long a command line may take. The real tool's `rebase -c` may go on for many minutes.
const LIMIT: Duration = Duration::from_secs(60);

/// How often progress is told, in sequences.
const TOLD_EVERY: u64 = 25;

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

/// Runs `count` command lines in sequences that begin at `seed`; gives what differs, in the order of the seeds. Where
/// `progress` is wanted it is told on standard error.
///
/// # Panics
/// The files cannot be made.
pub fn run(seed: u64, count: u64, progress: Progress) -> Vec<Difference> {
    let zoo = Zoo::new();
    let sequences = count.div_ceil(SEQUENCE);
    let next = AtomicU64::new(0);
    let work = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let numbers = numbers.take_while(|n| *n < sequences);
        numbers
            .filter_map(|n| told(progress, n, sequences, random_sequence(&zoo, seed + n)))
            .collect::<Vec<_>>()
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut differences: Vec<Difference> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a worker does not panic")).collect()
    });
    differences.sort_by_key(|difference| difference.seed);
    differences
}

/// Whether to tell how far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Every hundred command lines, and every difference when it is found.
    Told,
    /// Nothing before the end.
    Silent,
}

fn told(progress: Progress, n: u64, of: u64, found: Option<Difference>) -> Option<Difference> {
    if progress == Progress::Told {
        if let Some(difference) = &found {
            say(&difference.to_string());
        }
        if n.is_multiple_of(TOLD_EVERY) {
            say(&format!("{} of {} command lines\n", n * SEQUENCE, of * SEQUENCE));
        }
    }
    found
}

/// Not by way of the macros, whose output the test harness keeps to itself. Nobody may be listening.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn random_sequence(zoo: &Zoo, seed: u64) -> Option<Difference> {
    let mut random = Random::new(seed);
    sequence(zoo, seed, (0..SEQUENCE).map(|_| generate::line(&mut random)))
}

/// Runs sequences of command lines that are given, `;;` between two; gives what differs. Their seeds are their numbers.
///
/// # Panics
/// The files cannot be made.
pub fn run_given(sequences: &[&'static str]) -> Vec<Difference> {
    let zoo = Zoo::new();
    let lines = |text: &'static str| text.split(";;").map(|line| line.trim().to_owned());
    let numbered = sequences.iter().zip(0..);
    numbered.filter_map(|(text, n)| sequence(&zoo, n, lines(text))).collect()
}

/// One sequence; ends where the two differ.
fn sequence(zoo: &Zoo, seed: u64, all: impl IntoIterator<Item = String>) -> Option<Difference> {
    let mut pair = zoo.fill();
    let mut lines = Vec::new();
    for line in all {
        lines.push(line.clone());
        let ran = [Whose::Ours, Whose::Real].map(|whose| run_line(&pair, whose, &line));
        match judge::differs(&pair, &lines, &ran) {
            judge::Verdict::Same => {}
            judge::Verdict::Unsure => {
                lines.push("(the files are made anew)".into());
                pair = zoo.fill();
            }
            judge::Verdict::Differs(what) => return Some(Difference { seed, lines, what, ran }),
        }
    }
    None
}

/// Runs a line, with what follows `<<<` as its input, in lines that `;` ends.
fn run_line(pair: &Pair, whose: Whose, line: &str) -> Ran {
    let (line, input) = line.split_once(" <<< ").unwrap_or((line, ""));
    let words = crate::words(line);
    let (name, args) = words.split_first().expect("a command line has a first word");
    let mut program = whose.command(name);
    let input = input.trim_matches('\'').replace(';', "\n");
    program
        .args(args)
        .current_dir(pair.dir(whose))
        .stdin(file_of(&input).expect("a small file can be written"));
    Ran::within(LIMIT, &mut program)
}

/// A file without a name that holds `text`, to be read from its beginning.
fn file_of(text: &str) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
