//! From a passphrase to a slot's key: PBKDF2 and Argon2, and what they cost here.
//!
//! Lives here: one type for every derivation a header can ask for, how long it would take and how much memory, and the
//! [`Bounds`] that keep a hostile header from exhausting the machine. Not here: how costs are chosen for new slots
//! ([`calibrate`](super::calibrate)).

use crate::crypto::HashAlg;
use crate::crypto::kdf::{self, Rate};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use block::graph::OpenFlags;
use secret::{Error, Result, SecretBytes};
use std::num::NonZeroU32;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use zeroize::Zeroize;

/// A variant of Argon2 that headers name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Addresses do not depend on the passphrase.
    I,
    /// The first half pass as [`Variant::I`], the rest faster.
    Id,
}

impl Variant {
    /// The name in a header.
    pub(super) fn name(self) -> &'static str {
        match self {
            Variant::I => "argon2i",
            Variant::Id => "argon2id",
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Variant::I => Algorithm::Argon2i,
            Variant::Id => Algorithm::Argon2id,
        }
    }
}

/// What an Argon2 derivation costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArgonCost {
    /// Passes over the memory.
    pub(super) time: u32,
    /// KiB of memory.
    pub(super) memory: u32,
    /// Lanes, which can be computed at once.
    pub(super) cpus: u32,
}

/// A key derivation with all of its parameters but the passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Derivation {
    /// RFC 8018.
    Pbkdf2 { hash: HashAlg, iterations: NonZeroU32, salt: Vec<u8> },
    /// RFC 9106, version 1.3.
    Argon2 { variant: Variant, cost: ArgonCost, salt: Vec<u8> },
}

/// What unlocking may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// How long it may take, all key slots together.
    pub(super) time: Duration,
    /// KiB of memory it may take: that of one key slot, as those that take memory are tried one at a time.
    pub(super) memory: u64,
}

/// How many seconds unlocking takes at most by default.
const MAX_SECONDS: u32 = 60;

/// The most memory a derivation takes by default, in KiB: what cryptsetup allows itself is 1 GiB, its format 4 GiB.
const MAX_MEMORY: u64 = 4 << 20;

impl Bounds {
    /// What the user allows; what he does not mention is a minute, and no more memory than the machine has.
    pub(crate) fn of(flags: &OpenFlags) -> Self {
        let seconds = if flags.max_kdf_seconds == 0 { MAX_SECONDS } else { flags.max_kdf_seconds };
        let spare = || machine_memory().map_or(MAX_MEMORY, |kib| kib.min(MAX_MEMORY));
        let memory = if flags.max_kdf_memory == 0 { spare() } else { flags.max_kdf_memory };
        Bounds { time: Duration::from_secs(seconds.into()), memory }
    }
}

/// KiB of memory this machine has, or the container we run in.
pub(super) fn machine_memory() -> Option<u64> {
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok()).map(|bytes| bytes >> 10);
    [installed_memory(), limit].into_iter().flatten().min()
}

fn installed_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Why a slot is not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// It would take this long.
    Time(Duration),
    /// It would take this long, on top of those that are tried.
    More(Duration),
    /// It would take this many KiB.
    Memory(u64),
}

/// What has been measured of this machine so far; each is measured once, when it is needed.
#[derive(Debug, Default)]
pub(super) struct Rates {
    pbkdf2: Vec<(HashAlg, Rate)>,
    /// KiB-passes a second of one lane.
    argon2: Option<u64>,
}

/// Iterations of PBKDF2 that every machine does in a second: below that nothing needs to be measured.
const SLOWEST: u64 = 10_000;

/// KiB-passes of Argon2 that every machine does in a second, one lane.
const SLOWEST_ARGON2: u64 = 50_000;

impl Derivation {
    /// Derives `out.len()` bytes of key, unless `stop` is set meanwhile. Tells whether `out` is the key.
    ///
    /// # Errors
    /// The system has no memory, or the parameters are none that the algorithm takes.
    pub(super) fn derive(&self, stop: &AtomicBool, passphrase: &[u8], out: &mut [u8]) -> Result<bool> {
        match self {
            Derivation::Pbkdf2 { hash, iterations, salt } => {
                Ok(kdf::pbkdf2_unless(stop, *hash, passphrase, salt, *iterations, out))
            }
            Derivation::Argon2 { variant, cost, salt } => {
                argon2(*variant, *cost, passphrase, salt, out).map_err(|e| argon2_error(*cost, e))?;
                Ok(true)
            }
        }
    }

    /// The key that `passphrase` becomes, in `bytes` bytes.
    ///
    /// # Errors
    /// As for [`Derivation::derive`].
    pub(super) fn key(&self, passphrase: &[u8], bytes: usize) -> Result<SecretBytes> {
        let mut key = SecretBytes::zeroed(bytes)?;
        self.derive(&AtomicBool::new(false), passphrase, &mut key)?;
        Ok(key)
    }

    /// How many of these can run at once without one waiting for another.
    pub(super) fn at_once(&self, bytes: usize) -> usize {
        match self {
            Derivation::Pbkdf2 { hash, .. } => (cores() / bytes.div_ceil(hash.digest_bytes()).max(1)).max(1),
            // The memory of one is all that a header's cost promises.
            Derivation::Argon2 { .. } => 1,
        }
    }

    /// KiB of memory it takes beyond what is worth mentioning.
    pub(super) fn memory(&self) -> u64 {
        match self {
            Derivation::Pbkdf2 { .. } => 0,
            Derivation::Argon2 { cost, .. } => cost.memory.into(),
        }
    }

    /// How long it takes on the slowest machine.
    pub(super) fn longest(&self, bytes: usize) -> Duration {
        let (work, a_second) = match self {
            Derivation::Pbkdf2 { hash, iterations, .. } => {
                let blocks = bytes.div_ceil(hash.digest_bytes()).max(1) as u64;
                (u64::from(iterations.get()).saturating_mul(blocks), SLOWEST)
            }
            Derivation::Argon2 { cost, .. } => (cost.work(), SLOWEST_ARGON2),
        };
        Duration::from_secs(work / a_second)
    }

    /// About how long it takes here.
    ///
    /// # Errors
    /// The processor-time clock cannot be read.
    pub(super) fn duration(&self, bytes: usize, rates: &mut Rates) -> Result<Duration> {
        match self {
            Derivation::Pbkdf2 { hash, iterations, .. } => {
                Ok(rates.pbkdf2(*hash)?.duration(*iterations, bytes))
            }
            Derivation::Argon2 { cost, .. } => {
                let lanes = u64::from(cost.cpus).min(cores() as u64).max(1);
                let millis = cost.work().saturating_mul(1000) / rates.argon2()?.saturating_mul(lanes).max(1);
                Ok(Duration::from_millis(millis))
            }
        }
    }
}

impl ArgonCost {
    /// KiB-passes.
    fn work(self) -> u64 {
        u64::from(self.time) * u64::from(self.memory)
    }
}

impl Rates {
    fn pbkdf2(&mut self, hash: HashAlg) -> Result<Rate> {
        if let Some((_, rate)) = self.pbkdf2.iter().find(|(measured, _)| *measured == hash) {
            return Ok(*rate);
        }
        let rate = Rate::measure(hash, Duration::from_millis(4))?;
        self.pbkdf2.push((hash, rate));
        Ok(rate)
    }

    /// KiB-passes that one lane does in a second here, found out in a few milliseconds. The best of a few tries counts:
    /// what else the machine is doing is not the header's fault.
    fn argon2(&mut self) -> Result<u64> {
        if let Some(rate) = self.argon2 {
            return Ok(rate);
        }
        let sample = ArgonCost { time: 2, memory: 8 << 10, cpus: 1 };
        let mut elapsed = Duration::MAX;
        for _ in 0..3 {
            elapsed = elapsed.min(time_argon2(Variant::Id, sample)?);
        }
        let rate = u128::from(sample.work()) * 1_000_000_000 / elapsed.as_nanos().max(1);
        Ok(*self.argon2.insert(u64::try_from(rate).unwrap_or(u64::MAX).max(1)))
    }
}

/// How long an Argon2 derivation of 32 bytes takes.
///
/// # Errors
/// The system has no memory, or the parameters are none that the algorithm takes.
pub(super) fn time_argon2(variant: Variant, cost: ArgonCost) -> Result<Duration> {
    let start = Instant::now();
    let derivation = Derivation::Argon2 { variant, cost, salt: vec![0; 32] };
    drop(derivation.key(b"password", 32)?);
    Ok(start.elapsed())
}

fn argon2(
    variant: Variant,
    cost: ArgonCost,
    passphrase: &[u8],
    salt: &[u8],
    out: &mut [u8],
) -> argon2::Result<()> {
    let params = Params::new(cost.memory, cost.time, cost.cpus, Some(out.len()))?;
    let mut memory = Workspace::new(params.block_count())?;
    let argon2 = Argon2::new(variant.algorithm(), Version::V0x13, params);
    argon2.hash_password_into_with_memory(passphrase, salt, out, &mut memory.0)
}

/// The memory that Argon2 works in. From what it is left with the key follows, so it is wiped.
struct Workspace(Vec<Block>);

impl Workspace {
    fn new(blocks: usize) -> argon2::Result<Self> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(blocks).map_err(|_| argon2::Error::OutOfMemory)?;
        memory.resize(blocks, Block::new());
        Ok(Workspace(memory))
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn argon2_error(cost: ArgonCost, error: argon2::Error) -> Error {
    let ArgonCost { time, memory, cpus } = cost;
    match error {
        argon2::Error::OutOfMemory => Error::from_errno(nix::libc::ENOMEM)
            .context(format!("The key derivation takes {memory} KiB of memory")),
        error => Error::corrupt(format!(
            "Key derivation with time {time}, memory {memory} KiB and {cpus} lanes is not possible: {error}"
        )),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argon2id(time: u32, memory: u32, cpus: u32) -> Derivation {
        Derivation::Argon2 { variant: Variant::Id, cost: ArgonCost { time, memory, cpus }, salt: vec![7; 32] }
    }

    /// RFC 9106, 5.2 and 5.3, need a secret and associated data, which LUKS has not; these are the reference
    /// implementation's published vectors (version 1.3, `password`, `somesalt`, t=2, m=65536, p=1).
    #[test]
    fn argon2_gives_the_published_keys() {
        for (variant, want) in [
            (Variant::I, "c1628832147d9720c5bd1cfd61367078729f6dfb6f8fea9ff98158e0d7816ed0"),
            (Variant::Id, "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"),
        ] {
            let cost = ArgonCost { time: 2, memory: 65536, cpus: 1 };
            let derivation = Derivation::Argon2 { variant, cost, salt: b"somesalt".to_vec() };
            let key = derivation.key(b"password", 32).unwrap();
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, want, "{variant:?}");
        }
    }

    #[test]
    fn parameters_that_argon2_does_not_take_are_refused() {
        for (time, memory, cpus) in [(0, 64, 1), (1, 7, 1), (1, 64, 0), (1, 64, 9), (1, u32::MAX, 1 << 24)] {
            let error = argon2id(time, memory, cpus).key(b"pw", 32).unwrap_err();
            assert!(error.to_string().contains("not possible"), "{error}");
        }
    }

    /// How often `piece`, every byte of it inverted so that it is not found itself, is in memory that this process
    /// may write.
    fn copies_in_memory(piece: &[u8]) -> usize {
        use std::os::unix::fs::FileExt;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let mut found = 0;
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
            let mut bytes = vec![0; 1 << 20];
            for at in (from..to).step_by(bytes.len()) {
                let len = bytes.len().min((to - at) as usize);
                // A range that is gone by now holds nothing.
                let Ok(len) = memory.read_at(&mut bytes[..len], at) else { continue };
                // Nothing is inverted in this buffer, which is part of what is looked through.
                let is_piece = |window: &&[u8]| window.iter().zip(piece).all(|(byte, other)| *byte == !other);
                found += bytes[..len].windows(piece.len()).step_by(8).filter(is_piece).count();
            }
            bytes.zeroize();
        }
        found
    }

    #[test]
    fn what_argon2_worked_in_is_not_left_in_memory() {
        let cost = ArgonCost { time: 1, memory: 64, cpus: 1 };
        let salt = vec![3; 32];
        let mut memory = Workspace::new(64).unwrap();
        let params = Params::new(cost.memory, cost.time, cost.cpus, Some(32)).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into_with_memory(b"secret", &salt, &mut [0; 32], &mut memory.0).unwrap();
        // From the middle of the work, so that nothing but the work leaves it behind.
        let words = &memory.0[20].as_ref()[16..24];
        let piece: Vec<u8> = words.iter().flat_map(|word| (!word).to_ne_bytes()).collect();
        assert!(copies_in_memory(&piece) > 0, "it is there while the memory is");
        drop(memory);
        let derivation = Derivation::Argon2 { variant: Variant::Id, cost, salt };
        drop(derivation.key(b"secret", 32).unwrap());
        assert_eq!(copies_in_memory(&piece), 0);
    }
}
