//! Putting a saved header back in its place.
//!
//! The key material of today and that of the backup want the same places, so writing one over the other would leave, in
//! the middle, a header that nothing opens. Of the same container it is done so that at any point a passphrase of today
//! or one of the backup opens it: what is needed of either is kept in places that are free in both, and moved when the
//! other is safe. Material does not depend on its place, so no passphrase is needed for that. At the end every byte is
//! as it was saved.
//!
//! Where there is no header any more, or that of another container, there is nothing to keep: the backup is written over
//! it, key material first, and when the power goes it must be done again.

use super::area::Area;
use super::container::Container;
use super::head::Opened;
use super::header::{Header, Pbkdf2};
use super::keys::KeyStore;
use super::v1::Luks1Keys;
use block::{Error, Kind, Result};
use std::ops::Range;

/// What is put back.
pub(super) struct Backup<'a> {
    /// The header in it.
    pub(super) header: &'a Container,
    /// The header with all key slots, byte for byte.
    pub(super) bytes: &'a [u8],
    /// Do it even over another container, or where nothing may open in the middle.
    pub(super) force: bool,
}

impl Backup<'_> {
    /// The bytes in this range of the header; there are no more than were saved.
    pub(super) fn part(&self, range: Range<u64>) -> &[u8] {
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes.len());
        &self.bytes[index(range.start)..index(range.end)]
    }

    /// Whether `area` has these bytes of the backup already.
    ///
    /// # Errors
    /// The layer's below.
    pub(super) fn is_there(&self, area: &Area, range: Range<u64>) -> Result<bool> {
        let wanted = self.part(range.clone());
        let mut there = vec![0; wanted.len()];
        area.read(range.start, &mut there)?;
        Ok(there == wanted)
    }
}

/// Puts the header in `backup` in the place of `now`, which is in `area`.
///
/// # Errors
/// It is of another container, or there is no room to do it safely, and no force; or the layer's below.
pub(super) fn restore(area: &Area, opened: &Opened, now: &Container, backup: &Backup<'_>) -> Result<()> {
    let foreign = now.differs(backup.header);
    if let (Some(why), false) = (foreign, backup.force) {
        return Err(Error::new(Kind::Invalid, why)
            .with_hint("--force restores it all the same; make a backup of what is there first."));
    }
    match (now, backup.header) {
        _ if foreign.is_some() => overwrite(area, backup),
        (Container::Luks1(_), Container::Luks1(saved)) => restore_luks1(area, opened, saved, backup),
        (Container::Luks2(now), Container::Luks2(saved)) => match saved.plan(area, now, backup)? {
            Some(plan) => saved.put_back(area, now, backup, &plan),
            None if backup.force => overwrite(area, backup),
            None => Err(no_room()),
        },
        _ => overwrite(area, backup),
    }
}

impl Container {
    /// How a saved header is none of this container as it is today, if so.
    fn differs(&self, saved: &Container) -> Option<&'static str> {
        let same = match (self, saved) {
            (Container::Broken(_), _) => return None,
            _ if saved.key_slots().is_empty() => {
                return Some("The backup has no key slot that opens the image");
            }
            _ if self.uuid() != saved.uuid() => {
                return Some("The backup is of another container (its UUID differs)");
            }
            _ if self.place() != saved.place() => return Some("The backup has the payload in another place"),
            _ if self.kind() != saved.kind() => return Some("The backup is of another version of LUKS"),
            (Container::Luks1(now), Container::Luks1(saved)) => now.has_volume_key_of(saved),
            (Container::Luks2(now), Container::Luks2(saved)) => now.has_volume_key_of(saved),
            _ => false,
        };
        (!same)
            .then_some("The backup has another volume key or layout: the contents were encrypted anew since")
    }

    fn uuid(&self) -> String {
        match self {
            Container::Luks1(header) => header.uuid.clone(),
            Container::Luks2(header) => header.uuid(),
            Container::Broken(_) => String::new(),
        }
    }
}

/// Writes the backup over whatever is there: key slots first, so that a header never has slots that are not there.
fn overwrite(area: &Area, backup: &Backup<'_>) -> Result<()> {
    let end = backup.header.header_bytes()?;
    let head = match backup.header {
        Container::Luks2(header) => header.copies_bytes() as u64,
        _ => LUKS1_HEAD,
    };
    area.write(head, backup.part(head..end))?;
    area.flush()?;
    area.write(0, backup.part(0..head))?;
    area.flush()
}

/// No room for what must be kept.
fn no_room() -> Error {
    Error::invalid("There is no room to keep a key slot of today until one of the backup is safe")
        .with_hint("Free a slot with img key remove, or use --force: the backup can be restored again after a power cut.")
}

/// Where key material may begin in LUKS1.
const LUKS1_HEAD: u64 = 4096;

impl Header {
    /// Whether the slots of `other` open the same payload, and have their material in the same places.
    fn has_volume_key_of(&self, other: &Header) -> bool {
        let places = |header: &Header| header.slots.map(|slot| slot.material);
        let key = |header: &Header| (header.cipher, header.hash, header.digest);
        key(self) == key(other) && places(self) == places(other)
    }
}

/// A key slot of a saved LUKS1 header.
struct Saved {
    slot: usize,
    pbkdf2: Pbkdf2,
    material: Range<u64>,
}

/// Puts back a LUKS1 header slot by slot: it is two sectors, of which a power cut may leave one.
fn restore_luks1(area: &Area, opened: &Opened, saved: &Header, backup: &Backup<'_>) -> Result<()> {
    let mut keys = Luks1Keys::load(area, opened.placement, opened.bounds)?;
    let changed = changed_luks1(&keys, area, saved, backup)?;
    let kept = saved.active().count() - changed.len();
    let (replaced, added): (Vec<_>, Vec<_>) =
        changed.into_iter().partition(|saved| keys.used().contains(&saved.slot));
    // A slot is replaced in its place only while another one opens the image with a passphrase of the backup.
    if keys.free().is_none() && kept == 0 && !backup.force {
        return Err(no_room());
    }
    for saved in added {
        keys.put_material(saved.slot, saved.pbkdf2, backup.part(saved.material))?;
    }
    for saved in replaced {
        let spare = keys.free();
        if let Some(spare) = spare {
            keys.copy(saved.slot, spare)?;
        }
        keys.put_material(saved.slot, saved.pbkdf2, backup.part(saved.material))?;
        spare.map_or(Ok(()), |spare| keys.erase(spare))?;
    }
    let active: Vec<_> = saved.active().map(|(slot, ..)| slot).collect();
    let others: Vec<_> = keys.used().into_iter().filter(|slot| !active.contains(slot)).collect();
    others.into_iter().try_for_each(|slot| keys.erase(slot))?;
    // What is left to write is in use by no slot, or there already.
    overwrite(area, backup)
}

/// The slots of the backup that are not in place.
fn changed_luks1(
    keys: &Luks1Keys<'_>,
    area: &Area,
    saved: &Header,
    backup: &Backup<'_>,
) -> Result<Vec<Saved>> {
    let mut changed = Vec::new();
    for (slot, pbkdf2, material) in saved.active() {
        let material = material.bytes()..material.bytes() + saved.material_bytes() as u64;
        let same = keys.header().slots[slot].pbkdf2 == Some(pbkdf2);
        if !same || !backup.is_there(area, material.clone())? {
            changed.push(Saved { slot, pbkdf2, material });
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::{change, images, opens, record, survives_area};
    use super::super::keys::{NewKey, ops};
    use super::super::tests::{Slots, luks2, luks2_with, opened};
    use super::*;
    use crate::luks::header::Placement;
    use block::protocol::memory::Memory;
    use std::num::NonZeroU32;

    fn area(image: &[u8]) -> Area {
        Area::new(Memory::child(image.to_vec()), 0)
    }

    /// `image` after changes of its keys.
    fn changed(image: &[u8], f: impl FnOnce(&mut dyn KeyStore) -> Result<()>) -> Vec<u8> {
        record(image, |area| change(area, f).unwrap()).1
    }

    fn change_all(image: &[u8], passphrases: &[(&[u8], &[u8])]) -> Vec<u8> {
        let cost = NewKey {
            iterations: NonZeroU32::new(1000),
            derivation: Some(super::super::keys::Kind::Pbkdf2),
            ..NewKey::default()
        };
        changed(image, |keys| {
            passphrases.iter().try_for_each(|(old, new)| ops::change(keys, old, new, &cost, false).map(drop))
        })
    }

    /// Puts the header of `saved` back over whatever is in `area`.
    fn put_back(area: &Area, saved: &[u8], force: bool) -> Result<()> {
        let now =
            Container::read(area, Placement::Attached).unwrap_or_else(|e| Container::Broken(e.to_string()));
        let header = Container::parse_backup(saved, Placement::Attached)?;
        let bytes = &saved[..usize::try_from(header.header_bytes()?).unwrap()];
        restore(area, &opened(), &now, &Backup { header: &header, bytes, force })
    }

    /// At any point of putting the header of `saved` back over `now` one of `keys` opens it; at the end all is as saved.
    fn survives(now: &[u8], saved: &[u8], keys: &[&[u8]]) {
        let after = survives_area(now, keys, |area| put_back(area, saved, false).unwrap());
        assert!(after == saved);
    }

    #[test]
    fn a_power_cut_while_a_header_is_restored_leaves_todays_keys_or_those_saved() {
        for saved in images(&[b"old"]) {
            survives(&change_all(&saved, &[(b"old", b"new")]), &saved, &[b"old", b"new"]);
            // There and back again: what is in the slots is the same, in other places.
            survives(&change_all(&saved, &[(b"old", b"new"), (b"new", b"old")]), &saved, &[b"old"]);
        }
    }

    #[test]
    fn a_power_cut_is_survived_with_more_slots_saved_than_there_are_and_with_fewer() {
        for saved in images(&[b"one", b"two", b"three"]) {
            let fewer = changed(&saved, |keys| {
                ops::remove_slot(keys, 0, false)?;
                ops::remove_slot(keys, 2, false)
            });
            let other = change_all(&fewer, &[(b"two", b"new")]);
            survives(&other, &saved, &[b"new", b"one", b"two", b"three"]);
            survives(&saved, &other, &[b"new", b"one", b"two", b"three"]);
            survives(&fewer, &saved, &[b"two"]);
            survives(&saved, &fewer, &[b"two"]);
        }
    }

    #[test]
    fn slots_on_both_sectors_of_a_luks1_header_are_restored_in_any_power_cut() {
        let saved = Slots::new("aes-xts-plain64", 32, &[(6, b"six"), (7, b"seven")]).file;
        let now = change_all(&saved, &[(b"six", b"new6"), (b"seven", b"new7")]);
        survives(&now, &saved, &[b"six", b"seven", b"new6", b"new7"]);
        let alone = Slots::new("aes-xts-plain64", 32, &[(6, b"six")]).file;
        survives(&change_all(&alone, &[(b"six", b"new")]), &alone, &[b"six", b"new"]);
    }

    #[test]
    fn a_damaged_copy_is_mended_before_a_header_is_restored() {
        let saved = luks2(&[b"old"]);
        for damaged_at in [0, 5000, 16384, 16384 + 5000] {
            let mut now = change_all(&saved, &[(b"old", b"new")]);
            now[damaged_at] ^= 1;
            survives(&now, &saved, &[b"old", b"new"]);
        }
    }

    #[test]
    fn a_restore_without_room_for_both_needs_force() {
        let slots: Vec<_> = (0..8).map(|slot| (slot, &b"old"[..])).collect();
        let full = Slots::new("aes-xts-plain64", 32, &slots).file;
        let crowded = luks2_with(&[b"old", b"old"], 2 * 131_072);
        for saved in [full, crowded] {
            // Every slot has other material now.
            let cost = NewKey {
                iterations: NonZeroU32::new(1000),
                derivation: Some(super::super::keys::Kind::Pbkdf2),
                ..NewKey::default()
            };
            let now = changed(&saved, |keys| {
                let key = super::super::keys::open(keys, b"old")?.key;
                keys.used().into_iter().try_for_each(|slot| keys.fill(slot, &key, b"new", &cost))
            });
            let area = area(&now);
            let refused = put_back(&area, &saved, false).unwrap_err();
            assert!(refused.to_string().starts_with("There is no room to keep a key slot"), "{refused}");
            let mut left = vec![0; now.len()];
            area.read(0, &mut left).unwrap();
            assert!(left == now, "nothing was written");
            put_back(&area, &saved, true).unwrap();
            area.read(0, &mut left).unwrap();
            assert!(left == saved);
        }
    }

    #[test]
    fn what_is_no_header_any_more_is_written_over_and_another_container_only_with_force() {
        for saved in images(&[b"old"]) {
            let after = record(&vec![0; saved.len()], |area| put_back(area, &saved, false).unwrap()).1;
            assert!(after == saved);
        }
        for (saved, other) in images(&[b"old"]).into_iter().zip(images(&[b"other"])) {
            let area = area(&other);
            let refused = put_back(&area, &saved, false).unwrap_err().to_string();
            // The headers that tests make all have one UUID in LUKS1.
            assert!(
                refused.contains("of another container") || refused.contains("another volume key"),
                "{refused}"
            );
            assert_eq!(opens(&other, b"other"), [0]);
            put_back(&area, &saved, true).unwrap();
            let mut left = vec![0; saved.len()];
            area.read(0, &mut left).unwrap();
            assert!(left == saved);
        }
    }

    #[test]
    fn a_backup_without_key_slots_is_refused_unless_forced() {
        for image in images(&[b"old"]) {
            let erased = changed(&image, |keys| ops::erase(keys, true).map(drop));
            let refused = put_back(&area(&image), &erased, false).unwrap_err().to_string();
            assert!(refused.starts_with("The backup has no key slot"), "{refused}");
            put_back(&area(&erased), &image, false).unwrap();
        }
    }
}
