//! The changes behind `img key`: as safe as the order of writes can make them, and refused where that is not enough.

use super::{KeyStore, NewKey, matching, open};
use crate::luks::v1::wrong_key;
use block::{Error, Result};

/// The slot of that number.
///
/// # Errors
/// There can be none.
pub(crate) fn slot(keys: &dyn KeyStore, number: u64) -> Result<usize> {
    usize::try_from(number).ok().filter(|slot| *slot < keys.slots()).ok_or_else(|| {
        let last = keys.slots() - 1;
        Error::invalid(format!("Invalid keyslot {number} specified, must be between 0 and {last}"))
    })
}

/// Puts a new passphrase into a free slot, or into `slot`. Gives the slot.
///
/// # Errors
/// `opening` opens no slot; no slot is free, or that one is not.
pub(crate) fn add(
    keys: &mut dyn KeyStore,
    opening: &[u8],
    new: &[u8],
    slot: Option<usize>,
    cost: &NewKey,
) -> Result<usize> {
    keys.check_writable()?;
    let slot = match slot {
        Some(slot) if keys.used().contains(&slot) => {
            return Err(Error::invalid(format!("Key slot {slot} is in use"))
                .with_hint("img key change gives it another passphrase; img key remove frees it."));
        }
        Some(slot) => slot,
        None => keys.free().ok_or_else(|| {
            Error::invalid("All key slots are in use").with_hint("img key remove frees one.")
        })?,
    };
    let found = open(keys, opening)?;
    keys.fill(slot, &found.key, new, cost)?;
    Ok(slot)
}

/// Puts the passphrase `new` in the place of `old`, which opens nothing afterwards: the first slot that it opens gets the
/// new one, any others are freed. Gives all of them.
///
/// # Errors
/// `old` opens no slot; or there is no room to keep an old slot until the new one is safe, and no force.
pub(crate) fn change(
    keys: &mut dyn KeyStore,
    old: &[u8],
    new: &[u8],
    cost: &NewKey,
    force: bool,
) -> Result<Vec<usize>> {
    keys.check_writable()?;
    let found = matching(keys, old)?;
    let (first, others) = found.split_first().ok_or_else(wrong_key)?;
    // Of several slots one can be overwritten in its place, as another one opens meanwhile.
    if others.is_empty() && !keys.has_spare() && !force {
        return Err(Error::invalid(
            "No key slot is free: the old passphrase would be lost before the new one is safe",
        )
        .with_hint("Free a slot with img key remove, or use --force and have a backup."));
    }
    keys.fill(first.slot, &first.key, new, cost)?;
    others.iter().try_for_each(|other| keys.erase(other.slot))?;
    Ok(found.iter().map(|found| found.slot).collect())
}

/// Frees one slot.
///
/// # Errors
/// It is free, or the last one that opens the image, and no force.
pub(crate) fn remove_slot(keys: &mut dyn KeyStore, slot: usize, force: bool) -> Result<()> {
    keys.check_writable()?;
    if !keys.used().contains(&slot) {
        return Err(Error::invalid(format!("Key slot {slot} is not in use")));
    }
    if !force && keys.active() == [slot] {
        return Err(last(&format!("Key slot {slot} is the only one that opens the image")));
    }
    keys.erase(slot)
}

/// Frees every slot that `old` opens, and gives them.
///
/// # Errors
/// It opens none, or all there are, and no force.
pub(crate) fn remove_matching(keys: &mut dyn KeyStore, old: &[u8], force: bool) -> Result<Vec<usize>> {
    keys.check_writable()?;
    let slots: Vec<_> = matching(keys, old)?.iter().map(|found| found.slot).collect();
    if slots.is_empty() {
        return Err(wrong_key());
    }
    if !force && slots == keys.active() {
        return Err(last("This passphrase is the only one that opens the image"));
    }
    slots.iter().try_for_each(|slot| keys.erase(*slot))?;
    Ok(slots)
}

/// Frees all slots, and gives them.
///
/// # Errors
/// No force.
pub(crate) fn erase(keys: &mut dyn KeyStore, force: bool) -> Result<Vec<usize>> {
    keys.check_writable()?;
    if !force {
        return Err(last("Erasing all key slots"));
    }
    let used = keys.used();
    used.iter().try_for_each(|slot| keys.erase(*slot))?;
    Ok(used)
}

fn last(text: &str) -> Error {
    Error::invalid(format!("{text}: without it, nobody can read the contents ever again"))
        .with_hint("Add another passphrase first, or use --force if that is what you want.")
}
