//! The block layer: what reads and writes bytes, and how the pieces stack.
//!
//! A [`Driver`] (protocol, filter or format) sits in a [`Node`], which does for all of them what each would otherwise do
//! for itself. Commands hold an [`Image`], drivers hold a [`Child`]. [`graph`] turns what the user typed into nodes.
//! Nothing here knows a particular image format.

#![deny(unsafe_code)]

// Offsets in memory and in images convert freely.
#[cfg(not(target_pointer_width = "64"))]
compile_error!("images are larger than a 32-bit address space");

pub mod amend;
pub mod bitmap;
pub mod buffer;
pub mod channel;
pub mod check;
pub mod compare;
pub mod compressed;
pub mod copy;
mod driver;
pub mod extents;
pub mod filter;
pub mod graph;
mod image;
mod inflight;
mod iovec;
pub mod keys;
pub mod nbd;
mod node;
pub mod overlay;
#[cfg(feature = "authz-pam")]
mod pam;
pub mod protocol;
pub mod snapshot;
mod sys;
pub mod tool;
pub mod trace;

pub use driver::{
    Breakpoints, Driver, Event, FormatInfo, Host, Level, Limits, MapKind, Mapping, Prealloc, Quiesced,
    Resize, Tell, VmState, Want, WriteFlags, ZeroFlags,
};
pub use graph::{Perm, Perms};
pub use image::{Child, Image, WriteCache};
pub use iovec::{IoVec, IoVecMut};
pub use node::{DetectZeroes, Node, NodeFlags, NodeName, SECTOR};
pub use secret::{Context, Error, Kind, Options, Result};

/// The object types of this crate.
pub const OBJECT_TYPES: &[secret::ObjectType] = &[
    #[cfg(feature = "authz-pam")]
    pam::TYPE,
    filter::throttle::TYPE,
];
