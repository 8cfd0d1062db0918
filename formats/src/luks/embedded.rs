//! A LUKS header inside another format's file: qcow2 keeps one in clusters of its own.
//!
//! The payload is where that format puts it, so the payload's offset in the header means nothing; QEMU writes where it
//! would begin, which is where the header's own room ends, and so do we. Only version 1 is used like this: nobody else
//! could open the image.

use super::area::Area;
use super::create::{self, Cost};
use super::derive::Bounds;
use super::head::{Head, Opened};
use super::header::{self, Placement};
use super::keys::amend;
use super::options::NewImage;
use crate::crypto::SectorCipher;
use block::graph::{CreateOptions, Env};
use block::keys::Keys;
use block::{Child, Error, Result};
use secret::Secret;
use serde_json::{Map, Value};
use std::sync::Arc;

/// A header to be made.
pub(crate) struct NewHeader<'a> {
    new: NewImage,
    cost: Cost,
    passphrase: &'a str,
}

impl<'a> NewHeader<'a> {
    /// A header as the `luks` format's options (names and values) say.
    ///
    /// # Errors
    /// An option that does not exist or does not take its value, a missing secret, or algorithms that do not go together.
    pub(crate) fn new(env: Env<'a>, options: &Map<String, Value>) -> Result<Self> {
        let new = parse(options)?;
        let passphrase = env.objects.secret(&new.key_secret)?.as_utf8()?;
        let cost = Cost::calibrate(&new)?;
        Ok(NewHeader { new, cost, passphrase })
    }

    /// Bytes the header takes, key slots included.
    pub(crate) fn len(&self) -> u64 {
        len(&self.new)
    }

    /// Writes it at `start` of `child`, where there are zeroes.
    ///
    /// # Errors
    /// The layer's below, or the system has no random numbers.
    pub(crate) fn write(&self, child: &Child, start: u64) -> Result<()> {
        let area = Area::new(child.clone(), start);
        create::create_luks1(&area, &self.new, &self.cost, self.passphrase.as_bytes())
    }
}

/// Bytes that a header takes when it is made as the options say.
///
/// # Errors
/// As for [`NewHeader::new`].
pub(crate) fn measure(env: Env<'_>, options: &Map<String, Value>) -> Result<u64> {
    let new = parse(options)?;
    env.objects.secret(&new.key_secret)?;
    Ok(len(&new))
}

/// Refuses options that ask for version 2.
///
/// # Errors
/// They do.
pub(crate) fn check_version(options: &Map<String, Value>) -> Result<()> {
    match options.get("version") {
        Some(version) if text(version) == "2" => Err(not_a_standard()),
        _ => Ok(()),
    }
}

fn not_a_standard() -> Error {
    Error::unsupported("LUKS2 inside qcow2 is not a standard").with_hint(
        "Inside qcow2 only LUKS1 is defined; for LUKS2 put qcow2 into a LUKS2 container: driver=qcow2,file.driver=luks,…",
    )
}

fn len(new: &NewImage) -> u64 {
    header::Layout::new(new.cipher.key_bytes()).end().bytes()
}

fn parse(options: &Map<String, Value>) -> Result<NewImage> {
    let mut all = CreateOptions::new(&create::ROW, None);
    for (name, value) in options {
        all.set(name, &text(value))?;
    }
    NewImage::new(&all)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A header that is there.
#[derive(Debug)]
pub(crate) struct Embedded {
    head: Head,
    /// Bytes there are for it.
    len: u64,
}

impl Embedded {
    /// Reads the header in `len` bytes at `start` of `child`.
    ///
    /// # Errors
    /// It is none, or not of version 1.
    pub(crate) fn read(child: &Child, start: u64, len: u64, bounds: Bounds) -> Result<Self> {
        let area = Area::new(child.clone(), start);
        if len < header::BYTES as u64 {
            return Err(outside());
        }
        let mut head = [0; 8];
        area.read(0, &mut head)?;
        if header::version(&head) == Some(2) {
            return Err(not_a_standard());
        }
        let opened = Opened {
            placement: Placement::Attached,
            key_secret: None,
            bounds,
            payload_file: None,
            repair: false,
            alone: false,
        };
        Ok(Embedded { head: Head::open(area, opened)?, len })
    }

    /// Checks that key slots, which end where the payload would begin, are inside the room there is.
    fn check_slots(&self) -> Result<()> {
        if self.head.place().start > self.len { Err(outside()) } else { Ok(()) }
    }

    /// The cipher of the payload, keyed with what `secret` opens.
    ///
    /// # Errors
    /// It opens no slot, or key material cannot be read.
    pub(crate) fn unlock(&self, secret: &Secret) -> Result<Arc<dyn SectorCipher>> {
        self.check_slots()?;
        self.head.unlock_with(secret)
    }

    /// What `info` prints.
    pub(crate) fn info(&self) -> Value {
        self.head.info()
    }

    /// Its key slots, if they are where they may be.
    pub(crate) fn keys(&self) -> Option<&dyn Keys> {
        self.check_slots().ok().map(|()| &self.head as &dyn Keys)
    }

    /// Changes key slots as the options, those of the `luks` format, say.
    ///
    /// # Errors
    /// QEMU's refusals, or what went wrong.
    pub(crate) fn amend(&self, options: &CreateOptions, with: &amend::Context<'_>) -> Result<()> {
        self.check_slots()?;
        self.head.amend_with(options, with)
    }
}

fn outside() -> Error {
    Error::corrupt("Request for data outside of extension header")
}
