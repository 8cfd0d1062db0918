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
