//! Protocols: where bytes live outside the process.

pub mod existing;
pub mod file;
pub mod memory;
pub mod null;
