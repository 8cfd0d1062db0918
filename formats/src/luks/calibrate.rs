//! What new key slots cost: as much as makes guessing slow, and no more than this machine has.
//!
//! cryptsetup's rules: a time is given, and what takes that long here is found out by trying; memory comes first, as
//! that is what costs an attacker most. Trying takes at most 0.3 s, where cryptsetup takes seconds.

use super::derive::{self, ArgonCost, Derivation, Variant};
use super::keys::{Kind, NewKey};
use crate::crypto::HashAlg;
use crate::crypto::kdf::{self, MIN_ITERATIONS};
use block::{Error, Result};
use std::num::NonZeroU32;
use std::time::Duration;

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

/// The derivation of a new LUKS2 slot, whose key has `bytes` bytes.
///
/// # Errors
/// Costs that cannot be, or no random numbers.
pub(super) fn luks2(hash: HashAlg, bytes: usize, new: &NewKey) -> Result<Derivation> {
    let salt = salt()?;
    Ok(match new.derivation.unwrap_or(Kind::Argon2(Variant::Id)) {
        Kind::Pbkdf2 => Derivation::Pbkdf2 { hash, iterations: pbkdf2_iterations(hash, bytes, new)?, salt },
        Kind::Argon2(variant) => Derivation::Argon2 { variant, cost: argon2_cost(variant, new)?, salt },
    })
}

/// Salt for a new slot or digest.
///
/// # Errors
/// The system has no random numbers.
pub(super) fn salt() -> Result<Vec<u8>> {
    let mut salt = vec![0; 32];
    super::random(&mut salt)?;
    Ok(salt)
}

/// Passes over the memory, at least.
const MIN_TIME: u32 = 4;

/// KiB of memory, at least and (unless the user says otherwise) at most.
const MEMORY: (u32, u32) = (32, 1 << 20);

/// The most lanes.
const MAX_LANES: u32 = 4;

/// The longest that one try takes.
const TRY: Duration = Duration::from_millis(120);

fn argon2_cost(variant: Variant, new: &NewKey) -> Result<ArgonCost> {
    let cpus = lanes(new)?;
    let memory = memory(new, cpus)?;
    match new.iterations {
        Some(forced) => Ok(ArgonCost { time: forced.get().max(MIN_TIME), memory, cpus }),
        None => measured(variant, new.iter_time, memory, cpus),
    }
}

fn lanes(new: &NewKey) -> Result<u32> {
    let cores =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(MAX_LANES));
    match new.parallel {
        None => Ok(cores.min(MAX_LANES)),
        Some(asked @ 1..=MAX_LANES) => Ok(asked),
        Some(asked) => {
            Err(Error::invalid(format!("Parameter 'pbkdf-parallel' does not accept value '{asked}'"))
                .with_hint(format!("It is a number from 1 to {MAX_LANES}.")))
        }
    }
}

/// The most memory, in KiB: half of what the machine has, so that the image can be opened there.
fn memory(new: &NewKey, cpus: u32) -> Result<u32> {
    let least = MEMORY.0.max(8 * cpus);
    let half = derive::machine_memory().map_or(MEMORY.1, |kib| u32::try_from(kib / 2).unwrap_or(u32::MAX));
    match new.memory {
        None => Ok(MEMORY.1.min(half).max(least)),
        Some(asked) if (least..=4 << 20).contains(&asked) => Ok(asked.min(half)),
        Some(asked) => {
            Err(Error::invalid(format!("Parameter 'pbkdf-memory' does not accept value '{asked}'"))
                .with_hint(format!("It is a number of KiB from {least} to 4194304.")))
        }
    }
}

/// Costs that take about `millis` here: first as much memory as may be, then more passes.
fn measured(variant: Variant, millis: u64, max: u32, cpus: u32) -> Result<ArgonCost> {
    let budget = TRY.min(Duration::from_millis(millis / 8));
    let mut sample = ArgonCost { time: 1, memory: (1024 * cpus).min(max), cpus };
    let mut elapsed = derive::time_argon2(variant, sample)?;
    while elapsed < budget / 2 && sample.memory < max {
        sample.memory = sample.memory.saturating_mul(2).min(max);
        elapsed = derive::time_argon2(variant, sample)?;
    }
    let work = u128::from(sample.memory) * u128::from(millis) * 1_000_000 / elapsed.as_nanos().max(1);
    let fit = |n: u128| u32::try_from(n).unwrap_or(u32::MAX);
    let memory = fit(work / u128::from(MIN_TIME)).clamp(MEMORY.0.max(8 * cpus), max);
    Ok(ArgonCost { time: fit(work / u128::from(memory)).max(MIN_TIME), memory, cpus })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_times_give_the_least_costs_and_no_time_gives_more_than_the_memory_allowed() {
        let new = NewKey { iter_time: 0, ..NewKey::default() };
        let cost = argon2_cost(Variant::Id, &new).unwrap();
        assert_eq!((cost.time, cost.memory), (MIN_TIME, MEMORY.0.max(8 * cost.cpus)));
        let new = NewKey { iter_time: 3_600_000, memory: Some(64), parallel: Some(1), ..NewKey::default() };
        let cost = argon2_cost(Variant::Id, &new).unwrap();
        assert_eq!((cost.memory, cost.cpus), (64, 1));
        assert!(cost.time > 1000);
    }

    #[test]
    fn costs_that_are_forced_are_taken_as_they_are() {
        let new = NewKey {
            iterations: NonZeroU32::new(5),
            memory: Some(64),
            parallel: Some(2),
            ..NewKey::default()
        };
        assert_eq!(argon2_cost(Variant::I, &new).unwrap(), ArgonCost { time: 5, memory: 64, cpus: 2 });
    }

    #[test]
    fn impossible_costs_are_refused_by_name() {
        for (new, name) in [
            (NewKey { parallel: Some(5), ..NewKey::default() }, "pbkdf-parallel"),
            (NewKey { memory: Some(7), ..NewKey::default() }, "pbkdf-memory"),
        ] {
            assert!(argon2_cost(Variant::Id, &new).unwrap_err().to_string().contains(name));
        }
    }
}
