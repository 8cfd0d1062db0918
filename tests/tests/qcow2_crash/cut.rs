//! What is on the disk after a power cut: a journal replayed up to a point.

use std::collections::BTreeMap;
use tests::disk::{Change, Files, Step, apply};
use tests::random::Random;

/// The unit in which a write is torn.
const PIECE: usize = 512;

/// What becomes of changes that were not flushed.
pub(crate) enum Tear<'a> {
    /// All of them arrived.
    Nothing,
    /// Any of them may be missing, in whole or in part.
    Anything(&'a mut Random),
}

impl Tear<'_> {
    fn arrives(&mut self) -> bool {
        match self {
            Tear::Nothing => true,
            Tear::Anything(random) => random.below(2) == 0,
        }
    }
}

/// A disk that follows a journal.
pub(crate) struct Replay {
    durable: Files,
    pending: BTreeMap<String, Vec<Change>>,
    /// Bytes at the beginning of the image that are written as one.
    header: u64,
}

impl Replay {
    /// A disk before the first step.
    pub(crate) fn new(files: Files, header: u64) -> Self {
        Replay { durable: files, pending: BTreeMap::new(), header }
    }

    /// The next step of the journal.
    pub(crate) fn step(&mut self, step: &Step) {
        let pending = self.pending.entry(step.file.clone()).or_default();
        if step.change != Change::Flush {
            pending.push(step.change.clone());
            return;
        }
        let bytes = self.durable.entry(step.file.clone()).or_default();
        pending.drain(..).for_each(|change| apply(bytes, &change));
    }

    /// The files when the power is cut now.
    pub(crate) fn files(&self, tear: &mut Tear<'_>) -> Files {
        let mut files = self.durable.clone();
        for (file, changes) in &self.pending {
            let bytes = files.entry(file.clone()).or_default();
            changes.iter().for_each(|change| self.arrive(bytes, change, tear));
        }
        files
    }

    fn arrive(&self, bytes: &mut Vec<u8>, change: &Change, tear: &mut Tear<'_>) {
        match change {
            Change::Write(at, data) if *at >= self.header => {
                // Pieces are those of the disk, wherever the write begins.
                let lead = PIECE - usize::try_from(*at % PIECE as u64).unwrap_or(0);
                let (first, rest) = data.split_at(lead.min(data.len()));
                let mut at = *at;
                for piece in std::iter::once(first).chain(rest.chunks(PIECE)) {
                    if tear.arrives() {
                        apply(bytes, &Change::Write(at, piece.to_vec()));
                    }
                    at += piece.len() as u64;
                }
            }
            change if tear.arrives() => apply(bytes, change),
            _ => {}
        }
    }
}
