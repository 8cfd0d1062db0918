//! Objects that users create on the command line (`--object`): secrets today, TLS credentials and authorisation later.
//!
//! [`Registry`] makes and keeps them, [`SecretBytes`] is the memory key material lives in, here and in other crates.
//! Being the lowest crate, it also holds the two things everything else is written in: the [`Error`] type and the
//! [`Options`] tree. It knows nothing of images.

#![forbid(unsafe_code)]

mod authz;
mod bytes;
mod error;
pub mod objects;
pub mod options;
mod process;
pub mod tls;

pub use bytes::SecretBytes;
pub use error::{Context, Error, Kind, Result, strerror};
pub use objects::{OBJECT_TYPES, Object, ObjectType, Registry, Secret, Source};
pub use options::Options;
pub use process::forbid_core_dump;
