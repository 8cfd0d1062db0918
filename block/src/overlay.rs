//! What a format that can stand on a backing file does with that: names another one, or lets all of it show.

use crate::{Quiesced, Result};

/// A backing file as it stands in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackingName<'a> {
    /// Its name, as seen from the image.
    pub file: &'a str,
    /// Its format.
    pub format: Option<&'a str>,
}

/// A format with backing files; see [`Driver::overlay`](crate::Driver::overlay). Nothing is in flight during its calls.
///
/// # Errors
/// The file's, or what the format cannot store.
pub trait Overlay {
    /// Writes another backing file's name into the image; what it reads as until it is opened again does not change.
    fn set_backing(&self, q: &Quiesced<'_>, to: Option<BackingName<'_>>) -> Result<()>;

    /// Gives up everything stored, so that the backing file shows.
    fn make_empty(&self, q: &Quiesced<'_>) -> Result<()>;
}
