//! Protocols: where bytes live outside the process.

pub mod existing;
pub mod file;
pub mod memory;
pub mod nbd;
pub mod null;
pub mod ssh;
