//! Changing what an image is without copying it: what a format that can implements, and what it is told.
//!
//! The options are those of [`DriverRow::amend`](crate::graph::DriverRow::amend), given by the user only: nothing has a
//! default, and what is not named stays as it is.

use crate::graph::{CreateOptions, Env};
use crate::{Quiesced, Result};
use std::fmt;

/// What goes with the options.
pub struct AmendCtx<'a> {
    /// Drivers and objects.
    pub env: Env<'a>,
    /// Do also what may lose data, such as erasing the last key.
    pub force: bool,
    /// Told how much is done, in units of the format's choice: done, total.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

impl fmt::Debug for AmendCtx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmendCtx").field("force", &self.force).finish_non_exhaustive()
    }
}

/// A format that can be changed in place; see [`Driver::amend`](crate::Driver::amend).
pub trait Amend {
    /// Makes the image what `options` say. Nothing is in flight.
    ///
    /// # Errors
    /// An option that cannot be met; what came before it may have been done.
    fn amend(&self, q: &Quiesced<'_>, options: &CreateOptions, ctx: &mut AmendCtx<'_>) -> Result<()>;
}
