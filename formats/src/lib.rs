//! x

pub mod crypto;
