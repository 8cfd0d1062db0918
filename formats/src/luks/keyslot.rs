//! Key slots: from a passphrase to the volume key, and from a volume key to a slot's material.
//!
//! A slot's key is derived from the passphrase; it encrypts the volume key, which the anti-forensic splitter has spread
//! over 4000 stripes. Lives here: that mechanism, which both versions of the format share, and the search for the slot
//! that a passphrase opens. Not here: how headers describe slots, where passphrases come from
//! ([`secret`](super::secret)) and what the volume key is used for.
//!
//! Invariant: keys, and material that is not encrypted, are in memory that is wiped ([`SecretBytes`]).

use super::area::Area;
use super::derive::{Bounds, Derivation, Excess, Rates};
use crate::crypto::{self, CipherSpec, HashAlg, SectorSize, af};
use secret::{Error, Kind, Result, SecretBytes};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use subtle::ConstantTimeEq;

/// The key that the payload is encrypted with.
#[derive(Debug)]
pub(crate) struct VolumeKey(SecretBytes);

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
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What tells the right volume key from a wrong one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    /// How the key becomes the value.
    pub(super) derivation: Derivation,
    /// What it must become.
    pub(super) value: Vec<u8>,
}

impl Proof {
    /// The proof by which `key` will be recognised.
    ///
    /// # Errors
    /// The system has no memory.
    pub(super) fn of(key: &VolumeKey, derivation: Derivation, bytes: usize) -> Result<Self> {
        let value = derivation.key(key.as_bytes(), bytes)?.to_vec();
        Ok(Proof { derivation, value })
    }

    /// Whether `key` is the right one; `false` too when `stop` is set meanwhile.
    fn recognises(&self, stop: &AtomicBool, key: &VolumeKey) -> Result<bool> {
        let mut value = vec![0; self.value.len()];
        let done = self.derivation.derive(stop, key.as_bytes(), &mut value)?;
        Ok(done && value.ct_eq(&self.value).into())
    }
}

/// How the volume key is hidden in a slot's material.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrapping {
    /// What the material is encrypted with; sectors are numbered from the material's first.
    pub(super) cipher: CipherSpec,
    /// The hash of the anti-forensic splitter.
    pub(super) hash: HashAlg,
    /// Bytes of the volume key.
    pub(super) key_bytes: usize,
}

impl Wrapping {
    /// Bytes of the material, whole sectors.
    pub(super) fn material_bytes(&self) -> usize {
        (self.key_bytes * af::STRIPES).next_multiple_of(SectorSize::B512.bytes())
    }

    /// Bytes of a slot's own key.
    pub(super) fn slot_key_bytes(&self) -> usize {
        self.cipher.key_bytes()
    }

    /// The material that hides `key` under the slot's key.
    ///
    /// # Errors
    /// The system has no random numbers or no memory.
    pub(super) fn seal(&self, key: &VolumeKey, slot_key: &[u8]) -> Result<SecretBytes> {
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
    pub(super) fn unseal(&self, material: &mut SecretBytes, slot_key: &[u8]) -> Result<VolumeKey> {
        crypto::new(&self.cipher, slot_key, SectorSize::B512)?.decrypt(0, material);
        let mut key = SecretBytes::zeroed(self.key_bytes)?;
        af::merge(self.hash, &material[..self.key_bytes * af::STRIPES], &mut key)?;
        Ok(VolumeKey(key))
    }
}

/// A key slot in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeySlot {
    /// Its number.
    pub(super) number: usize,
    /// How a passphrase becomes the slot's key.
    pub(super) derivation: Derivation,
    /// How that key hides the volume key.
    pub(super) wrapping: Wrapping,
    /// Where the material is, in bytes from the start of the header.
    pub(super) at: u64,
    /// By what the volume key is recognised.
    pub(super) proof: Arc<Proof>,
}

impl KeySlot {
    fn slot_key(&self, passphrase: &[u8]) -> Result<SecretBytes> {
        self.derivation.key(passphrase, self.wrapping.slot_key_bytes())
    }

    /// The material that hides `key` under `passphrase`.
    ///
    /// # Errors
    /// The system has no random numbers or no memory.
    pub(super) fn seal(&self, key: &VolumeKey, passphrase: &[u8]) -> Result<SecretBytes> {
        self.wrapping.seal(key, &self.slot_key(passphrase)?)
    }

    /// Writes material that hides `key` under `passphrase`, makes it durable, and proves that it opens.
    ///
    /// # Errors
    /// Those of the layer below, or what was read back is not what was written.
    pub(super) fn store(&self, area: &Area, key: &VolumeKey, passphrase: &[u8]) -> Result<()> {
        let slot_key = self.slot_key(passphrase)?;
        area.write(self.at, &self.wrapping.seal(key, &slot_key)?)?;
        area.flush()?;
        let mut back = SecretBytes::zeroed(self.wrapping.material_bytes())?;
        area.read(self.at, &mut back)?;
        match self.wrapping.unseal(&mut back, &slot_key)?.as_bytes().ct_eq(key.as_bytes()).into() {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Io,
                format!("The key material of slot {} does not read back as it was written", self.number),
            )),
        }
    }

    /// The volume key, if `passphrase` opens the slot.
    ///
    /// # Errors
    /// Its material cannot be read, or there is no memory.
    pub(super) fn open(&self, area: &Area, passphrase: &[u8]) -> Result<Option<VolumeKey>> {
        let read = |at, to: &mut [u8]| area.read(at, to);
        self.open_unless(&AtomicBool::new(false), &read, passphrase)
    }

    fn open_unless(
        &self,
        stop: &AtomicBool,
        read: &ReadMaterial<'_>,
        passphrase: &[u8],
    ) -> Result<Option<VolumeKey>> {
        let mut slot_key = SecretBytes::zeroed(self.wrapping.slot_key_bytes())?;
        if !self.derivation.derive(stop, passphrase, &mut slot_key)? {
            return Ok(None);
        }
        let mut material = SecretBytes::zeroed(self.wrapping.material_bytes())?;
        read(self.at, &mut material)?;
        let key = self.wrapping.unseal(&mut material, &slot_key)?;
        Ok(self.proof.recognises(stop, &key)?.then_some(key))
    }
}

/// Reads key material: from so many bytes behind the start of the header.
pub(super) type ReadMaterial<'a> = dyn Fn(u64, &mut [u8]) -> Result<()> + Sync + 'a;

/// A slot that was not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Its number.
    pub(super) slot: usize,
    /// What it would cost.
    pub(super) excess: Excess,
}

/// The slot that a passphrase opened.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its number.
    pub(crate) slot: usize,
    /// What was in it.
    pub(crate) key: VolumeKey,
}

/// The search for the slot that a passphrase opens.
pub(super) struct Search<'a> {
    read: &'a ReadMaterial<'a>,
    candidates: Vec<KeySlot>,
    skipped: Vec<Skipped>,
    bounds: Bounds,
}

impl<'a> Search<'a> {
    /// A search in `slots`, in this order, but for those that would cost more than `bounds` each.
    ///
    /// # Errors
    /// The processor-time clock cannot be read.
    pub(super) fn new(slots: Vec<KeySlot>, read: &'a ReadMaterial<'a>, bounds: Bounds) -> Result<Self> {
        let mut search = Search { read, candidates: Vec::new(), skipped: Vec::new(), bounds };
        let mut rates = Rates::default();
        for slot in slots {
            let own = slot.derivation.excess(slot.wrapping.slot_key_bytes(), bounds, &mut rates)?;
            let proof = slot.proof.derivation.excess(slot.proof.value.len(), bounds, &mut rates)?;
            match own.or(proof) {
                Some(excess) => search.skipped.push(Skipped { slot: slot.number, excess }),
                None => search.candidates.push(slot),
            }
        }
        Ok(search)
    }

    /// Whether there is any slot to try.
    pub(super) fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// What one slot may cost.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The slots that cost too much.
    pub(super) fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The volume key, if `passphrase` opens a slot.
    ///
    /// Slots are tried in order. One derivation keeps as many cores busy as it has blocks or lanes; those that remain
    /// work on the next slots meanwhile, unless that takes memory.
    ///
    /// # Errors
    /// Key material cannot be read, and no other slot matches.
    pub(super) fn run(&self, passphrase: &[u8]) -> Result<Option<Found>> {
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
        let each = |slot: &KeySlot| slot.derivation.at_once(slot.wrapping.slot_key_bytes());
        let least = self.candidates.iter().map(each).min().unwrap_or(1);
        least.clamp(1, self.candidates.len().max(1))
    }
}

/// One passphrase, being tried.
struct Attempt<'a> {
    search: &'a Search<'a>,
    passphrase: &'a [u8],
    next: AtomicUsize,
    found: AtomicBool,
    outcome: Mutex<Result<Option<Found>>>,
}

impl Attempt<'_> {
    /// Tries slots until there are no more or one matched, here or in another thread.
    fn work(&self) {
        while !self.found.load(Ordering::Acquire) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = self.search.candidates.get(index) else { return };
            let opened = slot.open_unless(&self.found, self.search.read, self.passphrase);
            self.report(opened.map(|key| key.map(|key| Found { slot: slot.number, key })));
        }
    }

    fn report(&self, result: Result<Option<Found>>) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, &*outcome) {
            (Ok(Some(found)), _) => {
                self.found.store(true, Ordering::Release);
                *outcome = Ok(Some(found));
            }
            (Err(e), Ok(None)) => *outcome = Err(e),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::Header;
    use super::super::tests::{Slots, header};
    use super::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    const LIMIT: u64 = 60;

    fn search<'a>(header: &Header, read: &'a ReadMaterial<'a>, seconds: u64) -> Search<'a> {
        Search::new(header.key_slots(), read, Bounds::new(Duration::from_secs(seconds))).unwrap()
    }

    fn opens(slots: &Slots, passphrase: &[u8]) -> bool {
        let read = |at: u64, to: &mut [u8]| slots.read(at, to);
        let found = search(&slots.header, &read, LIMIT).run(passphrase).unwrap();
        found.is_some_and(|found| found.key.as_bytes() == slots.key.as_bytes())
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
        let broken = slots.header.slots[0].material.bytes();
        let read = |at: u64, to: &mut [u8]| match at == broken {
            true => Err(Error::from_errno(nix::libc::EIO)),
            false => slots.read(at, to),
        };
        let search = search(&slots.header, &read, LIMIT);
        assert!(search.run(b"three").unwrap().is_some());
        assert_eq!(search.run(b"four").unwrap_err().errno(), nix::libc::EIO);
    }

    #[test]
    fn a_slot_that_takes_too_long_is_skipped_and_the_others_are_tried() {
        let mut slots = Slots::new("aes-xts-plain64", 64, &[(0, b"slow"), (1, b"quick")]);
        let slow = slots.header.slots[0].pbkdf2.as_mut().unwrap();
        slow.iterations = NonZeroU32::MAX;
        let read = |at: u64, to: &mut [u8]| slots.read(at, to);
        let search = search(&slots.header, &read, 1);
        assert_eq!(search.skipped().iter().map(|s| s.slot).collect::<Vec<_>>(), [0]);
        assert!(matches!(search.skipped()[0].excess, Excess::Time(time) if time > Duration::from_secs(1)));
        assert!(search.run(b"quick").unwrap().is_some());
    }

    #[test]
    fn the_digests_iterations_count_as_well() {
        let mut header = header("aes-xts-plain64", 64, &[0]);
        header.digest.pbkdf2.iterations = NonZeroU32::MAX;
        let read = |_: u64, _: &mut [u8]| Ok(());
        assert!(search(&header, &read, 1).is_empty());
    }

    #[test]
    fn two_images_with_one_passphrase_have_nothing_in_common() {
        let [a, b] = [0, 1].map(|_| Slots::new("aes-xts-plain64", 32, &[(0, b"pw")]));
        assert_ne!(a.key.as_bytes(), b.key.as_bytes());
        assert_ne!(a.header.slots[0].pbkdf2.unwrap().salt, b.header.slots[0].pbkdf2.unwrap().salt);
    }

    #[test]
    fn the_right_key_in_the_first_slot_costs_one_derivation_not_eight() {
        let all: Vec<_> =
            (0..8).map(|slot| (slot, if slot == 0 { &b"first"[..] } else { b"other" })).collect();
        let mut slots = Slots::new("aes-xts-plain64", 64, &all);
        // The others would take a second each, if they were tried.
        slots.header.slots[1..]
            .iter_mut()
            .for_each(|slot| slot.pbkdf2.as_mut().unwrap().iterations = NonZeroU32::new(1_000_000).unwrap());
        let tried = AtomicUsize::new(0);
        let read = |at: u64, to: &mut [u8]| {
            tried.fetch_add(1, Ordering::Relaxed);
            slots.read(at, to)
        };
        let found = search(&slots.header, &read, LIMIT).run(b"first").unwrap().unwrap();
        assert_eq!((found.slot, tried.into_inner()), (0, 1));
    }

    #[test]
    fn as_many_slots_are_tried_at_once_as_there_are_cores_for_and_argon2_alone() {
        let all: Vec<_> = (0..8).map(|slot| (slot, &b"pw"[..])).collect();
        let slots = Slots::new("aes-xts-plain64", 32, &all);
        let read = |at: u64, to: &mut [u8]| slots.read(at, to);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(search(&slots.header, &read, LIMIT).at_once(), cores.min(8));
        let mut mixed = slots.header.key_slots();
        let cost = super::super::derive::ArgonCost { time: 4, memory: 64, cpus: 1 };
        let variant = super::super::derive::Variant::Id;
        mixed[5].derivation = Derivation::Argon2 { variant, cost, salt: vec![0; 32] };
        let bounds = Bounds::new(Duration::from_secs(LIMIT));
        assert_eq!(Search::new(mixed, &read, bounds).unwrap().at_once(), 1);
    }
}
