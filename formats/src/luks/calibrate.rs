//! What new key slots cost: as much as makes guessing slow, and no more than this machine has.

use super::keys::NewKey;
use crate::crypto::HashAlg;
use crate::crypto::kdf::{self, MIN_ITERATIONS};
use block::{Error, Result};
use std::num::NonZeroU32;

/// Iterations of PBKDF2 for a new slot whose key has `bytes` bytes.
///
/// # Errors
/// More than a header can hold, or the processor-time clock cannot be read.
pub(super) fn pbkdf2_iterations(hash: HashAlg, bytes: usize, new: &NewKey) -> Result<NonZeroU32> {
    if let Some(forced) = new.iterations {
        return Ok(forced.max(MIN_ITERATIONS));
    }
    let iterations = kdf::calibrate(hash, bytes, new.iter_time)?;
    if iterations == NonZeroU32::MAX {
        let text = format!("PBKDF iterations larger than {}: Numerical result out of range", u32::MAX);
        return Err(Error::invalid(text).with_hint("The option iter-time counts milliseconds."));
    }
    Ok(iterations)
}
