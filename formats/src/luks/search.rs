//! The search for the slots that a passphrase opens, and what it may cost.
//!
//! Headers come from strangers, so what trying their slots costs is known before it is paid, and bounded for the whole
//! search ([`Bounds`]): of time, all slots together, so that thirty slots that are each just cheap enough are not; of
//! memory, one slot, as slots that take memory are tried one at a time and give it back. The cheapest slots are tried, as
//! many as fit, in the order the header gives them; which were not is kept, to be told ([`Skipped`]).

use super::derive::{Bounds, Excess, Rates};
use super::keyslot::{KeySlot, VolumeKey};
use secret::{Error, Result};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

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

/// A slot that a passphrase opened.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its number.
    pub(crate) slot: usize,
    /// What was in it.
    pub(crate) key: VolumeKey,
}

/// The search for the slots that a passphrase opens.
pub(crate) struct Search<'a> {
    read: Box<ReadMaterial<'a>>,
    candidates: Vec<KeySlot>,
    skipped: Vec<Skipped>,
    bounds: Bounds,
    /// About how long trying all candidates takes, or more.
    cost: Duration,
}

impl fmt::Debug for Search<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Search { candidates, skipped, bounds, cost, .. } = self;
        f.debug_struct("Search")
            .field("candidates", candidates)
            .field("skipped", skipped)
            .field("bounds", bounds)
            .field("cost", cost)
            .finish_non_exhaustive()
    }
}

impl<'a> Search<'a> {
    /// A search in `slots`, in this order, as far as `bounds` go.
    ///
    /// # Errors
    /// The processor-time clock cannot be read.
    pub(super) fn new(
        slots: Vec<KeySlot>,
        read: impl Fn(u64, &mut [u8]) -> Result<()> + Sync + 'a,
        bounds: Bounds,
    ) -> Result<Self> {
        let (candidates, skipped) = (Vec::new(), Vec::new());
        let mut search = Search { read: Box::new(read), candidates, skipped, bounds, cost: Duration::ZERO };
        let mut rates = Rates::default();
        for slot in slots {
            match slot.excess(bounds, &mut rates)? {
                Some(excess) => search.skipped.push(Skipped { slot: slot.number, excess }),
                None => search.candidates.push(slot),
            }
        }
        search.cost = search.candidates.iter().map(KeySlot::longest).sum();
        if search.cost > bounds.time {
            let durations = search.candidates.iter().map(|slot| slot.duration(&mut rates));
            search.keep_affordable(&durations.collect::<Result<Vec<_>>>()?);
        }
        search.skipped.sort_by_key(|skipped| skipped.slot);
        Ok(search)
    }

    /// Keeps as many of the cheapest candidates as the time allows; each takes as long as `durations` say.
    fn keep_affordable(&mut self, durations: &[Duration]) {
        let at_once = u32::try_from(self.at_once()).unwrap_or(u32::MAX);
        let mut cheapest: Vec<_> = (0..durations.len()).collect();
        cheapest.sort_by_key(|index| durations[*index]);
        let mut left = self.bounds.time.saturating_mul(at_once);
        let pay = |index: &usize| left.checked_sub(durations[*index]).map(|rest| left = rest).is_some();
        let affordable: Vec<_> = cheapest.into_iter().take_while(pay).collect();
        for (index, slot) in std::mem::take(&mut self.candidates).into_iter().enumerate() {
            match affordable.contains(&index) {
                true => self.candidates.push(slot),
                false => {
                    let excess = Excess::More(durations[index]);
                    self.skipped.push(Skipped { slot: slot.number, excess });
                }
            }
        }
        self.cost = affordable.iter().map(|index| durations[*index]).sum::<Duration>() / at_once;
    }

    /// Whether there is any slot to try.
    pub(super) fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// What the search may cost.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Whether two passphrases can be tried within the bounds.
    pub(super) fn affords_two(&self) -> bool {
        self.cost * 2 <= self.bounds.time
    }

    /// The slots that cost too much, in order of their numbers.
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
        let Outcome { mut found, error } = self.attempt(passphrase, false);
        match (found.pop(), error) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }

    /// Every slot that `passphrase` opens, in order of their numbers.
    ///
    /// # Errors
    /// Key material cannot be read.
    pub(super) fn run_all(&self, passphrase: &[u8]) -> Result<Vec<Found>> {
        let Outcome { mut found, error } = self.attempt(passphrase, true);
        found.sort_by_key(|found| found.slot);
        error.map_or(Ok(found), Err)
    }

    fn attempt(&self, passphrase: &[u8], all: bool) -> Outcome {
        let attempt = Attempt {
            search: self,
            passphrase,
            all,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            outcome: Mutex::default(),
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

/// What came of trying slots.
#[derive(Debug, Default)]
struct Outcome {
    found: Vec<Found>,
    /// The first that happened.
    error: Option<Error>,
}

/// One passphrase, being tried.
struct Attempt<'a> {
    search: &'a Search<'a>,
    passphrase: &'a [u8],
    /// Go on where one matched.
    all: bool,
    next: AtomicUsize,
    stop: AtomicBool,
    outcome: Mutex<Outcome>,
}

impl Attempt<'_> {
    /// Tries slots until there are no more or enough matched, here or in another thread.
    fn work(&self) {
        while !self.stop.load(Ordering::Acquire) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = self.search.candidates.get(index) else { return };
            let opened = slot.open_unless(&self.stop, &*self.search.read, self.passphrase);
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match opened {
                Ok(None) => {}
                Ok(Some(key)) => {
                    self.stop.store(!self.all, Ordering::Release);
                    outcome.found.push(Found { slot: slot.number, key });
                }
                Err(e) => drop(outcome.error.get_or_insert(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::derive::{ArgonCost, Derivation, Variant};
    use super::super::header::Header;
    use super::super::tests::{Slots, header};
    use super::*;
    use std::num::NonZeroU32;

    const LIMIT: u64 = 60;

    fn bounds(seconds: u64) -> Bounds {
        Bounds { time: Duration::from_secs(seconds), memory: 1 << 20 }
    }

    fn search<'a>(
        header: &Header,
        read: impl Fn(u64, &mut [u8]) -> Result<()> + Sync + 'a,
        seconds: u64,
    ) -> Search<'a> {
        Search::new(header.key_slots(), read, bounds(seconds)).unwrap()
    }

    fn opens(slots: &Slots, passphrase: &[u8]) -> bool {
        let read = |at: u64, to: &mut [u8]| slots.read(at, to);
        let found = search(&slots.header, read, LIMIT).run(passphrase).unwrap();
        found.is_some_and(|found| found.key.as_bytes() == slots.key.as_bytes())
    }

    fn skipped(search: &Search<'_>) -> Vec<usize> {
        search.skipped().iter().map(|s| s.slot).collect()
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
    fn every_slot_that_matches_is_found_where_all_are_wanted() {
        let slots = Slots::new("aes-xts-plain64", 32, &[(0, b"a"), (2, b"b"), (3, b"a"), (7, b"a")]);
        let read = |at: u64, to: &mut [u8]| slots.read(at, to);
        let found = search(&slots.header, read, LIMIT).run_all(b"a").unwrap();
        assert_eq!(found.iter().map(|found| found.slot).collect::<Vec<_>>(), [0, 3, 7]);
        assert!(found.iter().all(|found| found.key.as_bytes() == slots.key.as_bytes()));
    }

    #[test]
    fn unreadable_material_is_reported_unless_another_slot_matches() {
        let slots = Slots::new("aes-xts-plain64", 32, &[(0, b"zero"), (3, b"three")]);
        let broken = slots.header.slots[0].material.bytes();
        let read = |at: u64, to: &mut [u8]| match at == broken {
            true => Err(Error::from_errno(nix::libc::EIO)),
            false => slots.read(at, to),
        };
        let search = search(&slots.header, read, LIMIT);
        assert!(search.run(b"three").unwrap().is_some());
        assert_eq!(search.run(b"four").unwrap_err().errno(), nix::libc::EIO);
        assert_eq!(search.run_all(b"three").unwrap_err().errno(), nix::libc::EIO);
    }

    #[test]
    fn a_slot_that_takes_too_long_is_skipped_and_the_others_are_tried() {
        let mut slots = Slots::new("aes-xts-plain64", 64, &[(0, b"slow"), (1, b"quick")]);
        let slow = slots.header.slots[0].pbkdf2.as_mut().unwrap();
        slow.iterations = NonZeroU32::MAX;
        let read = |at: u64, to: &mut [u8]| slots.read(at, to);
        let search = search(&slots.header, read, 1);
        assert_eq!(skipped(&search), [0]);
        assert!(matches!(search.skipped()[0].excess, Excess::Time(time) if time > Duration::from_secs(1)));
        assert!(search.run(b"quick").unwrap().is_some());
    }

    #[test]
    fn the_digests_iterations_count_as_well() {
        let mut header = header("aes-xts-plain64", 64, &[0]);
        header.digest.pbkdf2.iterations = NonZeroU32::MAX;
        assert!(search(&header, |_, _| Ok(()), 1).is_empty());
    }

    /// Eight slots of Argon2 with 1 GiB and so many passes.
    fn eight(passes: u32) -> Vec<KeySlot> {
        let mut slots = header("aes-xts-plain64", 64, &[0, 1, 2, 3, 4, 5, 6, 7]).key_slots();
        for slot in &mut slots {
            let cost = ArgonCost { time: passes, memory: 1 << 20, cpus: 1 };
            slot.derivation = Derivation::Argon2 { variant: Variant::Id, cost, salt: vec![0; 32] };
        }
        slots
    }

    /// A search in eight slots that take so many seconds each, in at most a minute.
    fn minute(seconds: [u64; 8]) -> Search<'static> {
        let mut search = Search::new(eight(4), |_, _| Ok(()), bounds(1 << 20)).unwrap();
        search.bounds.time = Duration::from_secs(60);
        search.keep_affordable(&seconds.map(Duration::from_secs));
        search
    }

    #[test]
    fn slots_that_are_each_cheap_enough_may_be_too_dear_together() {
        let search = minute([25; 8]);
        assert_eq!(skipped(&search), [2, 3, 4, 5, 6, 7]);
        assert_eq!(search.skipped()[0].excess, Excess::More(Duration::from_secs(25)));
        assert!(search.cost == Duration::from_secs(50) && !search.affords_two());
        let all = minute([3; 8]);
        assert!(all.skipped().is_empty() && all.affords_two());
        // On no machine are a hundred thousand passes over 1 GiB, eight times, done in a minute.
        let search = Search::new(eight(100_000), |_, _| Ok(()), bounds(60)).unwrap();
        assert_eq!(skipped(&search).len(), 8);
    }

    #[test]
    fn the_cheapest_slots_are_tried_in_the_order_of_the_header() {
        let search = minute([50, 7, 50, 9, 8, 40, 30, 6]);
        let tried: Vec<_> = search.candidates.iter().map(|slot| slot.number).collect();
        assert_eq!((tried, skipped(&search)), (vec![1, 3, 4, 6, 7], vec![0, 2, 5]));
        assert_eq!(search.cost, Duration::from_secs(60));
    }

    #[test]
    fn costs_beyond_the_bounds_are_found_without_paying_them() {
        let slots = |time, memory| {
            let mut slots = eight(time);
            for slot in &mut slots {
                let Derivation::Argon2 { cost, .. } = &mut slot.derivation else { unreachable!() };
                cost.memory = memory;
            }
            Search::new(slots, |_, _| panic!("nothing is read"), bounds(2)).unwrap()
        };
        let all: Vec<_> = (0..8).collect();
        let memory = slots(4, 1 << 21);
        assert_eq!(memory.skipped()[7].excess, Excess::Memory(1 << 21));
        assert_eq!((skipped(&memory), skipped(&slots(u32::MAX, 1 << 20))), (all.clone(), all));
        assert_eq!(skipped(&slots(4, 64)), Vec::<usize>::new());
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
        let found = search(&slots.header, read, 3600).run(b"first").unwrap().unwrap();
        assert_eq!((found.slot, tried.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn as_many_slots_are_tried_at_once_as_there_are_cores_for_and_argon2_alone() {
        let all: Vec<_> = (0..8).map(|slot| (slot, &b"pw"[..])).collect();
        let slots = Slots::new("aes-xts-plain64", 32, &all);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(search(&slots.header, |_, _| Ok(()), LIMIT).at_once(), cores.min(8));
        let mut mixed = slots.header.key_slots();
        let cost = ArgonCost { time: 4, memory: 64, cpus: 1 };
        mixed[5].derivation = Derivation::Argon2 { variant: Variant::Id, cost, salt: vec![0; 32] };
        assert_eq!(Search::new(mixed, |_, _| Ok(()), bounds(LIMIT)).unwrap().at_once(), 1);
    }
}
