//! Which metadata reaches the disk before which: the one place that knows.
//!
//! After a crash at any point the image must open, every flushed byte must read back, and nothing worse than a leaked
//! cluster may be left (unless the dirty bit says that refcounts are not to be trusted). That follows from:
//!
//! 1. **Refcounts before L2 when allocating.** Before any L2 table is written, all dirty refcount blocks are, and a
//!    barrier separates the two. With the dirty bit set (lazy refcounts) this half is left out.
//! 2. **Data before L2.** The same barrier covers guest data and copy-on-write data, so an L2 entry on disk never
//!    points at bytes that are not there yet.
//! 3. **L2 before refcounts when freeing.** A cluster that is given up keeps its refcount until the L2 table that no
//!    longer points at it is on stable storage. Until then it is only *pending*: nobody can allocate it, so its bytes
//!    are those the old L2 table on disk promises. [`super::free`] keeps that list and calls [`Caches::settle_l2`].
//!
//! Because of rule 3, refcount blocks never have to wait for L2 tables, and the two caches cannot wait for each other.
//! A barrier is a flush to stable storage; the protocol leaves it out when the cache mode is unsafe.

use super::cache::{AllDirty, TableCache};
use crate::mapped::HostOffset;
use block::{Child, Event, IoVec, Level, Result, WriteFlags};

/// Which of the two caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tables {
    /// Slices of L2 tables.
    L2,
    /// Refcount blocks.
    Refcounts,
}

/// The metadata caches and what has to happen before each is written: see the module documentation.
#[derive(Debug)]
pub(super) struct Caches {
    file: Child,
    data: Option<Child>,
    l2: TableCache,
    refcounts: TableCache,
    /// Something was written since the last barrier that L2 tables rely on.
    unsettled: bool,
    /// L2 tables were written since the last barrier.
    l2_unsettled: bool,
    /// The dirty bit is set in the file: refcounts need not be right.
    lazy: bool,
}

impl Caches {
    /// Empty caches over `file` for tables of which guest data is in `data`, or in `file` itself.
    pub(super) fn new(file: Child, data: Option<Child>, l2: TableCache, refcounts: TableCache) -> Self {
        Caches { file, data, l2, refcounts, unsettled: false, l2_unsettled: false, lazy: false }
    }

    /// The file the metadata is in.
    pub(super) fn file(&self) -> &Child {
        &self.file
    }

    /// The external data file.
    pub(super) fn data(&self) -> Option<&Child> {
        self.data.as_ref()
    }

    /// Whether refcounts may be written after the L2 tables that rely on them.
    pub(super) fn set_lazy(&mut self, lazy: bool) {
        self.lazy = lazy;
    }

    /// Whether refcounts lag behind on purpose.
    pub(super) fn is_lazy(&self) -> bool {
        self.lazy
    }

    /// One of the caches, for what concerns it alone.
    pub(super) fn tables(&mut self, which: Tables) -> &mut TableCache {
        match which {
            Tables::L2 => &mut self.l2,
            Tables::Refcounts => &mut self.refcounts,
        }
    }

    /// A table, read from the file if need be (with whatever lock the caller holds: prefer to load ahead).
    ///
    /// # Errors
    /// The file's.
    pub(super) fn load(&mut self, which: Tables, at: HostOffset) -> Result<&[u8]> {
        if !self.tables(which).contains(at) {
            let mut bytes = vec![0; self.tables(which).table_len()].into_boxed_slice();
            if which == Tables::L2 {
                self.file.node().event(Event("l2_load"));
            }
            self.file.read_exact(at.0, &mut bytes)?;
            self.insert(which, at, bytes)?;
        }
        Ok(self.tables(which).get(at).expect("it was just put in"))
    }

    /// Like [`Caches::load`], for a change.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn change(&mut self, which: Tables, at: HostOffset) -> Result<&mut [u8]> {
        self.load(which, at)?;
        self.unsettled |= which == Tables::Refcounts;
        Ok(self.tables(which).get_mut(at).expect("it was just loaded"))
    }

    /// Puts a table in, writing others back if there is no room.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn insert(&mut self, which: Tables, at: HostOffset, bytes: Box<[u8]>) -> Result<()> {
        if let Err(AllDirty(bytes)) = self.tables(which).insert(at, bytes) {
            self.write_back(which)?;
            let inserted = self.tables(which).insert(at, bytes);
            debug_assert!(inserted.is_ok(), "nothing is dirty after a write-back");
        }
        Ok(())
    }

    /// Notes that guest data was written which an L2 entry about to be changed points at.
    pub(super) fn data_written(&mut self) {
        self.unsettled = true;
    }

    /// Writes the dirty tables of one cache back, after what must come before.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn write_back(&mut self, which: Tables) -> Result<()> {
        match which {
            Tables::Refcounts => self.write_refcounts(),
            Tables::L2 if self.l2.is_dirty() => {
                if !self.lazy {
                    self.write_refcounts()?;
                }
                self.settle()?;
                self.write_l2()
            }
            Tables::L2 => Ok(()),
        }
    }

    fn write_refcounts(&mut self) -> Result<()> {
        let file = &self.file;
        self.unsettled |= self.refcounts.is_dirty();
        self.refcounts.write_back(|at, bytes| {
            file.node().event(Event("refblock_update_part"));
            file.write_all(at.0, bytes)
        })
    }

    fn write_l2(&mut self) -> Result<()> {
        let file = &self.file;
        self.l2_unsettled = true;
        self.l2.write_back(|at, bytes| {
            file.node().event(Event("l2_update"));
            file.write_all(at.0, bytes)
        })
    }

    /// A barrier, if anything was written since the last one.
    ///
    /// # Errors
    /// The flush's.
    pub(super) fn settle(&mut self) -> Result<()> {
        if self.unsettled || self.l2_unsettled {
            self.barrier()?;
        }
        Ok(())
    }

    /// A barrier, if anything at all was to be written to the file since the last one, guest data included.
    ///
    /// # Errors
    /// The flush's.
    pub(super) fn settle_all(&mut self) -> Result<()> {
        if self.file.node().is_written() { self.barrier() } else { self.settle() }
    }

    fn barrier(&mut self) -> Result<()> {
        if let Some(data) = &self.data {
            data.flush(Level::Disk)?;
        }
        self.file.flush(Level::Disk)?;
        (self.unsettled, self.l2_unsettled) = (false, false);
        Ok(())
    }

    /// Brings every L2 table to stable storage, so that what they no longer point at may be freed.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn settle_l2(&mut self) -> Result<()> {
        self.write_back(Tables::L2)?;
        if self.l2_unsettled { self.barrier() } else { Ok(()) }
    }

    /// Writes all caches back.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn write_all_back(&mut self) -> Result<()> {
        self.write_back(Tables::L2)?;
        if self.lazy { Ok(()) } else { self.write_back(Tables::Refcounts) }
    }

    /// Writes metadata that is not cached (L1 and refcount table entries, the header), after everything it relies on.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn write_pointer(&mut self, at: HostOffset, bytes: &[u8], event: Event) -> Result<()> {
        // Also with lazy refcounts: tables are few, and a table that is not counted costs more than one write.
        self.write_refcounts()?;
        self.settle()?;
        self.file.node().event(event);
        // What the pointer no longer points at may be freed only when it is on stable storage. Of a write that fails, any
        // part may have arrived.
        (self.unsettled, self.l2_unsettled) = (true, true);
        self.file.write(at.0, &IoVec::from(bytes), WriteFlags::empty())
    }

    /// Writes a new table that nothing points at yet.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn write_fresh(&mut self, at: HostOffset, bytes: &[u8], event: Event) -> Result<()> {
        self.file.node().event(event);
        self.unsettled = true;
        self.file.write_all(at.0, bytes)
    }
}
