//! The two handles on a node: [`Image`] for commands and servers, [`Child`] for drivers.

use crate::{
    Error, IoVec, IoVecMut, Kind, Level, Limits, Mapping, Node, Resize, Result, Want, WriteFlags, ZeroFlags,
};
use std::ops::Range;
use std::sync::Arc;

/// When writes count as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteCache {
    /// When the layer below has them; a flush makes them durable.
    #[default]
    Back,
    /// When they are on stable storage.
    Through,
}

/// What commands and servers hold: requests are checked against the image's length and the right to write.
#[derive(Debug, Clone)]
pub struct Image {
    node: Arc<Node>,
    cache: WriteCache,
}

impl Image {
    /// A handle on `node`.
    pub fn new(node: Arc<Node>, cache: WriteCache) -> Self {
        Image { node, cache }
    }

    /// The node itself, for reports and for walking the graph.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Sets when writes through this handle count as done.
    pub fn set_write_cache(&mut self, cache: WriteCache) {
        self.cache = cache;
    }

    /// Length in bytes, a multiple of 512.
    ///
    /// # Errors
    /// The driver's.
    pub fn len(&self) -> Result<u64> {
        self.node.len()
    }

    /// What the driver can do.
    pub fn limits(&self) -> Limits {
        self.node.limits()
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.node.is_read_only()
    }

    /// Fills `to` from `at`.
    ///
    /// # Errors
    /// A range outside the image, or the driver's.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        self.readv(at, &mut IoVecMut::from(to))
    }

    /// Like [`Image::read`], into scattered buffers.
    ///
    /// # Errors
    /// As for [`Image::read`].
    pub fn readv(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.check(at, to.len() as u64)?;
        if self.node.copies_on_read() { self.node.read_copying(at, to) } else { self.node.read(at, to) }
    }

    /// Writes `from` at `at`.
    ///
    /// # Errors
    /// A range outside the image, a read-only image, or the driver's.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        self.writev(at, &IoVec::from(from), WriteFlags::empty())
    }

    /// Like [`Image::write`], from scattered buffers and with flags.
    ///
    /// # Errors
    /// As for [`Image::write`].
    pub fn writev(&self, at: u64, from: &IoVec<'_>, mut flags: WriteFlags) -> Result<()> {
        self.check_writable()?;
        self.check(at, from.len() as u64)?;
        flags.set(WriteFlags::FUA, flags.contains(WriteFlags::FUA) || self.cache == WriteCache::Through);
        self.node.write(at, from, flags)
    }

    /// Like [`Image::write`]; may call `placed` before the end, as for [`Node::write_placed`].
    ///
    /// # Errors
    /// As for [`Image::write`].
    pub fn write_placed(&self, at: u64, from: &[u8], placed: &dyn Fn()) -> Result<()> {
        if self.cache == WriteCache::Through {
            return self.write(at, from);
        }
        self.check_writable()?;
        self.check(at, from.len() as u64)?;
        self.node.write_placed(at, &IoVec::from(from), placed)
    }

    /// Copies bytes of a protocol node without taking them through memory.
    ///
    /// # Errors
    /// A range outside the image, a read-only image, or as for [`Node::copy_in`].
    pub fn copy_in(&self, at: u64, from: &Node, from_at: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        self.check(at, len)?;
        self.node.copy_in(at, from, from_at, len)?;
        if self.cache == WriteCache::Through { self.node.flush(Level::Disk) } else { Ok(()) }
    }

    /// Writes to the room for the state of a machine.
    ///
    /// # Errors
    /// As for [`Node::write_vmstate`].
    pub fn write_vmstate(&self, at: u64, from: &IoVec<'_>) -> Result<()> {
        self.node.write_vmstate(at, from)?;
        if self.cache == WriteCache::Through { self.node.flush(Level::Disk) } else { Ok(()) }
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// As for [`Image::write`]; `Unsupported` with [`ZeroFlags::NO_FALLBACK`].
    pub fn write_zeroes(&self, range: Range<u64>, mut flags: ZeroFlags) -> Result<()> {
        self.check_writable()?;
        self.check(range.start, range.end - range.start)?;
        flags.set(ZeroFlags::FUA, flags.contains(ZeroFlags::FUA) || self.cache == WriteCache::Through);
        self.node.write_zeroes(range, flags)
    }

    /// Gives a range up.
    ///
    /// # Errors
    /// As for [`Image::write`].
    pub fn discard(&self, range: Range<u64>) -> Result<()> {
        self.check_writable()?;
        self.check(range.start, range.end - range.start)?;
        self.node.discard(range)
    }

    /// Makes completed writes durable.
    ///
    /// # Errors
    /// The driver's.
    pub fn flush(&self) -> Result<()> {
        if self.is_read_only() { Ok(()) } else { self.node.flush(Level::Disk) }
    }

    /// What the run at `at` is in the top layer.
    ///
    /// # Errors
    /// The driver's.
    pub fn map(&self, at: u64, max: u64, want: Want) -> Result<Mapping> {
        self.node.map(at, max, want)
    }

    /// Changes the length.
    ///
    /// # Errors
    /// A read-only image, or the driver's.
    pub fn truncate(&self, to: Resize) -> Result<()> {
        self.check_writable()?;
        self.node.truncate(to)
    }

    /// Closes the graph below this handle: parents first, every node, the first failure reported. An image dropped
    /// without it is left as after a crash.
    ///
    /// # Errors
    /// The first failure.
    pub fn close(self) -> Result<()> {
        self.node.close()
    }

    fn check(&self, at: u64, len: u64) -> Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.len()? => Ok(()),
            _ => Err(Error::from_errno(nix::libc::EIO)),
        }
    }

    fn check_writable(&self) -> Result<()> {
        if self.is_read_only() {
            return Err(Error::new(Kind::ReadOnly, "Block node is read-only").with_errno(nix::libc::EPERM));
        }
        Ok(())
    }
}

/// What a driver holds on a node below it. Reads past the end give zeroes; writes past it need the resize permission.
#[derive(Debug, Clone)]
pub struct Child {
    role: &'static str,
    node: Arc<Node>,
    resize: bool,
}

impl Child {
    /// A handle on `node` in the given role; with `resize`, writes may grow it.
    pub(crate) fn new(role: &'static str, node: Arc<Node>, resize: bool) -> Self {
        Child { role, node, resize }
    }

    /// The role name: `file`, `backing`, `header`, …
    pub fn role(&self) -> &'static str {
        self.role
    }

    /// The node below.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Length in bytes, a multiple of 512.
    ///
    /// # Errors
    /// The driver's.
    pub fn len(&self) -> Result<u64> {
        self.node.len()
    }

    /// Reads, zeroes past the end.
    ///
    /// # Errors
    /// The driver's.
    pub fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.node.read(at, to)
    }

    /// Reads one buffer, zeroes past the end.
    ///
    /// # Errors
    /// The driver's.
    pub fn read_exact(&self, at: u64, to: &mut [u8]) -> Result<()> {
        self.node.read(at, &mut IoVecMut::from(to))
    }

    /// Writes, growing the node where that is permitted.
    ///
    /// # Errors
    /// A write past the end without the permission (`EIO`), or the driver's.
    pub fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.check(at, from.len() as u64)?;
        self.node.write(at, from, flags)
    }

    /// Writes one buffer.
    ///
    /// # Errors
    /// As for [`Child::write`].
    pub fn write_all(&self, at: u64, from: &[u8]) -> Result<()> {
        self.write(at, &IoVec::from(from), WriteFlags::empty())
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// As for [`Child::write`].
    pub fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.check(range.start, range.end - range.start)?;
        self.node.write_zeroes(range, flags)
    }

    /// Copies bytes of another node without taking them through memory.
    ///
    /// # Errors
    /// As for [`Node::copy_in`], or a write past the end without the right to grow.
    pub fn copy_in(&self, at: u64, from: &Node, from_at: u64, len: u64) -> Result<()> {
        self.check(at, len)?;
        self.node.copy_in(at, from, from_at, len)
    }

    /// Gives a range up.
    ///
    /// # Errors
    /// The driver's.
    pub fn discard(&self, range: Range<u64>) -> Result<()> {
        self.node.discard(range)
    }

    /// Flushes.
    ///
    /// # Errors
    /// The driver's.
    pub fn flush(&self, level: Level) -> Result<()> {
        self.node.flush(level)
    }

    /// What the run at `at` is in that node.
    ///
    /// # Errors
    /// The driver's.
    pub fn map(&self, at: u64, max: u64, want: Want) -> Result<Mapping> {
        self.node.map(at, max, want)
    }

    /// Changes the length.
    ///
    /// # Errors
    /// The driver's, or a missing resize permission.
    pub fn truncate(&self, to: Resize) -> Result<()> {
        if !self.resize {
            return Err(Error::from_errno(nix::libc::EPERM));
        }
        self.node.truncate(to)
    }

    fn check(&self, at: u64, len: u64) -> Result<()> {
        let end = at.checked_add(len).ok_or_else(|| Error::from_errno(nix::libc::EFBIG))?;
        if self.resize || end <= self.len()? { Ok(()) } else { Err(Error::from_errno(nix::libc::EIO)) }
    }
}
