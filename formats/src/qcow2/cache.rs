//! A cache of metadata tables (L2 slices or refcount blocks), as they stand in the file: big-endian bytes.
//!
//! It does no I/O and knows no ordering; both belong to [`Caches`](super::order::Caches). Its one rule: a dirty table is
//! never thrown out. When all are dirty, [`TableCache::insert`] says so and the owner writes them back first.

use crate::mapped::HostOffset;
use std::collections::HashMap;

#[derive(Debug)]
struct Slot {
    at: HostOffset,
    bytes: Box<[u8]>,
    dirty: bool,
    /// Used since the clock's hand last passed.
    used: bool,
}

/// Tables of one size: see the module documentation.
#[derive(Debug)]
pub(super) struct TableCache {
    table_len: usize,
    /// The most bytes it may take.
    most: u64,
    capacity: usize,
    slots: Vec<Slot>,
    index: HashMap<HostOffset, usize>,
    /// The slot used last, which is often the next one too.
    last: usize,
    hand: usize,
    dirty: usize,
    /// Tables somebody is reading from the file without holding the lock, by ticket.
    loading: HashMap<HostOffset, u64>,
    tickets: u64,
}

/// There is no room because every table is dirty; gives back what was to be put in.
#[derive(Debug)]
pub(super) struct AllDirty(pub(super) Box<[u8]>);

/// How many tables fit into so many bytes.
fn capacity(table_len: usize, bytes: u64) -> usize {
    usize::try_from(bytes / table_len as u64).unwrap_or(usize::MAX).max(2)
}

impl TableCache {
    /// An empty cache of at most `most` bytes for tables of `table_len` bytes, with room for at least two.
    pub(super) fn new(table_len: usize, most: u64) -> Self {
        TableCache {
            table_len,
            most,
            capacity: capacity(table_len, most),
            slots: Vec::new(),
            index: HashMap::new(),
            last: 0,
            hand: 0,
            dirty: 0,
            loading: HashMap::new(),
            tickets: 0,
        }
    }

    /// Begins anew, without room for more than the `all` bytes there are; changes are lost.
    pub(super) fn fit(&mut self, all: u64) {
        self.clear();
        self.capacity = capacity(self.table_len, self.most.min(all));
    }

    /// Bytes in a table.
    pub(super) fn table_len(&self) -> usize {
        self.table_len
    }

    /// The slot of the table at `at`.
    fn find(&self, at: HostOffset) -> Option<usize> {
        match self.slots.get(self.last) {
            Some(slot) if slot.at == at => Some(self.last),
            _ => self.index.get(&at).copied(),
        }
    }

    /// Whether the table at `at` is here.
    pub(super) fn contains(&self, at: HostOffset) -> bool {
        self.find(at).is_some()
    }

    /// The table at `at`, if it is here.
    pub(super) fn get(&mut self, at: HostOffset) -> Option<&[u8]> {
        self.last = self.find(at)?;
        let slot = &mut self.slots[self.last];
        slot.used = true;
        Some(&slot.bytes)
    }

    /// The table at `at`, to be changed, if it is here.
    pub(super) fn get_mut(&mut self, at: HostOffset) -> Option<&mut [u8]> {
        self.last = self.find(at)?;
        let slot = &mut self.slots[self.last];
        self.dirty += usize::from(!slot.dirty);
        (slot.used, slot.dirty) = (true, true);
        Some(&mut slot.bytes)
    }

    /// Whether the table at `at` is here and differs from the file.
    pub(super) fn is_dirty_at(&self, at: HostOffset) -> bool {
        self.index.get(&at).is_some_and(|slot| self.slots[*slot].dirty)
    }

    /// Whether any table differs from the file.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// Puts a table in, throwing out a clean one if the cache is full. A load of it under way is void.
    pub(super) fn insert(&mut self, at: HostOffset, bytes: Box<[u8]>) -> Result<(), AllDirty> {
        debug_assert_eq!(bytes.len(), self.table_len);
        let slot = match self.index.get(&at) {
            Some(slot) => *slot,
            None => match self.vacant() {
                Some(slot) => slot,
                None => return Err(AllDirty(bytes)),
            },
        };
        self.loading.remove(&at);
        let fresh = Slot { at, bytes, dirty: false, used: true };
        if slot == self.slots.len() {
            self.slots.push(fresh);
        } else {
            self.dirty -= usize::from(self.slots[slot].dirty);
            self.index.remove(&self.slots[slot].at);
            self.slots[slot] = fresh;
        }
        self.index.insert(at, slot);
        Ok(())
    }

    /// A slot to use: a new one, or the clean one that has not been used for longest (second chance).
    fn vacant(&mut self) -> Option<usize> {
        if self.slots.len() < self.capacity {
            return Some(self.slots.len());
        }
        for _ in 0..2 * self.slots.len() {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let used = std::mem::take(&mut self.slots[slot].used);
            if !used && !self.slots[slot].dirty {
                return Some(slot);
            }
        }
        None
    }

    /// Forgets the tables in `[at, at + len)`: the clusters they were in are given up.
    pub(super) fn forget(&mut self, at: HostOffset, len: u64) {
        for offset in (0..len).step_by(self.table_len).map(|n| at.plus(n)) {
            self.loading.remove(&offset);
            if let Some(slot) = self.index.remove(&offset) {
                self.dirty -= usize::from(self.slots[slot].dirty);
                let last = self.slots.len() - 1;
                self.slots.swap_remove(slot);
                if slot < last {
                    self.index.insert(self.slots[slot].at, slot);
                }
                self.hand = if self.slots.is_empty() { 0 } else { self.hand % self.slots.len() };
            }
        }
    }

    /// Forgets everything, changes included.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.index.clear();
        self.loading.clear();
        (self.hand, self.dirty) = (0, 0);
    }

    /// The dirty tables in the order of the file; each is clean once `write` has succeeded for it.
    pub(super) fn write_back<E>(
        &mut self,
        mut write: impl FnMut(HostOffset, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut dirty: Vec<usize> = (0..self.slots.len()).filter(|i| self.slots[*i].dirty).collect();
        dirty.sort_unstable_by_key(|i| self.slots[*i].at);
        for i in dirty {
            let slot = &mut self.slots[i];
            write(slot.at, &slot.bytes)?;
            slot.dirty = false;
            self.dirty -= 1;
        }
        Ok(())
    }

    /// Notes that somebody reads the table at `at` from the file; `None` if somebody already does.
    pub(super) fn begin_load(&mut self, at: HostOffset) -> Option<u64> {
        if self.loading.contains_key(&at) {
            return None;
        }
        self.tickets += 1;
        self.loading.insert(at, self.tickets);
        Some(self.tickets)
    }

    /// Ends a load; whether what was read may still be used (the table was neither put in nor given up meanwhile).
    pub(super) fn end_load(&mut self, at: HostOffset, ticket: u64) -> bool {
        let valid = self.loading.get(&at) == Some(&ticket);
        if valid {
            self.loading.remove(&at);
        }
        valid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(byte: u8) -> Box<[u8]> {
        vec![byte; 512].into()
    }

    #[test]
    fn a_dirty_table_is_never_thrown_out() {
        let mut cache = TableCache::new(512, 1024);
        cache.insert(HostOffset(0), table(1)).unwrap();
        cache.get_mut(HostOffset(0)).unwrap()[0] = 9;
        for i in 1..10u8 {
            cache.insert(HostOffset(u64::from(i) * 512), table(i)).unwrap();
        }
        assert_eq!(cache.get(HostOffset(0)).unwrap()[0], 9);
        cache.get_mut(HostOffset(9 * 512)).unwrap();
        assert!(cache.insert(HostOffset(0x10000), table(0)).is_err());
        let mut written = Vec::new();
        let write = |at: HostOffset, bytes: &[u8]| {
            written.push((at.0, bytes[0]));
            Ok::<_, ()>(())
        };
        cache.write_back(write).unwrap();
        assert_eq!(written, [(0, 9), (9 * 512, 9)]);
        assert!(!cache.is_dirty());
        cache.insert(HostOffset(0x10000), table(0)).unwrap();
    }

    #[test]
    fn a_load_is_void_when_the_table_changed_hands_meanwhile() {
        let mut cache = TableCache::new(512, 1024);
        let ticket = cache.begin_load(HostOffset(0)).unwrap();
        assert!(cache.begin_load(HostOffset(0)).is_none());
        cache.insert(HostOffset(0), table(1)).unwrap();
        assert!(!cache.end_load(HostOffset(0), ticket));
        let ticket = cache.begin_load(HostOffset(512)).unwrap();
        cache.forget(HostOffset(0), 1024);
        assert!(!cache.end_load(HostOffset(512), ticket));
        assert!(!cache.contains(HostOffset(0)));
    }
}
