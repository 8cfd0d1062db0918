//! `quorum`: several copies of an image, of which a majority decides.
//!
//! Writes go to all. Reads compare all of them, or (`read-pattern=fifo`) take the first that answers. An operation
//! counts as done when as many copies as `vote-threshold` says did it.

use super::diverged;
use crate::buffer::Buffer;
use crate::graph::{DriverKind, DriverRow, OpenCtx, Perm, Perms};
use crate::{
    Child, Driver, Error, IoVec, IoVecMut, Level, Limits, MapKind, Mapping, Result, Want, WriteFlags,
    ZeroFlags,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::ops::Range;
use std::sync::Arc;

/// The `quorum` driver.
pub static ROW: DriverRow = DriverRow {
    strong_options: &["vote-threshold", "blkverify", "rewrite-corrupted", "read-pattern"],
    ..DriverRow::new("quorum", DriverKind::Filter, open)
};

/// The roles of the copies; there can be no more.
const ROLES: [&str; 32] = [
    "children.0",
    "children.1",
    "children.2",
    "children.3",
    "children.4",
    "children.5",
    "children.6",
    "children.7",
    "children.8",
    "children.9",
    "children.10",
    "children.11",
    "children.12",
    "children.13",
    "children.14",
    "children.15",
    "children.16",
    "children.17",
    "children.18",
    "children.19",
    "children.20",
    "children.21",
    "children.22",
    "children.23",
    "children.24",
    "children.25",
    "children.26",
    "children.27",
    "children.28",
    "children.29",
    "children.30",
    "children.31",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct QuorumOptions {
    vote_threshold: Option<u64>,
    read_pattern: Option<String>,
    #[serde(default)]
    blkverify: bool,
    #[serde(default)]
    rewrite_corrupted: bool,
}

/// How reads are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The first copy that answers.
    First,
    /// The majority.
    Vote,
    /// The majority, which is then written to copies that differ.
    VoteAndMend,
    /// All must be the same, or the process ends.
    Verify,
}

#[derive(Debug)]
struct Quorum {
    copies: Vec<Child>,
    threshold: usize,
    reading: Reading,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let described = descriptions(ctx.take_option("children"))?;
    if described.is_empty() {
        return Err(Error::invalid("Number of provided children must be 1 or more"));
    }
    let options: QuorumOptions = ctx.options()?;
    let threshold = usize::try_from(options.vote_threshold.unwrap_or(0)).unwrap_or(usize::MAX);
    if threshold == 0 {
        return Err(Error::invalid("Parameter 'vote-threshold' expects a value >= 1"));
    }
    if threshold > described.len() {
        return Err(Error::invalid("threshold may not exceed children count"));
    }
    let reading = options.reading(described.len())?;
    // Two copies in one file would be one.
    let perms = Perms { own: ctx.perms.own, shared: ctx.perms.shared - (Perm::WRITE | Perm::RESIZE) };
    let roles = ROLES.iter().zip(described);
    let copies: Vec<Child> =
        roles.map(|(role, source)| ctx.described(role, source, perms)).collect::<Result<_>>()?;
    Ok(Box::new(Quorum::new(copies, threshold, reading)?))
}

/// What the options say about each copy.
fn descriptions(group: Option<Value>) -> Result<Vec<Value>> {
    let Some(Value::Object(mut group)) = group else { return Ok(Vec::new()) };
    let listed: Vec<Value> = (0..).map_while(|i: u32| take(&mut group, i)).collect();
    match group.is_empty() && listed.len() <= ROLES.len() {
        true => Ok(listed),
        false => Err(Error::invalid("Option children is not a valid array")),
    }
}

fn take(group: &mut Map<String, Value>, index: u32) -> Option<Value> {
    group.shift_remove(&index.to_string())
}

impl QuorumOptions {
    fn reading(&self, copies: usize) -> Result<Reading> {
        match self.read_pattern.as_deref() {
            Some("fifo") => return Ok(Reading::First),
            None | Some("quorum") => {}
            Some(_) => return Err(Error::invalid("Please set read-pattern as fifo or quorum")),
        }
        if self.blkverify && (copies != 2 || self.vote_threshold != Some(2)) {
            return Err(Error::invalid(
                "blkverify=on can only be set if there are exactly two files and vote-threshold is 2",
            ));
        }
        match (self.blkverify, self.rewrite_corrupted) {
            (true, true) => Err(Error::invalid("rewrite-corrupted=on cannot be used with blkverify=on")),
            (true, false) => Ok(Reading::Verify),
            (false, true) => Ok(Reading::VoteAndMend),
            (false, false) => Ok(Reading::Vote),
        }
    }
}

impl Quorum {
    fn new(copies: Vec<Child>, threshold: usize, reading: Reading) -> Result<Self> {
        let len = copies.first().map_or(Ok(0), Child::len)?;
        for copy in &copies {
            if copy.len()? != len {
                return Err(Error::from_errno(nix::libc::EIO).context("Could not refresh total sector count"));
            }
        }
        Ok(Quorum { copies, threshold, reading })
    }

    /// Does something to every copy; done when enough of them did it.
    fn all(&self, act: impl Fn(&Child) -> Result<()>) -> Result<()> {
        self.decide(&self.copies.iter().map(act).filter_map(Result::err).collect::<Vec<_>>())
    }

    /// Whether enough copies did it, given the errors of those that did not; else the error most of them had.
    fn decide(&self, errors: &[Error]) -> Result<()> {
        if self.copies.len() - errors.len() >= self.threshold {
            return Ok(());
        }
        let votes = |e: &Error| errors.iter().filter(|other| other.errno() == e.errno()).count();
        let most = errors.iter().rev().max_by_key(|e| votes(e)).map_or(nix::libc::EIO, Error::errno);
        Err(Error::from_errno(most))
    }

    fn read_first(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let mut last = Error::from_errno(nix::libc::EIO);
        for copy in &self.copies {
            match copy.read(at, &mut to.reborrow()) {
                Err(e) => last = e,
                done => return done,
            }
        }
        Err(last)
    }

    fn read_vote(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let mut answers: Vec<(&Child, Buffer)> = Vec::new();
        let mut errors = Vec::new();
        for copy in &self.copies {
            let mut bytes = Buffer::zeroed(to.len());
            match copy.read_exact(at, &mut bytes) {
                Ok(()) => answers.push((copy, bytes)),
                Err(e) => errors.push(e),
            }
        }
        self.decide(&errors)?;
        let winner = self.elect(at, &answers)?;
        to.copy_from_slice(winner);
        if self.reading == Reading::VoteAndMend {
            for (copy, _) in answers.iter().filter(|(_, bytes)| bytes[..] != *winner) {
                // A copy that cannot be mended stays outvoted.
                let _ = copy.write_all(at, winner);
            }
        }
        Ok(())
    }

    /// The contents most copies have.
    fn elect<'a>(&self, at: u64, answers: &'a [(&Child, Buffer)]) -> Result<&'a [u8]> {
        let votes = |bytes: &[u8]| answers.iter().filter(|(_, other)| other[..] == *bytes).count();
        let versions = answers.iter().rev().map(|(_, bytes)| &bytes[..]);
        let winner = versions.max_by_key(|bytes| votes(bytes)).unwrap_or_default();
        let agreed = votes(winner);
        if self.reading == Reading::Verify && agreed < answers.len() {
            let (len, differs) = (winner.len(), at + first_difference(answers));
            diverged(&format!("quorum: offset={at} bytes={len} contents mismatch at offset {differs}"));
        }
        // As long as all agree, it does not matter how many there are.
        if agreed < self.threshold && agreed < answers.len() {
            return Err(Error::from_errno(nix::libc::EIO));
        }
        Ok(winner)
    }
}

fn first_difference(answers: &[(&Child, Buffer)]) -> u64 {
    let [(_, a), (_, b), ..] = answers else { return 0 };
    a.iter().zip(b.iter()).position(|(x, y)| x != y).unwrap_or(0) as u64
}

impl Driver for Quorum {
    fn len(&self) -> Result<u64> {
        self.copies.first().map_or(Ok(0), Child::len)
    }

    fn limits(&self) -> Limits {
        let below = || self.copies.iter().map(|copy| copy.node().limits());
        Limits {
            memory_align: below().map(|l| l.memory_align).max().unwrap_or(1),
            max_transfer: below().filter_map(|l| l.max_transfer).min(),
            ..Limits::default()
        }
    }

    fn children(&self) -> Arc<[Child]> {
        // The last one first, as the tool we replace shows them.
        self.copies.iter().rev().cloned().collect()
    }

    fn map(&self, at: u64, max: u64, want: Want) -> Result<Mapping> {
        let mut all = Mapping::zero(max);
        for copy in &self.copies {
            let found = copy.map(at, all.len, want)?;
            all.len = found.len.min(all.len);
            if found.kind != MapKind::Zero {
                all.kind = MapKind::Data;
            }
        }
        Ok(all)
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        match self.reading {
            Reading::First => self.read_first(at, to),
            _ => self.read_vote(at, to),
        }
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.all(|copy| copy.write(at, from, flags))
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.all(|copy| copy.write_zeroes(range.clone(), flags))
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.all(|copy| copy.flush(level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::memory::Memory;

    fn quorum(contents: &[u8], threshold: usize, reading: Reading) -> Quorum {
        let copies = contents.iter().map(|byte| Memory::child(vec![*byte; 4096])).collect();
        Quorum::new(copies, threshold, reading).unwrap()
    }

    fn read(quorum: &Quorum) -> Result<u8> {
        let mut byte = [0];
        quorum.read(0, &mut IoVecMut::from(&mut byte[..]))?;
        Ok(byte[0])
    }

    #[test]
    fn what_most_copies_have_is_read_if_they_are_enough() {
        assert_eq!(read(&quorum(&[2, 1, 1], 2, Reading::Vote)).unwrap(), 1);
        assert_eq!(read(&quorum(&[2, 1, 1], 3, Reading::Vote)).unwrap_err().errno(), nix::libc::EIO);
        assert_eq!(read(&quorum(&[2, 1, 1], 3, Reading::First)).unwrap(), 2);
    }

    #[test]
    fn a_copy_that_differs_is_mended_where_that_was_asked() {
        let mending = quorum(&[2, 1, 1], 2, Reading::VoteAndMend);
        read(&mending).unwrap();
        let mut byte = [0];
        mending.copies[0].read_exact(0, &mut byte).unwrap();
        assert_eq!(byte, [1]);
    }

    #[test]
    fn the_error_is_the_one_most_copies_had() {
        let quorum = quorum(&[1, 1, 1], 3, Reading::Vote);
        let errors = |list: &[i32]| list.iter().map(|n| Error::from_errno(*n)).collect::<Vec<_>>();
        assert_eq!(quorum.decide(&errors(&[5, 28, 28])).unwrap_err().errno(), 28);
        assert_eq!(quorum.decide(&errors(&[5])).unwrap_err().errno(), 5);
        quorum.decide(&errors(&[])).unwrap();
    }

    #[test]
    fn copies_of_different_lengths_are_refused() {
        let copies = vec![Memory::child(vec![0; 4096]), Memory::child(vec![0; 512])];
        assert!(Quorum::new(copies, 1, Reading::Vote).is_err());
    }
}
