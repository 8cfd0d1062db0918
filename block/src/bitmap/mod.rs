//! Dirty bitmaps: which parts of an image were written since the bitmap was made or cleared.
//!
//! A [`DirtyBitmap`] is what programs see: found by name in the image or down its backing chain, its dirty ranges read
//! one after the other. Where it is kept is the format's business ([`Bitmaps`]). Its bits are read from the image when
//! somebody first asks for them.

mod bits;

pub use bits::{Bits, Stretch};

use crate::{Context, Error, Kind, Node, Quiesced, Result};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The longest name, in bytes.
pub const MAX_NAME: usize = 1023;

/// Reads the bits of a bitmap from where it is kept.
pub type Loader = Box<dyn Fn() -> Result<Bits> + Send + Sync>;

/// Where the bits are.
enum Contents {
    /// In memory.
    Here(Bits),
    /// In the image.
    Stored(Loader),
}

/// A dirty bitmap: see the module documentation.
pub struct DirtyBitmap {
    name: Arc<str>,
    /// log2 of the bytes one bit stands for.
    granularity_bits: u32,
    contents: Mutex<Contents>,
    enabled: AtomicBool,
    inconsistent: bool,
    changed: AtomicBool,
}

impl fmt::Debug for DirtyBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyBitmap").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a bitmap is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapShape {
    /// Its name.
    pub name: Arc<str>,
    /// log2 of the bytes one bit stands for, below 64.
    pub granularity_bits: u32,
    /// Whether writes are recorded.
    pub enabled: bool,
    /// It was not saved properly: nothing is known about its bits.
    pub inconsistent: bool,
}

impl DirtyBitmap {
    /// A bitmap of an image of `len` bytes with nothing dirty.
    pub fn empty(shape: BitmapShape, len: u64) -> Arc<Self> {
        let bits = Bits::new(bits_for(len, shape.granularity_bits));
        let bitmap = Self::with(shape, Contents::Here(bits));
        bitmap.changed.store(true, Ordering::Relaxed);
        Arc::new(bitmap)
    }

    /// A bitmap whose bits `loader` reads.
    pub fn stored(shape: BitmapShape, loader: Loader) -> Arc<Self> {
        Arc::new(Self::with(shape, Contents::Stored(loader)))
    }

    fn with(shape: BitmapShape, contents: Contents) -> Self {
        DirtyBitmap {
            name: shape.name,
            granularity_bits: shape.granularity_bits,
            contents: Mutex::new(contents),
            enabled: AtomicBool::new(shape.enabled),
            inconsistent: shape.inconsistent,
            changed: AtomicBool::new(false),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes one bit stands for.
    pub fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Whether writes are recorded.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Starts or ends recording.
    ///
    /// # Errors
    /// An inconsistent bitmap.
    pub fn set_enabled(&self, enabled: bool) -> Result<()> {
        self.check_consistent()?;
        self.enabled.store(enabled, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it was not saved properly, so that nothing is known about its bits.
    pub fn is_inconsistent(&self) -> bool {
        self.inconsistent
    }

    /// Whether its bits may differ from what is stored.
    pub fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Notes that its bits are stored now.
    pub fn mark_stored(&self) {
        self.changed.store(false, Ordering::Relaxed);
    }

    /// The first dirty range at or after byte `at`, whole units of the granularity.
    ///
    /// # Errors
    /// An inconsistent bitmap, or one that cannot be read.
    pub fn next_dirty(&self, at: u64) -> Result<Option<Range<u64>>> {
        let bits = self.granularity_bits;
        self.with_bits(|all| all.next_run(at >> bits).map(|run| (run.start << bits).max(at)..run.end << bits))
    }

    /// Marks a range of bytes as dirty, if writes are recorded.
    ///
    /// # Errors
    /// A bitmap that cannot be read.
    pub fn record(&self, range: &Range<u64>) -> Result<()> {
        if self.inconsistent || !self.is_enabled() || range.is_empty() {
            return Ok(());
        }
        let bits = self.granularity_bits;
        self.change(|all| all.set(range.start >> bits..((range.end - 1) >> bits) + 1))
    }

    /// Marks nothing as dirty.
    ///
    /// # Errors
    /// An inconsistent bitmap.
    pub fn clear(&self) -> Result<()> {
        self.change(Bits::clear)
    }

    /// Adapts it to an image of `len` bytes.
    ///
    /// # Errors
    /// A bitmap that cannot be read.
    pub fn resize(&self, len: u64) -> Result<()> {
        let count = bits_for(len, self.granularity_bits);
        if self.inconsistent { Ok(()) } else { self.change(|all| all.resize(count)) }
    }

    /// Marks as dirty what is dirty in `other`, whose granularity may be another.
    ///
    /// # Errors
    /// A bitmap of an image of another size, or one that is inconsistent or cannot be read.
    pub fn merge(&self, other: &DirtyBitmap) -> Result<()> {
        self.check_consistent()?;
        let mut at = 0;
        let mut runs = Vec::new();
        while let Some(run) = other.next_dirty(at)? {
            at = run.end;
            runs.push(run);
        }
        let bits = self.granularity_bits;
        self.change(|all| {
            for run in &runs {
                all.set(run.start >> bits..((run.end - 1) >> bits) + 1);
            }
        })
    }

    /// Works on the bits as they are.
    ///
    /// # Errors
    /// An inconsistent bitmap, or one that cannot be read.
    pub fn with_bits<T>(&self, f: impl FnOnce(&Bits) -> T) -> Result<T> {
        self.check_consistent()?;
        let mut contents = self.lock();
        self.load(&mut contents).map(|bits| f(bits))
    }

    /// Bytes of memory its bits take, as far as they were read.
    pub fn memory(&self) -> u64 {
        match &*self.lock() {
            Contents::Here(bits) => bits.memory(),
            Contents::Stored(_) => 0,
        }
    }

    fn change(&self, f: impl FnOnce(&mut Bits)) -> Result<()> {
        self.check_consistent()?;
        let mut contents = self.lock();
        self.load(&mut contents).map(f)?;
        self.changed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_consistent(&self) -> Result<()> {
        if !self.inconsistent {
            return Ok(());
        }
        let text = format!("Bitmap '{}' is inconsistent and cannot be used", self.name);
        Err(Error::invalid(text).with_hint("Try block-dirty-bitmap-remove to delete this bitmap from disk"))
    }

    fn load<'c>(&self, contents: &'c mut Contents) -> Result<&'c mut Bits> {
        if let Contents::Stored(loader) = contents {
            let bits = loader().context(|| format!("Could not read bitmap '{}'", self.name))?;
            *contents = Contents::Here(bits);
        }
        match contents {
            Contents::Here(bits) => Ok(bits),
            Contents::Stored(_) => unreachable!("it was just loaded"),
        }
    }
}

/// Bits for an image of `len` bytes.
pub fn bits_for(len: u64, granularity_bits: u32) -> u64 {
    len.div_ceil(1 << granularity_bits)
}

/// A format that keeps bitmaps; see [`Driver::bitmaps`](crate::Driver::bitmaps).
///
/// # Errors
/// What cannot be stored, or what is wrong in the image.
pub trait Bitmaps {
    /// All bitmaps, in the order of the image; of those that are not stored yet, the latest comes first.
    fn list(&self) -> Vec<Arc<DirtyBitmap>>;

    /// Makes an empty one that records writes, and gives it; the granularity is in bytes.
    fn add(&self, q: &Quiesced<'_>, name: &str, granularity: Option<u64>) -> Result<Arc<DirtyBitmap>>;

    /// Removes the one of that name.
    fn remove(&self, q: &Quiesced<'_>, name: &str) -> Result<()>;

    /// Whether this image can keep any.
    fn can_keep(&self) -> bool;

    /// Saves them. Called when the image is closed, and not by the driver's own way of closing.
    fn store(&self) -> Result<()>;
}

/// The bitmap of that name in `node`, in what it filters, or else in an image behind it.
///
/// # Errors
/// There is none.
pub fn find_in_chain(node: &Arc<Node>, name: &str) -> Result<Arc<DirtyBitmap>> {
    let mut next = Some(Arc::clone(node));
    while let Some(node) = next {
        if let Some(bitmap) = node.bitmaps().into_iter().find(|bitmap| bitmap.name() == name) {
            return Ok(bitmap);
        }
        next = match node.child("backing") {
            Some(backing) => Some(backing),
            None => node.primary(),
        };
    }
    Err(Error::new(Kind::NotFound, format!("Bitmap '{name}' is not found")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(granularity_bits: u32) -> BitmapShape {
        BitmapShape { name: "b".into(), granularity_bits, enabled: true, inconsistent: false }
    }

    #[test]
    fn bits_are_read_when_they_are_first_needed() {
        let bitmap = DirtyBitmap::stored(
            shape(9),
            Box::new(|| {
                let mut bits = Bits::new(4);
                bits.set(2..3);
                Ok(bits)
            }),
        );
        assert_eq!(bitmap.memory(), 0);
        assert_eq!(bitmap.next_dirty(0).unwrap(), Some(1024..1536));
        assert_eq!(bitmap.next_dirty(1100).unwrap(), Some(1100..1536));
        assert!(!bitmap.is_changed());
        bitmap.record(&(0..1)).unwrap();
        assert!(bitmap.is_changed());
        assert_eq!(bitmap.next_dirty(0).unwrap(), Some(0..512));
    }

    #[test]
    fn bitmaps_of_different_granularity_merge() {
        let (fine, coarse) = (DirtyBitmap::empty(shape(9), 10_000), DirtyBitmap::empty(shape(12), 10_000));
        fine.record(&(5000..5001)).unwrap();
        coarse.merge(&fine).unwrap();
        assert_eq!(coarse.next_dirty(0).unwrap(), Some(4096..8192));
        fine.merge(&coarse).unwrap();
        assert_eq!(fine.next_dirty(0).unwrap(), Some(4096..8192));
    }

    #[test]
    fn nothing_can_be_done_with_an_inconsistent_bitmap() {
        let bitmap = DirtyBitmap::empty(BitmapShape { inconsistent: true, ..shape(9) }, 512);
        assert!(bitmap.next_dirty(0).is_err() && bitmap.clear().is_err());
        bitmap.record(&(0..1)).unwrap();
    }
}
