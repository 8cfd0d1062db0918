//! An image in memory, for tests of everything above it.

use crate::node::{NodeFlags, NodeName};
use crate::{
    Child, Driver, Error, IoVec, IoVecMut, Level, Limits, Mapping, Node, Quiesced, Resize, Result, Want,
    WriteFlags,
};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// Bytes in memory, as a protocol.
#[derive(Debug)]
pub struct Memory {
    bytes: RwLock<Vec<u8>>,
    limits: Limits,
    journal: Option<Arc<Journal>>,
}

/// One thing that was done to a recorded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Bytes were written.
    Write {
        /// Where.
        at: u64,
        /// Which.
        bytes: Vec<u8>,
    },
    /// What was written before is on stable storage.
    Flush,
}

/// What was done to a recorded image, in order.
#[derive(Debug, Default)]
pub struct Journal(Mutex<Vec<Op>>);

impl Journal {
    fn add(&self, op: Op) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(op);
    }

    /// What has been done since it was asked last.
    pub fn take(&self) -> Vec<Op> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Shows `visit` what may be left of an image that held `bytes` when the power goes during `ops`: everything before
/// the last flush, and of what came after any part, in units of 512 bytes. For each write that is: nothing, all, each of
/// its ends, and each half of it without the other.
pub fn power_cuts(mut bytes: Vec<u8>, ops: &[Op], mut visit: impl FnMut(&[u8])) {
    visit(&bytes);
    let epochs = ops.split(|op| *op == Op::Flush);
    for epoch in epochs {
        for (index, op) in epoch.iter().enumerate() {
            let Op::Write { at, bytes: new } = op else { continue };
            for part in parts(new.len()) {
                // Earlier writes of the epoch may be there or not.
                for from in [0, index] {
                    let mut left = bytes.clone();
                    epoch[from..index].iter().for_each(|op| apply(&mut left, op, 0..usize::MAX));
                    let piece = Op::Write { at: *at, bytes: new.clone() };
                    apply(&mut left, &piece, part.clone());
                    visit(&left);
                }
            }
        }
        epoch.iter().for_each(|op| apply(&mut bytes, op, 0..usize::MAX));
        visit(&bytes);
    }
}

/// Parts of a write that may reach the disk without the rest.
fn parts(len: usize) -> Vec<std::ops::Range<usize>> {
    let half = (len / 2).next_multiple_of(512);
    let last = len.saturating_sub(1) / 512 * 512;
    vec![0..512, 512..len, 0..half, half..len, 0..last, last..len, 0..len]
}

fn apply(image: &mut Vec<u8>, op: &Op, part: std::ops::Range<usize>) {
    let Op::Write { at, bytes } = op else { return };
    let (start, end) = (part.start.min(bytes.len()), part.end.min(bytes.len()));
    if start >= end {
        return;
    }
    let at = usize::try_from(*at).unwrap_or(usize::MAX) + start;
    if image.len() < at + (end - start) {
        image.resize(at + (end - start), 0);
    }
    image[at..at + (end - start)].copy_from_slice(&bytes[start..end]);
}

impl Memory {
    /// A node over `bytes` that asks for requests as `limits` say.
    pub fn node(bytes: Vec<u8>, limits: Limits) -> Arc<Node> {
        let name = NodeName { driver: "memory", filename: "memory".into(), ..NodeName::default() };
        let memory = Memory { bytes: RwLock::new(bytes), limits, journal: None };
        Node::new(Box::new(memory), name, NodeFlags::default())
    }

    /// A `file` child over `bytes` that records what is done to it.
    pub fn recorded(bytes: Vec<u8>) -> (Child, Arc<Journal>) {
        let name = NodeName { driver: "memory", filename: "memory".into(), ..NodeName::default() };
        let journal = Arc::new(Journal::default());
        let memory = Memory {
            bytes: RwLock::new(bytes),
            limits: Limits::default(),
            journal: Some(Arc::clone(&journal)),
        };
        let node = Node::new(Box::new(memory), name, NodeFlags::default());
        (Child::new("file", node, true), journal)
    }

    /// A `file` child over `bytes`, with the right to grow.
    pub fn child(bytes: Vec<u8>) -> Child {
        Child::new("file", Self::node(bytes, Limits::default()), true)
    }

    fn bytes(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(at: u64) -> Result<usize> {
    usize::try_from(at).map_err(|_| Error::from_errno(nix::libc::EFBIG))
}

impl Driver for Memory {
    fn len(&self) -> Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
        Ok(Mapping::data(max).at(None, at))
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let bytes = self.bytes();
        let start = index(at)?.min(bytes.len());
        let inside = &bytes[start..bytes.len().min(start + to.len())];
        to.split_to(inside.len()).copy_from_slice(inside);
        to.fill(0);
        Ok(())
    }

    fn write(&self, at: u64, from: &IoVec<'_>, _flags: WriteFlags) -> Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let start = index(at)?;
        let end = start + from.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        from.copy_to_slice(&mut bytes[start..end]);
        if let Some(journal) = &self.journal {
            journal.add(Op::Write { at, bytes: bytes[start..end].to_vec() });
        }
        Ok(())
    }

    fn flush(&self, level: Level) -> Result<()> {
        if let (Some(journal), Level::Disk) = (&self.journal, level) {
            journal.add(Op::Flush);
        }
        Ok(())
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner).resize(index(to.size)?, 0);
        Ok(())
    }
}
