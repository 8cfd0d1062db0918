//! The bitmaps of an open image: recording writes, adding, removing, saving.

use super::directory::{BitmapEntry, GRANULARITY_BITS, fits};
use crate::qcow2::header::Version;
use crate::qcow2::image::Qcow2;
use block::bitmap::{BitmapShape, Bitmaps, DirtyBitmap};
use block::{Error, Kind, Quiesced, Result};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

/// The most bitmaps of an image.
const MAX_BITMAPS: usize = 65535;
/// The largest directory, in bytes.
const MAX_DIRECTORY: usize = 1024 * MAX_BITMAPS;

/// A bitmap and its entry in the directory.
#[derive(Debug, Clone)]
pub(in crate::qcow2) struct Kept {
    pub(in crate::qcow2) bitmap: Arc<DirtyBitmap>,
    pub(in crate::qcow2) entry: BitmapEntry,
    /// The entry is in the file.
    pub(in crate::qcow2) stored: bool,
}

impl Qcow2 {
    fn kept(&self) -> RwLockReadGuard<'_, Vec<Kept>> {
        self.bitmaps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_mut(&self) -> RwLockWriteGuard<'_, Vec<Kept>> {
        self.bitmaps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the bitmap directory. In an image that is going to be written, marks the bitmaps as in use.
    ///
    /// # Errors
    /// A bitmap that breaks the rules or cannot be read, or the file's.
    pub(in crate::qcow2) fn start_bitmaps(&self, use_them: bool) -> Result<()> {
        let mut meta = self.lock();
        let all = meta.open_bitmaps()?;
        if use_them {
            for kept in all.iter().filter(|kept| !kept.bitmap.is_inconsistent()) {
                kept.bitmap.with_bits(|_| ())?;
            }
            meta.mark_bitmaps_in_use(&all)?;
            self.unsaved.store(!all.is_empty(), Ordering::Release);
        }
        self.recording.store(use_them && !all.is_empty(), Ordering::Release);
        *self.kept_mut() = all;
        Ok(())
    }

    /// Records that a range of the disk was written.
    pub(in crate::qcow2) fn record(&self, range: &Range<u64>) {
        if self.recording.load(Ordering::Acquire) {
            self.unsaved.store(true, Ordering::Release);
            for kept in self.kept().iter() {
                // The bits were read when the image was opened for writing.
                let _ = kept.bitmap.record(range);
            }
        }
    }

    /// Refuses what bitmaps stand in the way of when the disk changes its size.
    ///
    /// # Errors
    /// An inconsistent bitmap.
    pub(in crate::qcow2) fn check_bitmaps_for_resize(&self, size: u64) -> Result<()> {
        for kept in self.kept().iter() {
            kept.bitmap.with_bits(|_| ())?;
            if !fits(self.geometry, size, kept.entry.granularity_bits.into()) {
                let text = format!("Bitmap '{}' would become too large", kept.bitmap.name());
                return Err(Error::from_errno(nix::libc::EFBIG).context(text));
            }
        }
        Ok(())
    }

    /// Adapts the bitmaps to the size of the disk.
    ///
    /// # Errors
    /// As for [`DirtyBitmap::resize`].
    pub(in crate::qcow2) fn resize_bitmaps(&self, size: u64) -> Result<()> {
        self.kept().iter().try_for_each(|kept| kept.bitmap.resize(size))
    }

    /// Whether a machine's state cannot be put back because bitmaps would not know.
    pub(in crate::qcow2) fn has_active_bitmaps(&self) -> bool {
        !self.kept().is_empty()
    }

    fn check_new(&self, name: &str, granularity_bits: u32) -> Result<()> {
        let meta = self.lock();
        let kept = self.kept();
        let entries = || kept.iter().map(|kept| kept.entry.stored_len());
        let room = entries().sum::<usize>() + BitmapEntry::new(name, 0).stored_len();
        let problem = if meta.header.version < Version::V3 {
            "Cannot store dirty bitmaps in qcow2 v2 files".to_owned()
        } else if name.len() > block::bitmap::MAX_NAME {
            format!("Name length exceeds maximum ({} characters)", block::bitmap::MAX_NAME)
        } else if !fits(self.geometry, meta.header.size, granularity_bits) {
            "Too much space will be occupied by the bitmap. Use larger granularity".to_owned()
        } else if kept.len() >= MAX_BITMAPS {
            "Maximum number of persistent bitmaps is already reached".to_owned()
        } else if room > MAX_DIRECTORY {
            "Not enough space in the bitmap directory".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::invalid(problem))
    }

    /// What a bitmap made without saying has: the size of a cluster, within reason.
    fn default_granularity(&self) -> u64 {
        self.geometry.cluster_size().clamp(4096, 65536)
    }
}

impl Bitmaps for Qcow2 {
    fn list(&self) -> Vec<Arc<DirtyBitmap>> {
        self.kept().iter().map(|kept| Arc::clone(&kept.bitmap)).collect()
    }

    fn add(&self, _q: &Quiesced<'_>, name: &str, granularity: Option<u64>) -> Result<Arc<DirtyBitmap>> {
        let granularity = granularity.unwrap_or_else(|| self.default_granularity());
        let bits = granularity.trailing_zeros();
        debug_assert!(GRANULARITY_BITS.contains(&u8::try_from(bits).unwrap_or(0)));
        self.check_new(name, bits)?;
        let shape =
            BitmapShape { name: name.into(), granularity_bits: bits, enabled: true, inconsistent: false };
        let bitmap = DirtyBitmap::empty(shape, self.size());
        let entry = BitmapEntry::new(name, u8::try_from(bits).unwrap_or(0));
        let mut kept = self.kept_mut();
        let place = kept.iter().position(|kept| !kept.stored).unwrap_or(kept.len());
        kept.insert(place, Kept { bitmap: Arc::clone(&bitmap), entry, stored: false });
        drop(kept);
        self.unsaved.store(true, Ordering::Release);
        self.recording.store(true, Ordering::Release);
        Ok(bitmap)
    }

    fn remove(&self, _q: &Quiesced<'_>, name: &str) -> Result<()> {
        let mut kept = self.kept_mut();
        let at = kept.iter().position(|kept| kept.bitmap.name() == name);
        let at = at.ok_or_else(|| Error::new(Kind::NotFound, format!("Dirty bitmap '{name}' not found")))?;
        kept.remove(at);
        self.unsaved.store(true, Ordering::Release);
        Ok(())
    }

    fn can_keep(&self) -> bool {
        self.lock().header.version >= Version::V3
    }

    fn store(&self) -> Result<()> {
        if !self.unsaved.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut meta = self.lock();
        let mut kept = self.kept_mut();
        meta.release_pending()?;
        meta.caches.write_all_back()?;
        meta.save_bitmaps(&mut kept)?;
        self.unsaved.store(false, Ordering::Release);
        Ok(())
    }
}
