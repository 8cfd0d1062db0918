//! Host ranges that somebody is reading or writing right now. A pinned cluster is not reused, whatever its refcount.

use super::HostOffset;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Ranges {
    next: u64,
    /// Id, first byte, length.
    held: Vec<(u64, HostOffset, u64)>,
}

/// The pinned ranges of one image.
#[derive(Debug, Clone, Default)]
pub struct Pins(Arc<Mutex<Ranges>>);

impl Pins {
    /// Pins `len` bytes at `at` until the answer is dropped.
    #[must_use]
    pub fn pin(&self, at: HostOffset, len: u64) -> Pin {
        let mut ranges = self.lock();
        let id = ranges.next;
        ranges.next += 1;
        ranges.held.push((id, at, len));
        Pin { pins: self.clone(), id }
    }

    /// Whether any of the `len` bytes at `at` is pinned.
    pub fn overlaps(&self, at: HostOffset, len: u64) -> bool {
        self.lock().held.iter().any(|(_, start, n)| start.0 < at.0 + len && at.0 < start.0 + n)
    }

    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pinned range.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    id: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.lock().held.retain(|(id, ..)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_pinned_until_its_last_pin_is_gone() {
        let pins = Pins::default();
        let first = pins.pin(HostOffset(100), 10);
        let second = pins.pin(HostOffset(105), 10);
        assert!(pins.overlaps(HostOffset(109), 1));
        drop(first);
        assert!(pins.overlaps(HostOffset(109), 1));
        assert!(!pins.overlaps(HostOffset(104), 1));
        drop(second);
        assert!(!pins.overlaps(HostOffset(0), u64::MAX));
    }
}
