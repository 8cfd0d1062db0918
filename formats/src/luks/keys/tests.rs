//! Tests of key slot changes: what works afterwards, and what is left when the power goes in the middle.

use super::{KeyStore, NewKey, amend, matching, open, ops};
use crate::luks::area::Area;
use crate::luks::container::Container;
use crate::luks::derive::Bounds;
use crate::luks::header::Placement;
use crate::luks::tests::{Slots, luks2, luks2_with};
use block::Result;
use block::graph::OpenFlags;
use block::protocol::memory::{Memory, Op, power_cuts};
use std::num::NonZeroU32;

fn bounds() -> Bounds {
    Bounds::of(&OpenFlags::default())
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

pub(in crate::luks) fn change<T>(area: &Area, f: impl FnOnce(&mut dyn KeyStore) -> Result<T>) -> Result<T> {
    let mut container = Container::read(area, Placement::Attached)?;
    container.change(area, Placement::Attached, bounds(), f)
}

/// The slots that `passphrase` opens in `image`.
pub(in crate::luks) fn opens(image: &[u8], passphrase: &[u8]) -> Vec<usize> {
    let area = Area::new(Memory::child(image.to_vec()), 0);
    let found = change(&area, |keys| matching(keys, passphrase)).unwrap();
    found.iter().map(|found| found.slot).collect()
}

/// What `f` does to `image`, and the image afterwards.
pub(in crate::luks) fn record(image: &[u8], f: impl FnOnce(&Area)) -> (Vec<Op>, Vec<u8>) {
    let (child, journal) = Memory::recorded(image.to_vec());
    f(&Area::new(child.clone(), 0));
    let mut after = vec![0; image.len()];
    child.read_exact(0, &mut after).unwrap();
    (journal.take(), after)
}

/// An image of each version with these passphrases in slots 0, 1, …
pub(in crate::luks) fn images(passphrases: &[&[u8]]) -> [Vec<u8>; 2] {
    let numbered: Vec<_> = passphrases.iter().copied().enumerate().collect();
    [Slots::new("aes-xts-plain64", 32, &numbered).file, luks2(passphrases)]
}

/// Whatever is left of `image` when the power goes during `f` opens with one of `keys`.
pub(in crate::luks) fn survives_area(image: &[u8], keys: &[&[u8]], f: impl FnOnce(&Area)) -> Vec<u8> {
    let (ops, after) = record(image, f);
    assert_eq!(ops.last(), Some(&Op::Flush), "the last write is durable");
    let mut seen = 0;
    power_cuts(image.to_vec(), &ops, |left| {
        seen += 1;
        let area = Area::new(Memory::child(left.to_vec()), 0);
        let any = change(&area, |store| Ok(keys.iter().any(|key| open(store, key).is_ok()))).unwrap();
        assert!(any, "state {seen} opens with none of the keys");
    });
    assert!(seen > 10, "{seen}");
    after
}

/// The same of a change of keys.
fn survives(image: &[u8], keys: &[&[u8]], f: impl FnOnce(&mut dyn KeyStore) -> Result<()>) -> Vec<u8> {
    survives_area(image, keys, |area| change(area, f).unwrap())
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
        let (_, after) =
            record(&image, |area| change(area, |keys| ops::remove_slot(keys, 0, false)).unwrap());
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
        assert!(change(&area, |keys| open(keys, b"only")).is_err());
    }
}

/// A LUKS1 image with all slots in use: each has a passphrase of its own.
fn full() -> Vec<u8> {
    let names: Vec<_> = (0..8).map(|slot| format!("pass{slot}")).collect();
    let slots: Vec<_> = names.iter().map(String::as_bytes).enumerate().collect();
    Slots::new("aes-xts-plain64", 32, &slots).file
}

/// A LUKS2 image whose key slot area has room for no more than these.
fn crowded(passphrases: &[&[u8]]) -> Vec<u8> {
    luks2_with(passphrases, passphrases.len() as u64 * 131_072)
}

#[test]
fn a_change_without_a_free_slot_needs_force() {
    for (image, old) in [(full(), &b"pass3"[..]), (crowded(&[b"pass0", b"pass3"]), b"pass3")] {
        let area = Area::new(Memory::child(image.clone()), 0);
        let refused = change(&area, |keys| ops::change(keys, old, b"new", &cheap2(), false)).unwrap_err();
        assert!(refused.to_string().starts_with("No key slot is free"), "{refused}");
        let slot = opens(&image, old);
        let changed = change(&area, |keys| ops::change(keys, old, b"new", &cheap2(), true)).unwrap();
        assert_eq!(changed, slot);
    }
}

#[test]
fn a_power_cut_in_a_forced_change_harms_no_other_slot() {
    let luks1 = (full(), &[&b"pass0"[..], b"pass7"][..]);
    for (image, others) in [luks1, (crowded(&[b"pass0", b"pass3", b"pass7"]), &[b"pass0", b"pass7"])] {
        let forced = |keys: &mut dyn KeyStore| ops::change(keys, b"pass3", b"new", &cheap2(), true).map(drop);
        for other in others {
            let after = survives(&image, &[other], forced);
            assert_eq!((opens(&after, b"pass3").len(), opens(&after, b"new").len()), (0, 1));
        }
    }
}

#[test]
fn a_passphrase_in_several_slots_opens_none_once_it_is_changed() {
    let slots: Vec<_> = (0..8).map(|slot| (slot, if slot < 5 { &b"old"[..] } else { b"other" })).collect();
    let luks1 = Slots::new("aes-xts-plain64", 32, &slots).file;
    let luks2 = luks2(&[b"old", b"other", b"old"]);
    let crowded = crowded(&[b"old", b"other", b"old"]);
    for (image, changed) in [(luks1, vec![0, 1, 2, 3, 4]), (luks2, vec![0, 2]), (crowded, vec![0, 2])] {
        // None is free in two of the images: while one slot is overwritten, the others open it.
        let after = survives(&image, &[b"old", b"new"], |keys| {
            assert_eq!(ops::change(keys, b"old", b"new", &cheap2(), false)?, changed);
            Ok(())
        });
        assert_eq!((opens(&after, b"old"), opens(&after, b"new")), (vec![], vec![0]));
        assert!(!opens(&after, b"other").is_empty());
    }
}

/// Does what the options of `amend` say, with the secrets `old` and `new`.
fn amended(area: &Area, options: &[(&str, &str)], force: bool) -> Result<()> {
    let mut objects = secret::Registry::new([secret::OBJECT_TYPES]);
    for object in ["secret,id=old,data=old", "secret,id=new,data=new"] {
        let _ = objects.add(object).unwrap();
    }
    let mut given = block::graph::CreateOptions::amending(&crate::luks::ROW);
    options.iter().for_each(|(name, value)| given.set(name, value).unwrap());
    let env = block::graph::Env { drivers: crate::DRIVERS, objects: &objects };
    let amend = amend::Amend::parse(&given).unwrap();
    let with = amend::Context { env, key_secret: Some("old"), force };
    change(area, |keys| amend.run(keys, &with))
}

#[test]
fn a_power_cut_while_amend_overwrites_a_slot_leaves_a_passphrase() {
    let options = [("state", "active"), ("keyslot", "0"), ("new-secret", "new"), ("iter-time", "1")];
    for image in images(&[b"old"]) {
        let area = Area::new(Memory::child(image.clone()), 0);
        assert!(amended(&area, &options, false).unwrap_err().to_string().contains("Refusing to overwrite"));
        let after = survives_area(&image, &[b"old", b"new"], |area| amended(area, &options, true).unwrap());
        assert_eq!((opens(&after, b"old"), opens(&after, b"new")), (vec![], vec![0]));
    }
    // Without room for two, the slots that are not meant stay.
    for image in [crowded(&[b"x", b"old"]), luks1_full_of(b"old")] {
        let after = survives_area(&image, &[b"old"], |area| amended(area, &options, true).unwrap());
        assert_eq!(opens(&after, b"new"), [0]);
    }
}

fn luks1_full_of(passphrase: &[u8]) -> Vec<u8> {
    let slots: Vec<_> = (0..8).map(|slot| (slot, passphrase)).collect();
    Slots::new("aes-xts-plain64", 32, &slots).file
}

#[test]
fn when_erasing_is_done_nothing_opens_whatever_happens_then() {
    for image in images(&[b"one", b"two", b"one"]) {
        let (ops, after) = record(&image, |area| drop(change(area, |keys| ops::erase(keys, true)).unwrap()));
        assert_eq!(ops.last(), Some(&Op::Flush), "the last write is durable");
        for passphrase in [b"one", b"two"] {
            assert_eq!(opens(&after, passphrase), Vec::<usize>::new());
        }
        // Not even with the header as it was: the material is gone.
        let mut revived = after.clone();
        let head = if image[7] == 1 { 4096 } else { 32768 };
        revived[..head].copy_from_slice(&image[..head]);
        for passphrase in [b"one", b"two"] {
            assert_eq!(opens(&revived, passphrase), Vec::<usize>::new());
        }
        // In the middle the header can always be read, and what opens is what opened before.
        let mut states = 0;
        power_cuts(image.clone(), &ops, |left| {
            states += 1;
            let before = opens(&image, b"one");
            assert!(opens(left, b"one").iter().all(|slot| before.contains(slot)));
        });
        assert!(states > 20, "{states}");
    }
}

#[test]
fn luks2_takes_argon2_and_as_many_slots_as_there_is_room_for() {
    let area = Area::new(Memory::child(luks2(&[b"first"])), 0);
    let argon2 = NewKey { iterations: NonZeroU32::new(4), ..cheap() };
    assert_eq!(change(&area, |keys| ops::add(keys, b"first", b"argon", None, &argon2)).unwrap(), 1);
    assert_eq!(change(&area, |keys| open(keys, b"argon")).unwrap().slot, 1);
    for slot in 2..32 {
        let added = change(&area, |keys| ops::add(keys, b"first", b"more", None, &cheap2())).unwrap();
        assert_eq!(added, slot);
    }
    let full = change(&area, |keys| ops::add(keys, b"first", b"more", None, &cheap2())).unwrap_err();
    assert_eq!(full.to_string(), "All key slots are in use");
}
