//! Persistent dirty bitmaps: `directory` is how they stand in the file, `load` and `store` move their bits, `keep` is the
//! list of an open image.
//!
//! While an image is open for writing, its bitmaps are marked as in use in the file: whoever opens it after a crash sees
//! that they were not saved. They are saved when the image is closed, to new clusters; the header is switched to the new
//! directory by one write, and what was there before is given up after that.

mod directory;
mod keep;
mod load;
mod store;

pub(super) use directory::{BitmapEntry, BitmapFlags};
pub(super) use keep::Kept;

use super::geometry::Geometry;
use block::{Image, Result};

/// Bytes that copies of all bitmaps of `image` take in a file with these clusters.
///
/// # Errors
/// The image's.
pub(super) fn room(g: Geometry, image: &Image) -> Result<u64> {
    let size = image.len()?;
    let (mut bytes, mut directory) = (0, 0);
    for bitmap in image.node().bitmaps().iter().filter(|bitmap| !bitmap.is_inconsistent()) {
        let entries = directory::table_entries(g, size, bitmap.granularity().trailing_zeros());
        bytes += (entries << g.cluster_bits) + g.round_up(entries * 8);
        directory += BitmapEntry::new(bitmap.name(), 0).stored_len() as u64;
    }
    Ok(bytes + g.round_up(directory))
}
