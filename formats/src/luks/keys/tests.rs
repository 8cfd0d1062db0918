//! Tests of key slot changes: what works afterwards, and what is left when the power goes in the middle.

use super::{KeyStore, NewKey, ops};
use crate::luks::area::Area;
use crate::luks::container::Container;
use crate::luks::derive::Bounds;
use crate::luks::header::Placement;
use crate::luks::tests::{Slots, luks2};
use block::Result;
use block::protocol::memory::{Memory, Op, power_cuts};
use std::num::NonZeroU32;
use std::time::Duration;

fn bounds() -> Bounds {
    Bounds::new(Duration::from_secs(60))
}

/// The least a slot can cost.
fn cheap() -> NewKey {
    NewKey {
        iterations: NonZeroU32::new(1000),
        derivation: None,
        memory: Some(64),
        parallel: Some(1),
        ..NewKey::default()
    }
}

fn cheap2() -> NewKey {
    NewKey { derivation: Some(super::Kind::Pbkdf2), ..cheap() }
}

fn change<T>(area: &Area, f: impl FnOnce(&mut dyn KeyStore) -> Result<T>) -> Result<T> {
    let mut container = Container::read(area, Placement::Attached)?;
    container.change(area, Placement::Attached, bounds(), f)
}

/// The slots that `passphrase` opens in `image`.
fn opens(image: &[u8], passphrase: &[u8]) -> Vec<usize> {
    let area = Area::new(Memory::child(image.to_vec()), 0);
    change(&area, |keys| {
        Ok(keys.active().into_iter().filter(|slot| keys.holds(*slot, passphrase).unwrap()).collect())
    })
    .unwrap()
}

/// What `f` does to `image`, and the image afterwards.
fn record(image: &[u8], f: impl FnOnce(&mut dyn KeyStore) -> Result<()>) -> (Vec<Op>, Vec<u8>) {
    let (child, journal) = Memory::recorded(image.to_vec());
    let area = Area::new(child.clone(), 0);
    change(&area, f).unwrap();
    let mut after = vec![0; image.len()];
    child.read_exact(0, &mut after).unwrap();
    (journal.take(), after)
}

/// An image of each version with these passphrases in slots 0, 1, …
fn images(passphrases: &[&[u8]]) -> [Vec<u8>; 2] {
    let numbered: Vec<_> = passphrases.iter().copied().enumerate().collect();
    [Slots::new("aes-xts-plain64", 32, &numbered).file, luks2(passphrases)]
}

/// Whatever is left of `image` when the power goes during `f` opens with one of `keys`.
fn survives(image: &[u8], keys: &[&[u8]], f: impl FnOnce(&mut dyn KeyStore) -> Result<()>) -> Vec<u8> {
    let (ops, after) = record(image, f);
    assert_eq!(ops.last(), Some(&Op::Flush), "the last write is durable");
    let mut seen = 0;
    power_cuts(image.to_vec(), &ops, |left| {
        seen += 1;
        let any = keys.iter().any(|key| !opens(left, key).is_empty());
        assert!(any, "state {seen} opens with none of the keys");
    });
    assert!(seen > 10, "{seen}");
    after
}

#[test]
fn a_power_cut_while_a_slot_is_added_leaves_the_old_one() {
    for image in images(&[b"old"]) {
        let after =
            survives(&image, &[b"old"], |keys| ops::add(keys, b"old", b"new", None, &cheap2()).map(drop));
        assert_eq!((opens(&after, b"old"), opens(&after, b"new")), (vec![0], vec![1]));
    }
}

#[test]
fn a_power_cut_while_a_passphrase_is_changed_leaves_the_old_or_the_new() {
    for image in images(&[b"old"]) {
        let after = survives(&image, &[b"old", b"new"], |keys| {
            ops::change(keys, b"old", b"new", &cheap2(), false).map(drop)
        });
        assert_eq!((opens(&after, b"old"), opens(&after, b"new")), (vec![], vec![0]));
    }
}

#[test]
fn a_power_cut_while_a_slot_is_removed_leaves_the_other() {
    for image in images(&[b"old", b"other"]) {
        let after = survives(&image, &[b"other"], |keys| ops::remove_slot(keys, 0, false));
        assert_eq!((opens(&after, b"old"), opens(&after, b"other")), (vec![], vec![1]));
    }
}

#[test]
fn slot_6_lies_on_two_sectors_and_survives_as_well() {
    let passphrases: Vec<_> = (0..7).map(|slot| (slot, &b"full"[..])).collect();
    let image = Slots::new("aes-xts-plain64", 32, &passphrases[..6]).file;
    let after =
        survives(&image, &[b"full"], |keys| ops::add(keys, b"full", b"six", Some(6), &cheap()).map(drop));
    assert_eq!(opens(&after, b"six"), [6]);
    let after = survives(&after, &[b"six", b"changed"], |keys| {
        ops::change(keys, b"six", b"changed", &cheap(), false).map(drop)
    });
    let after = survives(&after, &[b"full"], |keys| ops::remove_slot(keys, 6, false));
    assert_eq!(opens(&after, b"changed"), Vec::<usize>::new());
}

#[test]
fn a_damaged_copy_is_mended_before_anything_else_is_written() {
    let whole = luks2(&[b"old"]);
    for damaged_at in [0, 5000, 16384, 16384 + 5000] {
        let mut image = whole.clone();
        image[damaged_at] ^= 1;
        let after = survives(&image, &[b"old", b"new"], |keys| {
            ops::change(keys, b"old", b"new", &cheap2(), false).map(drop)
        });
        assert_eq!(opens(&after, b"new"), [0]);
    }
}

#[test]
fn key_material_is_gone_when_the_slot_is_free() {
    for image in images(&[b"old", b"other"]) {
        let material = |slot: usize| match image[7] {
            1 => 4096 + slot * 131_072,
            _ => 32768 + slot * 131_072,
        };
        let (_, after) = record(&image, |keys| ops::remove_slot(keys, 0, false));
        let (old, new) = (&image[material(0)..][..128_000], &after[material(0)..][..128_000]);
        let same = old.iter().zip(new).filter(|(a, b)| a == b).count();
        assert!(same < 128_000 / 100, "{same} bytes are the same");
        assert_eq!(image[material(1)..][..128_000], after[material(1)..][..128_000]);
    }
}

#[test]
fn what_would_lock_the_user_out_is_refused_unless_forced() {
    for image in images(&[b"only"]) {
        let area = Area::new(Memory::child(image.clone()), 0);
        let text = |e: block::Error| e.to_string();
        let removed = change(&area, |keys| ops::remove_slot(keys, 0, false)).unwrap_err();
        assert!(text(removed).contains("only one that opens the image"));
        let removed = change(&area, |keys| ops::remove_matching(keys, b"only", false)).unwrap_err();
        assert!(text(removed).contains("nobody can read the contents"));
        assert!(change(&area, |keys| ops::erase(keys, false)).is_err());
        assert!(change(&area, |keys| ops::add(keys, b"wrong", b"new", None, &cheap2())).is_err());
        assert!(change(&area, |keys| ops::add(keys, b"only", b"new", Some(0), &cheap2())).is_err());
        assert_eq!(change(&area, |keys| ops::erase(keys, true)).unwrap(), [0]);
        assert!(change(&area, |keys| keys.open(b"only")).unwrap().is_none());
    }
}

#[test]
fn a_change_without_a_free_slot_needs_force() {
    let passphrases: Vec<_> = (0..8).map(|slot| (slot, &b"full"[..])).collect();
    let image = Slots::new("aes-xts-plain64", 32, &passphrases).file;
    let area = Area::new(Memory::child(image), 0);
    let refused = change(&area, |keys| ops::change(keys, b"full", b"new", &cheap(), false)).unwrap_err();
    assert!(refused.to_string().starts_with("No key slot is free"), "{refused}");
    // All slots match, and are tried in parallel: which one is found first is open, but it is one.
    let slot = change(&area, |keys| ops::change(keys, b"full", b"new", &cheap(), true)).unwrap();
    for other in 0..8 {
        let held =
            change(&area, |keys| Ok((keys.holds(other, b"new")?, keys.holds(other, b"full")?))).unwrap();
        assert_eq!(held, (other == slot, other != slot), "slot {other}");
    }
}

#[test]
fn luks2_takes_argon2_and_as_many_slots_as_there_is_room_for() {
    let area = Area::new(Memory::child(luks2(&[b"first"])), 0);
    let argon2 = NewKey { iterations: NonZeroU32::new(4), ..cheap() };
    assert_eq!(change(&area, |keys| ops::add(keys, b"first", b"argon", None, &argon2)).unwrap(), 1);
    assert_eq!(change(&area, |keys| keys.open(b"argon")).unwrap().unwrap().slot, 1);
    for slot in 2..32 {
        let added = change(&area, |keys| ops::add(keys, b"first", b"more", None, &cheap2())).unwrap();
        assert_eq!(added, slot);
    }
    let full = change(&area, |keys| ops::add(keys, b"first", b"more", None, &cheap2())).unwrap_err();
    assert_eq!(full.to_string(), "All key slots are in use");
}
