//! An image in memory, for tests of everything above it.

use crate::node::{NodeFlags, NodeName};
use crate::{
    Child, Driver, Error, IoVec, IoVecMut, Level, Limits, Mapping, Node, Quiesced, Resize, Result, Want,
    WriteFlags,
};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// Bytes in memory, as a protocol.
#[derive(Debug)]
pub struct Memory {
    bytes: RwLock<Vec<u8>>,
    limits: Limits,
}

impl Memory {
    /// A node over `bytes` that asks for requests as `limits` say.
    pub fn node(bytes: Vec<u8>, limits: Limits) -> Arc<Node> {
        let name = NodeName { driver: "memory", filename: "memory".into(), ..NodeName::default() };
        Node::new(Box::new(Memory { bytes: RwLock::new(bytes), limits }), name, NodeFlags::default())
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
        Ok(())
    }

    fn flush(&self, _level: Level) -> Result<()> {
        Ok(())
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner).resize(index(to.size)?, 0);
        Ok(())
    }
}
