//! Key slots: from a passphrase to the volume key, and from a volume key to a slot's material.
//!
//! A slot's key is derived from the passphrase; it encrypts the volume key, which the anti-forensic splitter has spread
//! over 4000 stripes. Lives here: that mechanism, and the search for the slot that a passphrase opens. Not here: where
//! passphrases come from ([`secret`](super::secret)) and what the volume key is used for.
//!
//! Invariant: keys, and material that is not encrypted, are in memory that is wiped ([`SecretBytes`]).

use super::header::{Digest, Header, Pbkdf2, Sectors, material_sectors};
use crate::crypto::kdf::{self, Rate};
use crate::crypto::{self, CipherSpec, HashAlg, SectorSize, af};
use secret::{Result, SecretBytes};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// The key that the payload is encrypted with.
#[derive(Debug)]
pub(super) struct VolumeKey(SecretBytes);

impl VolumeKey {
    /// A new random key of `len` bytes.
    ///
    /// # Errors
    /// The system has no random numbers or no memory.
    pub(super) fn generate(len: usize) -> Result<Self> {
        let mut key = SecretBytes::zeroed(len)?;
        super::random(&mut key)?;
        Ok(VolumeKey(key))
    }

    /// The key's bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Digest {
    /// The digest by which `key` will be recognised.
    pub(super) fn of(key: &VolumeKey, hash: HashAlg, pbkdf2: Pbkdf2) -> Self {
        let mut digest = Digest { pbkdf2, value: Default::default() };
        kdf::pbkdf2(hash, key.as_bytes(), &pbkdf2.salt, pbkdf2.iterations, &mut digest.value);
        digest
    }
}

/// How the volume key is hidden in a slot's material.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wrapping {
    /// What the material is encrypted with; sectors are numbered from the material's first.
    pub(super) cipher: CipherSpec,
    /// The hash of the anti-forensic splitter.
    pub(super) hash: HashAlg,
    /// Bytes of the volume key.
    pub(super) key_bytes: usize,
}

impl Wrapping {
    fn of(header: &Header) -> Self {
        Wrapping { cipher: header.cipher, hash: header.hash, key_bytes: header.cipher.key_bytes() }
    }

    /// Bytes of the material, whole sectors.
    fn material_bytes(&self) -> usize {
        usize::try_from(material_sectors(self.key_bytes as u64) * block::SECTOR)
            .expect("keys have at most 64 bytes")
    }

    /// The material that hides `key` under the slot's key.
    ///
    /// # Errors
    /// The system has no random numbers or no memory.
    fn seal(&self, key: &VolumeKey, slot_key: &[u8]) -> Result<SecretBytes> {
        let split = af::split(self.hash, key.as_bytes(), af::STRIPES, super::random)?;
        let mut material = SecretBytes::zeroed(self.material_bytes())?;
        material[..split.len()].copy_from_slice(&split);
        crypto::new(&self.cipher, slot_key, SectorSize::B512)?.encrypt(0, &mut material);
        Ok(material)
    }

    /// The key hidden in `material`; a wrong slot key gives a wrong volume key.
    ///
    /// # Errors
    /// The system has no memory.
    fn unseal(&self, material: &mut SecretBytes, slot_key: &[u8]) -> Result<VolumeKey> {
        crypto::new(&self.cipher, slot_key, SectorSize::B512)?.decrypt(0, material);
        let mut key = SecretBytes::zeroed(self.key_bytes)?;
        af::merge(self.hash, &material[..self.key_bytes * af::STRIPES], &mut key)?;
        Ok(VolumeKey(key))
    }
}

/// The material of a slot of `header` that `passphrase` opens.
///
/// # Errors
/// The system has no random numbers or no memory.
pub(super) fn seal(
    header: &Header,
    pbkdf2: &Pbkdf2,
    passphrase: &[u8],
    key: &VolumeKey,
) -> Result<SecretBytes> {
    let mut slot_key = SecretBytes::zeroed(header.cipher.key_bytes())?;
    kdf::pbkdf2(header.hash, passphrase, &pbkdf2.salt, pbkdf2.iterations, &mut slot_key);
    Wrapping::of(header).seal(key, &slot_key)
}

/// Reads key material from the header's file.
pub(super) type ReadMaterial<'a> = dyn Fn(Sectors, &mut [u8]) -> Result<()> + Sync + 'a;

/// A slot that was not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Its number.
    pub(super) slot: usize,
    /// How long its key derivation would take.
    pub(super) estimate: Duration,
}

/// A slot to be tried.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    pbkdf2: Pbkdf2,
    material: Sectors,
}

/// The search for the slot that a passphrase opens.
pub(super) struct Search<'a> {
    header: &'a Header,
    read: &'a ReadMaterial<'a>,
    candidates: Vec<Candidate>,
    skipped: Vec<Skipped>,
    limit: Duration,
}

impl<'a> Search<'a> {
    /// A search in the slots of `header` that are in use, but for those that would take longer than `limit` each.
    ///
    /// # Errors
    /// The processor-time clock cannot be read.
    pub(super) fn new(header: &'a Header, read: &'a ReadMaterial<'a>, limit: Duration) -> Result<Self> {
        let mut search = Search { header, read, candidates: Vec::new(), skipped: Vec::new(), limit };
        let mut rate = None;
        for (slot, pbkdf2, material) in header.active() {
            match exceeds(header, &pbkdf2, limit, &mut rate)? {
                Some(estimate) => search.skipped.push(Skipped { slot, estimate }),
                None => search.candidates.push(Candidate { pbkdf2, material }),
            }
        }
        Ok(search)
    }

    /// Whether there is any slot to try.
    pub(super) fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// How long one slot may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// The slots that take too long.
    pub(super) fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The volume key, if `passphrase` opens a slot.
    ///
    /// Slots are tried in order. One derivation keeps as many cores busy as it has blocks; those that remain work on
    /// the next slots meanwhile.
    ///
    /// # Errors
    /// Key material cannot be read, and no other slot matches.
    pub(super) fn run(&self, passphrase: &[u8]) -> Result<Option<VolumeKey>> {
        let attempt = Attempt {
            search: self,
            passphrase,
            next: AtomicUsize::new(0),
            found: AtomicBool::new(false),
            outcome: Mutex::new(Ok(None)),
        };
        let at_once = self.at_once();
        std::thread::scope(|scope| {
            (1..at_once).for_each(|_| drop(scope.spawn(|| attempt.work())));
            attempt.work();
        });
        attempt.outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_once(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let blocks = self.header.cipher.key_bytes().div_ceil(self.header.hash.digest_bytes());
        (cores / blocks).clamp(1, self.candidates.len().max(1))
    }
}

/// Iterations that every machine does in a second: below that nothing needs to be measured.
const SLOWEST: u64 = 10_000;

/// How long a slot takes, if that is longer than `limit`. `rate` is measured once, when it is needed.
fn exceeds(
    header: &Header,
    pbkdf2: &Pbkdf2,
    limit: Duration,
    rate: &mut Option<Rate>,
) -> Result<Option<Duration>> {
    let key_bytes = header.cipher.key_bytes();
    let steps =
        [(pbkdf2.iterations, key_bytes), (header.digest.pbkdf2.iterations, header.digest.value.len())];
    let iterations: u64 = steps.iter().map(|(n, _)| u64::from(n.get())).sum();
    if iterations / SLOWEST < limit.as_secs() {
        return Ok(None);
    }
    let rate = match *rate {
        Some(rate) => rate,
        None => *rate.insert(Rate::measure(header.hash, Duration::from_millis(4))?),
    };
    let estimate = steps.into_iter().map(|(n, bytes)| rate.duration(n, bytes)).sum();
    Ok((estimate > limit).then_some(estimate))
}

/// One passphrase, being tried.
struct Attempt<'a> {
    search: &'a Search<'a>,
    passphrase: &'a [u8],
    next: AtomicUsize,
    found: AtomicBool,
    outcome: Mutex<Result<Option<VolumeKey>>>,
}

impl Attempt<'_> {
    /// Tries slots until there are no more or one matched, here or in another thread.
    fn work(&self) {
        while !self.found.load(Ordering::Acquire) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(candidate) = self.search.candidates.get(index) else { return };
            self.report(self.try_slot(candidate));
        }
    }

    fn report(&self, result: Result<Option<VolumeKey>>) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, &*outcome) {
            (Ok(Some(key)), _) => {
                self.found.store(true, Ordering::Release);
                *outcome = Ok(Some(key));
            }
            (Err(e), Ok(None)) => *outcome = Err(e),
            _ => {}
        }
    }

    /// The volume key, if the passphrase opens this slot and nobody was faster.
    fn try_slot(&self, slot: &Candidate) -> Result<Option<VolumeKey>> {
        let header = self.search.header;
        let wrapping = Wrapping::of(header);
        let Pbkdf2 { iterations, salt } = slot.pbkdf2;
        let mut slot_key = SecretBytes::zeroed(wrapping.key_bytes)?;
        if !kdf::pbkdf2_unless(&self.found, header.hash, self.passphrase, &salt, iterations, &mut slot_key) {
            return Ok(None);
        }
        let mut material = SecretBytes::zeroed(wrapping.material_bytes())?;
        (self.search.read)(slot.material, &mut material)?;
        let key = wrapping.unseal(&mut material, &slot_key)?;
        Ok(self.recognise(&key).then_some(key))
    }

    fn recognise(&self, key: &VolumeKey) -> bool {
        let header = self.search.header;
        let Digest { pbkdf2: Pbkdf2 { iterations, salt }, value } = header.digest;
        let mut digest = value.map(|_| 0);
        kdf::pbkdf2_unless(&self.found, header.hash, key.as_bytes(), &salt, iterations, &mut digest)
            && digest.ct_eq(&value).into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Slots, header};
    use super::*;
    use std::num::NonZeroU32;

    const LIMIT: Duration = Duration::from_secs(60);

    fn opens(slots: &Slots, passphrase: &[u8]) -> bool {
        let read = |at: Sectors, to: &mut [u8]| slots.read(at, to);
        let found = Search::new(&slots.header, &read, LIMIT).unwrap().run(passphrase).unwrap();
        found.is_some_and(|key| key.as_bytes() == slots.key.as_bytes())
    }

    #[test]
    fn every_slots_passphrase_opens_it_and_no_other_does() {
        let slots = Slots::new("aes-xts-plain64", 64, &[(1, b"one"), (4, b"\xff\0binary\n"), (7, b"")]);
        for passphrase in [&b"one"[..], b"\xff\0binary\n", b""] {
            assert!(opens(&slots, passphrase), "{passphrase:?}");
        }
        for passphrase in [&b"One"[..], b"one\n", b"\xff", b"\n"] {
            assert!(!opens(&slots, passphrase), "{passphrase:?}");
        }
    }

    #[test]
    fn material_that_does_not_fill_its_last_sector_is_padded() {
        let slots = Slots::new("aes-cbc-essiv:sha256", 24, &[(0, b"pw")]);
        assert!(opens(&slots, b"pw"));
    }

    #[test]
    fn material_that_was_touched_hides_no_key() {
        let mut slots = Slots::new("aes-xts-plain64", 32, &[(0, b"pw")]);
        let last = slots.header.slots[0].material.bytes() as usize + 32 * 4000 - 1;
        slots.file[last] ^= 1;
        assert!(!opens(&slots, b"pw"));
    }

    #[test]
    fn unreadable_material_is_reported_unless_another_slot_matches() {
        let slots = Slots::new("aes-xts-plain64", 32, &[(0, b"zero"), (3, b"three")]);
        let broken = slots.header.slots[0].material;
        let read = |at: Sectors, to: &mut [u8]| match at == broken {
            true => Err(secret::Error::from_errno(nix::libc::EIO)),
            false => slots.read(at, to),
        };
        let search = Search::new(&slots.header, &read, LIMIT).unwrap();
        assert!(search.run(b"three").unwrap().is_some());
        assert_eq!(search.run(b"four").unwrap_err().errno(), nix::libc::EIO);
    }

    #[test]
    fn a_slot_that_takes_too_long_is_skipped_and_the_others_are_tried() {
        let mut slots = Slots::new("aes-xts-plain64", 64, &[(0, b"slow"), (1, b"quick")]);
        let slow = slots.header.slots[0].pbkdf2.as_mut().unwrap();
        slow.iterations = NonZeroU32::MAX;
        let read = |at: Sectors, to: &mut [u8]| slots.read(at, to);
        let search = Search::new(&slots.header, &read, Duration::from_secs(1)).unwrap();
        assert_eq!(search.skipped().iter().map(|s| s.slot).collect::<Vec<_>>(), [0]);
        assert!(search.skipped()[0].estimate > Duration::from_secs(1));
        assert!(search.run(b"quick").unwrap().is_some());
    }

    #[test]
    fn the_digests_iterations_count_as_well() {
        let mut header = header("aes-xts-plain64", 64, &[0]);
        header.digest.pbkdf2.iterations = NonZeroU32::MAX;
        let read = |_: Sectors, _: &mut [u8]| Ok(());
        assert!(Search::new(&header, &read, Duration::from_secs(1)).unwrap().is_empty());
    }

    #[test]
    fn two_images_with_one_passphrase_have_nothing_in_common() {
        let [a, b] = [0, 1].map(|_| Slots::new("aes-xts-plain64", 32, &[(0, b"pw")]));
        assert_ne!(a.key.as_bytes(), b.key.as_bytes());
        assert_ne!(a.header.slots[0].pbkdf2.unwrap().salt, b.header.slots[0].pbkdf2.unwrap().salt);
    }
}
