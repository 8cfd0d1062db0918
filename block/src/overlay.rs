//! What formats that can stand on a backing file do with that: name another one, or let all of it show.

use crate::{Quiesced, Result};

/// A backing file as it stands in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackingName<'a> {
    /// Its name, as seen from the image.
    pub file: &'a str,
    /// Its format.
    pub format: Option<&'a str>,
}

/// A format that can be given another backing file; see [`Driver::overlay`](crate::Driver::overlay). Nothing is in flight
/// during its calls.
///
/// # Errors
/// The file's, or what the format cannot store.
pub trait Overlay {
    /// Writes another backing file's name into the image; what it reads as until it is opened again does not change.
    fn set_backing(&self, q: &Quiesced<'_>, to: Option<BackingName<'_>>) -> Result<()>;
}

/// A format that can give up its contents; see [`Driver::emptying`](crate::Driver::emptying). Nothing is in flight during
/// its calls.
///
/// # Errors
/// The file's.
pub trait Emptying {
    /// Gives up everything stored, so that the backing file shows.
    fn make_empty(&self, q: &Quiesced<'_>) -> Result<()>;
}
