//! PBKDF2 (RFC 8018) with any hash, and how many iterations take how long here.
//!
//! Output longer than a digest is made of independent blocks, which are derived on as many cores as there are. What is
//! calibrated is the processor time of *one* core: that is what other programs will spend to open the image.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use digest::{FixedOutput, KeyInit, Update};
use nix::time::{ClockId, clock_gettime};
use secret::Result;
use zeroize::Zeroize;

use super::HashAlg;
use super::hash::WithHash;

/// The fewest iterations a new key slot or digest gets, however slow the machine.
pub const MIN_ITERATIONS: NonZeroU32 = NonZeroU32::new(1000).expect("1000 is not zero");

/// Derives `out.len()` bytes of key from `password` with HMAC over `hash`.
pub fn pbkdf2(hash: HashAlg, password: &[u8], salt: &[u8], iterations: NonZeroU32, out: &mut [u8]) {
    pbkdf2_unless(&NEVER, hash, password, salt, iterations, out);
}

/// Never set.
static NEVER: AtomicBool = AtomicBool::new(false);

/// Like [`pbkdf2`], but gives up soon after `stop` is set. Tells whether `out` is the key.
pub fn pbkdf2_unless(
    stop: &AtomicBool,
    hash: HashAlg,
    password: &[u8],
    salt: &[u8],
    iterations: NonZeroU32,
    out: &mut [u8],
) -> bool {
    hash.dispatch(Derive { stop, password, salt, iterations: iterations.get(), threads: cores(), out });
    !stop.load(Ordering::Acquire)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Block iterations below which another thread costs more than it saves: about a millisecond's worth.
const WORTH_A_THREAD: usize = 4000;

struct Derive<'a> {
    stop: &'a AtomicBool,
    password: &'a [u8],
    salt: &'a [u8],
    iterations: u32,
    threads: usize,
    out: &'a mut [u8],
}

impl WithHash for Derive<'_> {
    type Output = ();

    fn run<D, M: Update + FixedOutput + KeyInit + Clone + Send + Sync>(self) {
        let Derive { stop, password, salt, iterations, threads, out } = self;
        let block_count = out.len().div_ceil(M::output_size());
        let worthwhile = block_count.saturating_mul(iterations as usize) / WORTH_A_THREAD;
        let threads = threads.min(block_count).min(worthwhile);
        let prf = M::new_from_slice(password).expect("HMAC takes keys of any length");
        let blocks = Mutex::new((1_u32..).zip(out.chunks_mut(M::output_size())));
        let next = || blocks.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some((index, block)) = next() {
                derive_block(&prf, salt, index, iterations, stop, block);
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // Where no thread is to be had, this one does all the work.
                let _ = thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
    }
}

/// Iterations between two looks at whether to stop: below a millisecond's worth.
const BETWEEN_LOOKS: u32 = 1000;

/// The function F of RFC 8018, section 5.2: block `index`, counted from one.
fn derive_block<M: Update + FixedOutput + Clone>(
    prf: &M,
    salt: &[u8],
    index: u32,
    iterations: u32,
    stop: &AtomicBool,
    out: &mut [u8],
) {
    let mut mac = prf.clone();
    mac.update(salt);
    mac.update(&index.to_be_bytes());
    let mut last = mac.finalize_fixed();
    out.copy_from_slice(&last[..out.len()]);
    let mut left = iterations - 1;
    while left > 0 && !stop.load(Ordering::Relaxed) {
        let batch = left.min(BETWEEN_LOOKS);
        for _ in 0..batch {
            let mut mac = prf.clone();
            mac.update(&last);
            last = mac.finalize_fixed();
            out.iter_mut().zip(&last).for_each(|(sum, byte)| *sum ^= byte);
        }
        left -= batch;
    }
    last.as_mut_slice().zeroize();
}

/// How fast one core of this machine derives keys with one hash.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    hash: HashAlg,
    /// Iterations per second of one digest-sized block; at least one.
    per_second: u64,
}

impl Rate {
    /// Measures for about `budget` (and at least one try of 1000 iterations).
    ///
    /// # Errors
    /// The processor-time clock cannot be read.
    pub fn measure(hash: HashAlg, budget: Duration) -> Result<Self> {
        let start = Instant::now();
        let mut best = 0;
        let mut tries = MIN_ITERATIONS.get();
        loop {
            let nanos = processor_time(|| sample(hash, tries))?.as_nanos().max(1);
            best = best.max(u64::try_from(u128::from(tries) * 1_000_000_000 / nanos).unwrap_or(u64::MAX));
            let spent = start.elapsed();
            if spent >= budget / 2 {
                return Ok(Rate { hash, per_second: best.max(1) });
            }
            // Longer tries are more exact; the next one still fits into what is left.
            tries = tries.saturating_mul(2);
        }
    }

    /// Iterations that keep one core busy for `millis` when a key of `key_bytes` is derived; at least
    /// [`MIN_ITERATIONS`], at most what a header can hold.
    pub fn iterations(&self, key_bytes: usize, millis: u64) -> NonZeroU32 {
        let total = u128::from(self.per_second) * u128::from(millis) / 1000 / self.blocks(key_bytes);
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        NonZeroU32::new(total).map_or(MIN_ITERATIONS, |n| n.max(MIN_ITERATIONS))
    }

    /// How long [`pbkdf2`] takes on this machine when it is otherwise idle.
    pub fn duration(&self, iterations: NonZeroU32, key_bytes: usize) -> Duration {
        let rounds = self.blocks(key_bytes).div_ceil(cores() as u128);
        let nanos = rounds * u128::from(iterations.get()) * 1_000_000_000 / u128::from(self.per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Digest-sized blocks of a key, at least one.
    fn blocks(&self, key_bytes: usize) -> u128 {
        key_bytes.div_ceil(self.hash.digest_bytes()).max(1) as u128
    }
}

fn sample(hash: HashAlg, iterations: u32) {
    let mut out = vec![0; hash.digest_bytes()];
    hash.dispatch(Derive {
        stop: &NEVER,
        password: b"password",
        salt: &[0; 32],
        iterations,
        threads: 1,
        out: &mut out,
    });
    std::hint::black_box(&out);
}

fn processor_time(work: impl FnOnce()) -> Result<Duration> {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let start = now()?;
    work();
    Ok(now()?.saturating_sub(start))
}

/// The longest a calibration takes; short iteration times are calibrated in a quarter of what they ask for.
const CALIBRATION: Duration = Duration::from_millis(200);

/// Iterations of PBKDF2 that take `millis` of one core's time for a key of `key_bytes`, as LUKS's `iter-time` asks; at
/// least [`MIN_ITERATIONS`]. Measures for at most 0.3 s.
///
/// # Errors
/// The processor-time clock cannot be read.
pub fn calibrate(hash: HashAlg, key_bytes: usize, millis: u64) -> Result<NonZeroU32> {
    let budget = CALIBRATION.min(Duration::from_millis(millis / 4));
    Ok(Rate::measure(hash, budget)?.iterations(key_bytes, millis))
}

/// About how long [`pbkdf2`] would take here, found out in a few milliseconds.
///
/// # Errors
/// The processor-time clock cannot be read.
pub fn estimate(hash: HashAlg, iterations: NonZeroU32, key_bytes: usize) -> Result<Duration> {
    Ok(Rate::measure(hash, Duration::from_millis(4))?.duration(iterations, key_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(hash: HashAlg, per_second: u64) -> Rate {
        Rate { hash, per_second }
    }

    fn count(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn threads_derive_the_same_key_as_the_reference_crate() {
        let (iterations, threads) = (2500, 3);
        let (mut ours, mut reference) = ([0; 200], [0; 200]);
        let stop = &NEVER;
        HashAlg::Sha256.dispatch(Derive {
            stop,
            password: b"p",
            salt: b"s",
            iterations,
            threads,
            out: &mut ours,
        });
        ::pbkdf2::pbkdf2::<hmac::Hmac<sha2::Sha256>>(b"p", b"s", iterations, &mut reference).unwrap();
        assert_eq!(ours, reference);
    }

    #[test]
    fn a_key_of_no_bytes_is_derived_without_ado() {
        pbkdf2(HashAlg::Sha1, b"password", b"salt", count(1), &mut []);
    }

    #[test]
    fn iterations_are_those_of_one_core_for_all_blocks_of_the_key() {
        let rate = rate(HashAlg::Sha256, 1_000_000);
        assert_eq!(rate.iterations(32, 2000), count(2_000_000));
        assert_eq!(rate.iterations(33, 2000), count(1_000_000));
        assert_eq!(rate.iterations(64, 2000), count(1_000_000));
    }

    #[test]
    fn iterations_stay_between_a_thousand_and_what_a_header_holds() {
        assert_eq!(rate(HashAlg::Sha256, 1).iterations(32, 10), count(1000));
        assert_eq!(rate(HashAlg::Sha256, u64::MAX).iterations(32, u64::MAX), count(u32::MAX));
    }

    #[test]
    fn the_longest_derivation_a_header_can_ask_for_has_a_duration() {
        let slow = rate(HashAlg::Whirlpool, 1);
        assert_eq!(slow.duration(count(u32::MAX), 64), Duration::from_secs(u64::from(u32::MAX)));
        assert_eq!(rate(HashAlg::Sha1, 1000).duration(count(500), 20), Duration::from_millis(500));
    }

    #[test]
    fn measuring_finds_a_rate_even_without_a_budget() {
        assert!(Rate::measure(HashAlg::Sha512, Duration::ZERO).unwrap().per_second > 1);
        assert!(calibrate(HashAlg::Sha256, 64, 0).unwrap() == MIN_ITERATIONS);
    }
}
