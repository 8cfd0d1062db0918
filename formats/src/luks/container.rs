//! What a header says, whichever version it is: the one door through which the driver sees headers.
//!
//! Lives here: the choice between versions, and what both come to ([`Place`], key slots, reports). Not here: the
//! versions themselves.

use super::area::Area;
use super::derive::Bounds;
use super::header::{self, Header, Placement};
use super::info;
use super::keys::KeyStore;
use super::keyslot::{KeySlot, Search};
use super::secret as passphrase;
use super::v1::Luks1Keys;
use crate::crypto::{self, CipherSpec, SectorCipher, SectorSize};
use block::{Error, Result};
use secret::Secret;
use serde_json::Value;
use std::sync::Arc;

/// Where the payload is, and how its sectors are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// First byte, in the file.
    pub(super) start: u64,
    /// Bytes, where that is not simply the rest of the file.
    pub(super) len: Option<u64>,
    /// The unit that has an IV.
    pub(super) sector: SectorSize,
    /// The number of the first sector, in units of 512 bytes.
    pub(super) first: u64,
}

/// A header.
#[derive(Debug, Clone)]
pub(crate) enum Container {
    /// LUKS1.
    Luks1(Header),
}

impl Container {
    /// Reads and checks the header in `area`.
    ///
    /// # Errors
    /// It is none, or none we can use.
    pub(crate) fn read(area: &Area, placement: Placement) -> Result<Self> {
        let mut bytes = [0; header::BYTES];
        let there = usize::try_from(area.len()?).unwrap_or(usize::MAX).min(bytes.len());
        area.read(0, &mut bytes[..there])?;
        Header::parse(&bytes[..there], placement).map(Container::Luks1)
    }

    /// Where the payload is.
    pub(super) fn place(&self) -> Place {
        match self {
            Container::Luks1(header) => {
                Place { start: header.payload.bytes(), len: None, sector: SectorSize::B512, first: 0 }
            }
        }
    }

    /// What the payload is encrypted with.
    pub(super) fn cipher(&self) -> CipherSpec {
        match self {
            Container::Luks1(header) => header.cipher,
        }
    }

    /// The slots whose keys open the payload, in the order in which they are tried.
    fn key_slots(&self) -> Vec<KeySlot> {
        match self {
            Container::Luks1(header) => header.key_slots(),
        }
    }

    /// The cipher of the payload, keyed with what `secret` opens.
    ///
    /// # Errors
    /// It opens no slot, or key material cannot be read.
    pub(crate) fn unlock(
        &self,
        area: &Area,
        secret: &Secret,
        bounds: Bounds,
    ) -> Result<Arc<dyn SectorCipher>> {
        let read = |at, material: &mut [u8]| area.read(at, material);
        let search = Search::new(self.key_slots(), &read, bounds)?;
        let key = passphrase::unlock(&search, secret)?.key;
        crypto::new(&self.cipher(), key.as_bytes(), self.place().sector).map(Arc::from)
    }

    /// What `info` prints.
    pub(crate) fn info(&self) -> Value {
        match self {
            Container::Luks1(header) => info::luks1(header),
        }
    }

    /// Changes key slots in `area`, and keeps what the header says then.
    ///
    /// # Errors
    /// Those of `change`, and of reading the header.
    pub(crate) fn change<T>(
        &mut self,
        area: &Area,
        placement: Placement,
        bounds: Bounds,
        change: impl FnOnce(&mut dyn KeyStore) -> Result<T>,
    ) -> Result<T> {
        match self {
            Container::Luks1(header) => {
                let mut keys = Luks1Keys::load(area, placement, bounds)?;
                let done = change(&mut keys);
                *header = keys.into_header();
                done
            }
        }
    }
}

/// Checks that the file has a place for the payload, which may be empty.
///
/// # Errors
/// It ends before the payload begins, or before it ends.
pub(super) fn check_length(place: &Place, len: u64) -> Result<()> {
    if place.start > len {
        let text = format!("LUKS payload begins at byte {}, but the file ends at byte {len}", place.start);
        return Err(Error::corrupt(text).with_hint(
            "The file was cut off, or it is the backup of a header: driver=luks,header.filename=THIS,file.filename=IMAGE",
        ));
    }
    Ok(())
}
