//! Protocols: where bytes live outside the process.

pub mod file;
pub mod memory;
