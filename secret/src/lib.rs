//! Objects that users create on the command line (`--object`): secrets today, TLS credentials and authorisation later.
//!
//! Being the lowest crate, it also holds the two things everything else is written in: the [`Error`] type and the
//! [`Options`] tree. It knows nothing of images.

#![forbid(unsafe_code)]

mod error;
pub mod options;

pub use error::{Context, Error, Kind, Result, strerror};
pub use options::Options;

/// placeholder
#[derive(Debug, Default)]
pub struct Registry;
