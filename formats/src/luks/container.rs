//! What a header says, whichever version it is: the one door through which the driver sees headers.
//!
//! Lives here: the choice between versions, and what both come to ([`Place`], key slots, reports). Not here: the
//! versions themselves.

use super::area::Area;
use super::derive::Bounds;
use super::head;
use super::header::{self, Header, Placement};
use super::info;
use super::keys::KeyStore;
use super::keyslot::KeySlot;
use super::search::{Found, Search};
use super::secret as passphrase;
use super::v1::Luks1Keys;
use super::v2::{self, Luks2Keys};
use crate::crypto::{self, CipherSpec, SectorCipher, SectorSize};
use block::keys::Finding;
use block::{Error, Result};
use secret::Secret;
use serde_json::{Value, json};
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
    Luks1(Box<Header>),
    /// LUKS2.
    Luks2(Box<v2::Header>),
    /// None, and why; opened to put a backup there.
    Broken(String),
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
        let luks1 =
            || Header::parse(&bytes[..there], placement).map(|header| Container::Luks1(Box::new(header)));
        let luks2 = || v2::Header::read(area).map(|header| Container::Luks2(Box::new(header)));
        match header::version(&bytes[..there]) {
            Some(2) => luks2(),
            Some(_) => luks1(),
            // What is damaged may be LUKS2, whose second copy is elsewhere.
            None => luks2().or_else(|_| luks1()),
        }
    }

    /// Reads a header that need not have its payload behind it, and where that is in relation to it.
    ///
    /// # Errors
    /// As for [`Container::read`].
    pub(super) fn read_any(area: &Area) -> Result<(Self, Placement)> {
        let detached = || Container::read(area, Placement::Detached).ok().filter(Container::is_detached);
        match Container::read(area, Placement::Attached) {
            Ok(container) if container.is_detached() => Ok((container, Placement::Detached)),
            Ok(container) => Ok((container, Placement::Attached)),
            Err(e) => detached().map(|container| (container, Placement::Detached)).ok_or(e),
        }
    }

    /// Reads what takes the place of a header whose payload is there as `placement` says, or of none: then nobody knows.
    ///
    /// # Errors
    /// As for [`Container::read`].
    pub(super) fn reread(area: &Area, placement: Placement) -> Result<Self> {
        Container::read(area, placement)
            .or_else(|_| Container::read_any(area).map(|(container, _)| container))
    }

    /// Whether the header says that the payload begins where the file does: then that is another file.
    pub(super) fn is_detached(&self) -> bool {
        match self {
            Container::Luks1(header) => header.payload.bytes() == 0,
            Container::Luks2(header) => header.place().start == 0 && !header.in_reencryption(),
            Container::Broken(_) => false,
        }
    }

    /// Where the payload is.
    pub(super) fn place(&self) -> Place {
        match self {
            Container::Luks1(header) => {
                Place { start: header.payload.bytes(), len: None, sector: SectorSize::B512, first: 0 }
            }
            Container::Luks2(header) => header.place(),
            Container::Broken(_) => Place { start: 0, len: None, sector: SectorSize::B512, first: 0 },
        }
    }

    /// What the payload is encrypted with.
    ///
    /// # Errors
    /// It cannot be opened here, and why.
    pub(super) fn cipher(&self) -> Result<CipherSpec> {
        match self {
            Container::Luks1(header) => Ok(header.cipher),
            Container::Luks2(header) => header.cipher(),
            Container::Broken(why) => Err(head::broken(why)),
        }
    }

    /// The slots whose keys open the payload, in the order in which they are tried.
    pub(super) fn key_slots(&self) -> Vec<KeySlot> {
        match self {
            Container::Luks1(header) => header.key_slots(),
            Container::Luks2(header) => header.key_slots(),
            Container::Broken(_) => Vec::new(),
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
        let cipher = self.cipher()?;
        self.check_slots()?;
        let key = unlock(area, self.key_slots(), secret, bounds)?.key;
        crypto::new(&cipher, key.as_bytes(), self.place().sector).map(Arc::from)
    }

    /// The slot that `secret` opens; only `slot` is tried, if it is given.
    ///
    /// # Errors
    /// It opens none, or key material cannot be read.
    pub(super) fn find(
        &self,
        area: &Area,
        secret: &Secret,
        slot: Option<u64>,
        bounds: Bounds,
    ) -> Result<usize> {
        let mut slots = self.all_key_slots();
        match slot {
            Some(number) => slots.retain(|slot| slot.number as u64 == number),
            None => slots = self.key_slots(),
        }
        if slots.is_empty() {
            self.cipher()?;
            self.check_slots()?;
        }
        unlock(area, slots, secret, bounds).map(|found| found.slot)
    }

    fn check_slots(&self) -> Result<()> {
        match self {
            Container::Luks2(header) => header.check_slots(),
            _ => Ok(()),
        }
    }

    /// The slots that can be tried, those that are to be ignored unless named included.
    fn all_key_slots(&self) -> Vec<KeySlot> {
        match self {
            Container::Luks2(header) => header.all_key_slots(),
            other => other.key_slots(),
        }
    }

    /// What it is, in one word.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Container::Luks1(_) => "luks1",
            Container::Luks2(_) => "luks2",
            Container::Broken(_) => "damaged",
        }
    }

    /// The key slots, as `key list` prints them.
    pub(super) fn slots(&self) -> Value {
        match self {
            Container::Luks1(header) => info::luks1_slots(header),
            Container::Luks2(header) => header.slots(),
            Container::Broken(_) => json!([]),
        }
    }

    /// What `lint` says about the header itself.
    pub(super) fn complaints(&self) -> Vec<Finding> {
        match self {
            Container::Luks2(header) => header.complaints(),
            _ => Vec::new(),
        }
    }

    /// Whether it is as it should be.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Container::Luks2(header) => header.is_whole(),
            _ => true,
        }
    }

    /// Bytes of the header with all key slots: what a backup holds.
    ///
    /// # Errors
    /// There is no header.
    pub(super) fn header_bytes(&self) -> Result<u64> {
        match self {
            Container::Luks1(header) => Ok(header.material_end()),
            Container::Luks2(header) => Ok(header.header_bytes()),
            Container::Broken(why) => Err(head::broken(why)),
        }
    }

    /// What `info` prints.
    pub(crate) fn info(&self, placement: Placement) -> Value {
        match self {
            Container::Luks1(header) => info::luks1(header),
            Container::Luks2(header) => header.info(placement == Placement::Detached),
            Container::Broken(why) => json!({"damaged": why}),
        }
    }

    /// Mends what is damaged of a header that has a second copy.
    ///
    /// # Errors
    /// Those of the layer below.
    pub(super) fn repair(&mut self, area: &Area) -> Result<()> {
        match self {
            Container::Luks1(_) => Ok(()),
            Container::Luks2(header) => header.repair(area),
            Container::Broken(why) => Err(head::broken(why)),
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
                **header = keys.into_header();
                done
            }
            Container::Luks2(header) => {
                let mut keys = Luks2Keys::load(area, bounds)?;
                let done = change(&mut keys);
                **header = keys.into_header();
                done
            }
            Container::Broken(why) => Err(head::broken(why)),
        }
    }
}

impl Container {
    /// The header in the bytes of a backup.
    ///
    /// # Errors
    /// It is none, or not whole.
    pub(super) fn parse_backup(backup: &[u8], placement: Placement) -> Result<Self> {
        let area = Area::new(block::protocol::memory::Memory::child(backup.to_vec()), 0);
        let container =
            Container::reread(&area, placement).map_err(|e| e.context("The backup is no header"))?;
        if container.header_bytes()? > backup.len() as u64 {
            return Err(Error::corrupt("The backup ends in the middle of the key slots"));
        }
        match container.is_whole() {
            true => Ok(container),
            false => Err(Error::corrupt("The backup is damaged: its two copies of the header differ")),
        }
    }
}

fn unlock(area: &Area, slots: Vec<KeySlot>, secret: &Secret, bounds: Bounds) -> Result<Found> {
    let read = |at, material: &mut [u8]| area.read(at, material);
    passphrase::unlock(&Search::new(slots, read, bounds)?, secret)
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
    match place.len.filter(|payload| *payload > len - place.start) {
        Some(_) => {
            Err(Error::corrupt("LUKS payload ends behind the end of the file")
                .with_hint("The file was cut off."))
        }
        None => Ok(()),
    }
}
