//! A header in its place, open: what the driver, and the formats that keep a LUKS header inside, hold.
//!
//! Everything that is done with keys goes through here: unlocking, QEMU's `amend`, `img key`. A change takes the advisory
//! lock that cryptsetup takes, reads the header again, and keeps what it says afterwards.

use super::area::Area;
use super::container::{self, Container, Place};
use super::derive::Bounds;
use super::header::{self, Placement};
use super::keys::amend::{self, Amend};
use super::keys::{KeyStore, NewKey, ops};
use super::restore::{self, Backup};
use super::{lint, options, secret as passphrase};
use crate::crypto::SectorCipher;
use block::amend::AmendCtx;
use block::graph::{CreateOptions, Env};
use block::keys::{Finding, KeyChange, KeyCost, Keys, LintBounds};
use block::{Error, Kind, Quiesced, Result};
use secret::Secret;
use serde_json::Value;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a header was opened.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    /// In relation to the payload.
    pub(crate) placement: Placement,
    /// The id of the secret that opens it.
    pub(crate) key_secret: Option<String>,
    /// What a key slot may cost.
    pub(crate) bounds: Bounds,
    /// Bytes of the file with the payload, where the header says where in it that is.
    pub(crate) payload_file: Option<u64>,
    /// Open what is no header as well, to restore one.
    pub(crate) repair: bool,
    /// The payload is not wanted, so a header may be without: then the image has no bytes.
    pub(crate) alone: bool,
}

impl Opened {
    /// The header in `area`, and where the payload is in relation to it.
    fn read(&self, area: &Area) -> Result<(Container, Placement)> {
        if self.alone {
            return Container::read_any(area);
        }
        let container = Container::read(area, self.placement)?;
        match self.placement == Placement::Attached && container.is_detached() {
            true => Err(header::payload_overlaps(0)),
            false => Ok((container, self.placement)),
        }
    }
}

/// A header in its place.
#[derive(Debug)]
pub(crate) struct Head {
    area: Area,
    opened: Opened,
    /// Keys may be changed while the image is open.
    container: Mutex<Container>,
}

impl Head {
    /// Reads the header in `area`.
    ///
    /// # Errors
    /// It is none, or none we can use, or does not fit the file of its payload.
    pub(crate) fn open(area: Area, mut opened: Opened) -> Result<Self> {
        let read = opened.read(&area).and_then(|(container, placement)| {
            // Whoever repairs finds that out for himself.
            if let (Some(len), false) = (opened.payload_file, opened.repair) {
                container::check_length(&container.place(), len)?;
            }
            Ok((container, placement))
        });
        let (container, placement) = match read {
            Err(e) if opened.repair => (Container::Broken(e.to_string()), opened.placement),
            read => read?,
        };
        opened.alone = opened.placement != placement;
        opened.placement = placement;
        Ok(Head { area, opened, container: Mutex::new(container) })
    }

    fn container(&self) -> MutexGuard<'_, Container> {
        self.container.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same header for another handle on what it is in.
    pub(super) fn reopened(&self, area: Area) -> Self {
        Head { area, opened: self.opened.clone(), container: Mutex::new(self.container().clone()) }
    }

    /// Where the payload is.
    pub(super) fn place(&self) -> Place {
        let place = self.container().place();
        if self.opened.alone { Place { len: Some(0), ..place } } else { place }
    }

    /// What `info` prints.
    pub(crate) fn info(&self) -> Value {
        self.container().info(self.opened.placement)
    }

    /// The cipher of the payload, keyed with what the secret opens that was named.
    ///
    /// # Errors
    /// No secret, it opens no slot, or key material cannot be read.
    pub(crate) fn unlock(&self, env: Env<'_>) -> Result<Arc<dyn SectorCipher>> {
        self.unlock_with(passphrase::find(env, self.opened.key_secret.as_deref())?)
    }

    /// The cipher of the payload, keyed with what `secret` opens.
    ///
    /// # Errors
    /// It opens no slot, or key material cannot be read.
    pub(super) fn unlock_with(&self, secret: &Secret) -> Result<Arc<dyn SectorCipher>> {
        self.container().unlock(&self.area, secret, self.opened.bounds)
    }

    /// Mends what is damaged of a header that has a second copy.
    ///
    /// # Errors
    /// Those of the layer below.
    pub(super) fn repair(&self) -> Result<()> {
        let mut container = self.container();
        if container.is_whole() {
            return Ok(());
        }
        let _lock = self.area.lock()?;
        container.repair(&self.area)
    }

    /// Does what the options of `amend` say.
    ///
    /// # Errors
    /// QEMU's refusals, or what went wrong.
    pub(crate) fn amend(&self, options: &CreateOptions, ctx: &AmendCtx<'_>) -> Result<()> {
        let key_secret = self.opened.key_secret.as_deref();
        self.amend_with(options, &amend::Context { env: ctx.env, key_secret, force: ctx.force })
    }

    /// The same, with a secret that was named elsewhere.
    ///
    /// # Errors
    /// QEMU's refusals, or what went wrong.
    pub(super) fn amend_with(&self, options: &CreateOptions, with: &amend::Context<'_>) -> Result<()> {
        let amend = Amend::parse(options)?;
        self.with_keys(|keys| amend.run(keys, with))
    }

    fn with_keys<T>(&self, change: impl FnOnce(&mut dyn KeyStore) -> Result<T>) -> Result<T> {
        let _lock = self.area.lock()?;
        self.container().change(&self.area, self.opened.placement, self.opened.bounds, change)
    }
}

/// What a new slot is to cost, from what the user said.
fn new_key(cost: &KeyCost) -> Result<NewKey> {
    let default = NewKey::default();
    Ok(NewKey {
        iter_time: cost.iter_time.unwrap_or(default.iter_time),
        iterations: cost.iterations.and_then(NonZeroU32::new),
        derivation: cost.pbkdf.as_deref().map(options::kind).transpose()?,
        memory: cost.memory,
        parallel: cost.parallel,
    })
}

impl Keys for Head {
    fn kind(&self) -> &'static str {
        self.container().kind()
    }

    fn list(&self) -> Value {
        self.container().slots()
    }

    fn test(&self, secret: &Secret, slot: Option<u64>) -> Result<usize> {
        let container = self.container();
        container.find(&self.area, secret, slot, self.opened.bounds)
    }

    fn change(&self, _q: &Quiesced<'_>, change: &KeyChange<'_>, force: bool) -> Result<Vec<usize>> {
        self.with_keys(|keys| match change {
            KeyChange::Add { opens, new, slot, cost } => {
                let slot = slot.map(|slot| ops::slot(keys, slot)).transpose()?;
                let new = new.as_utf8()?.as_bytes();
                ops::add(keys, opens.as_bytes(), new, slot, &new_key(cost)?).map(|slot| vec![slot])
            }
            KeyChange::Change { old, new, cost } => {
                let new = new.as_utf8()?.as_bytes();
                ops::change(keys, old.as_bytes(), new, &new_key(cost)?, force)
            }
            KeyChange::RemoveSlot(slot) => {
                let slot = ops::slot(keys, *slot)?;
                ops::remove_slot(keys, slot, force).map(|()| vec![slot])
            }
            KeyChange::RemoveSecret(old) => ops::remove_matching(keys, old.as_bytes(), force),
            KeyChange::Erase => ops::erase(keys, force),
        })
    }

    fn backup(&self) -> Result<Vec<u8>> {
        let len = self.container().header_bytes()?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| Error::from_errno(nix::libc::EFBIG))?];
        self.area.read(0, &mut bytes)?;
        Ok(bytes)
    }

    fn restore(&self, _q: &Quiesced<'_>, backup: &[u8], force: bool) -> Result<()> {
        let restored = Container::parse_backup(backup, self.opened.placement)?;
        let mut container = self.container();
        let _lock = self.area.lock()?;
        // Somebody else may have changed it meanwhile; where there was none, there need not be one now.
        let placement = self.opened.placement;
        if let Ok(now) = Container::read(&self.area, placement) {
            *container = now;
        }
        let backup = Backup { header: &restored, bytes: backup, force };
        restore::restore(&self.area, &self.opened, &container, &backup)?;
        *container = Container::reread(&self.area, placement)?;
        Ok(())
    }

    fn lint(&self, bounds: &LintBounds) -> Result<Vec<Finding>> {
        lint::lint(&self.container(), &self.area, self.opened.payload_file, bounds)
    }
}

/// What is said when there is no header to work with.
pub(super) fn broken(why: &str) -> Error {
    Error::new(Kind::Corrupt, why.to_owned())
        .with_hint("img key restore FILE BACKUP puts a backup of the header in its place.")
}
