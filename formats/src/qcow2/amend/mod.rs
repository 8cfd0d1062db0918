//! Changing an existing image's own options: version, refcount width, lazy refcounts, data file, size, key slots.
//!
//! The rooms: `width` gives all reference counts another width, `downgrade` takes out what version 2 does not have,
//! `steps` turns several operations into one progress. Each operation leaves a valid image; one that fails keeps what
//! those before it did.

mod downgrade;
mod steps;
mod width;

use super::create;
use super::features::{Autoclear, Compatible, Incompatible};
use super::header::{CryptMethod, Version};
use super::image::Qcow2;
use super::meta::Meta;
use block::amend::{Amend, AmendCtx};
use block::graph::{CreateKind, CreateOption, CreateOptions};
use block::{Context, Error, Quiesced, Resize, Result};
use secret::options::Size;
use serde::Deserialize;
use steps::Steps;

const fn option(name: &'static str, kind: CreateKind, help: &'static str) -> CreateOption {
    CreateOption { name, kind, help, default: None }
}

/// What can be changed.
pub(super) static OPTIONS: [CreateOption; 13] = [
    option("encrypt.state", CreateKind::Str, "Select new state of affected keyslots (active/inactive)"),
    option("encrypt.keyslot", CreateKind::Num, "Select a single keyslot to modify explicitly"),
    option("encrypt.old-secret", CreateKind::Str, "Select all keyslots that match this password"),
    option(
        "encrypt.new-secret",
        CreateKind::Str,
        "New secret to set in the matching keyslots. Empty string to erase",
    ),
    option("encrypt.iter-time", CreateKind::Num, "Time to spend in PBKDF in milliseconds"),
    option("size", CreateKind::Size, "Virtual disk size"),
    option("compat", CreateKind::Str, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    option("backing_file", CreateKind::Str, "File name of a base image"),
    option("backing_fmt", CreateKind::Str, "Image format of the base image"),
    option("data_file", CreateKind::Str, "File name of an external data file"),
    option("data_file_raw", CreateKind::Bool, "The external data file must stay valid as a raw image"),
    option("lazy_refcounts", CreateKind::Bool, "Postpone refcount updates"),
    option("refcount_bits", CreateKind::Num, "Width of a reference count entry in bits"),
];

/// The options as given.
#[derive(Debug, Deserialize)]
struct Given {
    size: Option<Size>,
    compat: Option<String>,
    backing_file: Option<String>,
    backing_fmt: Option<String>,
    data_file: Option<String>,
    data_file_raw: Option<bool>,
    lazy_refcounts: Option<bool>,
    refcount_bits: Option<u64>,
    /// Judged by the encryption itself.
    encrypt: Option<serde_json::Value>,
}

impl Amend for Qcow2 {
    fn amend(&self, q: &Quiesced<'_>, options: &CreateOptions, ctx: &mut AmendCtx<'_>) -> Result<()> {
        let given: Given = options.parse()?;
        let now = self.lock().header.version;
        let version = match given.compat.as_deref() {
            None | Some("") => now,
            Some(name) => create::version(Some(name))
                .map_err(|_| Error::invalid(format!("Unknown compatibility level {name}")))?,
        };
        let order = given.refcount_bits.map(create::refcount_order).transpose()?;
        self.check_unchangeable(&given)?;
        self.check_encryption(&given)?;
        let order = order.filter(|order| *order != self.lock().geometry.refcount_order);
        let operations =
            u64::from(version != now) + u64::from(order.is_some()) + u64::from(given.encrypt.is_some());
        let mut steps = Steps::new(operations, ctx.progress);
        if version > now {
            steps.begin();
            self.upgrade(&mut steps)?;
        }
        if given.encrypt.is_some() {
            steps.begin();
            let (env, force) = (ctx.env, ctx.force);
            super::crypt::amend(self, options, env, force)?;
        }
        if let Some(order) = order {
            check_width(order, version)?;
            steps.begin();
            self.change_width(order, &mut steps)?;
        }
        self.amend_data_file(&given)?;
        if let Some(lazy) = given.lazy_refcounts {
            self.amend_lazy(lazy, version)?;
        }
        // As in QEMU, where a size of 0 is none: nobody loses a disk by it.
        if let Some(size) = given.size.filter(|size| size.0 > 0) {
            self.resize(q, Resize { exact: false, ..Resize::to(size.0) })?;
        }
        if version < now {
            steps.begin();
            self.downgrade(&mut steps)?;
        }
        Ok(())
    }
}

/// Only version 3 has other widths than 16 bits.
fn check_width(order: u32, version: Version) -> Result<()> {
    if version < Version::V3 && order != 4 {
        return Err(Error::invalid(
            "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
        ));
    }
    Ok(())
}

impl Meta {
    /// Writes the snapshot table anew, every entry with all that version 3 wants.
    fn rewrite_snapshots(&mut self) -> Result<()> {
        let size = self.header.size;
        self.snapshots.iter_mut().for_each(|s| s.disk_size = s.disk_size.or(Some(size)));
        let all = self.snapshots.clone();
        self.write_snapshot_table(all)
    }
}

impl Qcow2 {
    /// Refuses changes that are another command's business, or that no image can have.
    fn check_unchangeable(&self, given: &Given) -> Result<()> {
        let meta = self.lock();
        let header = &meta.header;
        if given.data_file_raw == Some(true) && !header.raw_data_file() {
            return Err(Error::invalid("data-file-raw cannot be set on existing images"));
        }
        if given.data_file.is_some() && !header.has(Incompatible::DATA_FILE) {
            return Err(Error::invalid(
                "data-file can only be set for images that use an external data file",
            ));
        }
        // Name and format are one thing: what is left out of the two is taken to be none.
        if (given.backing_file.is_some() || given.backing_fmt.is_some())
            && (given.backing_file != header.backing_file
                || given.backing_fmt != header.extensions.backing_format)
        {
            return Err(Error::invalid("Cannot amend the backing file")
                .with_hint("You can use 'qemu-img rebase' instead."));
        }
        Ok(())
    }

    fn check_encryption(&self, given: &Given) -> Result<()> {
        match (&given.encrypt, self.lock().header.crypt) {
            (Some(_), CryptMethod::None) => {
                Err(Error::invalid("Can't amend encryption options - encryption not present"))
            }
            (Some(_), CryptMethod::Aes) => Err(Error::invalid("Only LUKS encryption options can be amended")),
            _ => Ok(()),
        }
    }

    fn upgrade(&self, steps: &mut Steps<'_>) -> Result<()> {
        let mut meta = self.lock();
        steps.at(0, 2);
        // Version 3 wants every snapshot to say how large the disk was.
        if meta.snapshots.iter().any(|s| s.disk_size.is_none()) {
            meta.rewrite_snapshots()?;
        }
        steps.at(1, 2);
        meta.header.version = Version::V3;
        let done = meta.write_header();
        if done.is_err() {
            meta.header.version = Version::V2;
        }
        done.context(|| "Failed to update the image header")?;
        steps.at(2, 2);
        Ok(())
    }

    fn amend_data_file(&self, given: &Given) -> Result<()> {
        let mut meta = self.lock();
        let mut changed = false;
        if given.data_file_raw == Some(false) && meta.header.raw_data_file() {
            meta.header.autoclear -= Autoclear::RAW_DATA_FILE;
            changed = true;
        }
        if let Some(name) = &given.data_file {
            meta.header.extensions.data_file = Some(name.clone()).filter(|name| !name.is_empty());
            changed = true;
        }
        if changed { meta.write_header() } else { Ok(()) }
    }

    fn amend_lazy(&self, lazy: bool, version: Version) -> Result<()> {
        let mut meta = self.lock();
        if lazy == meta.header.compatible.contains(Compatible::LAZY_REFCOUNTS) {
            return Ok(());
        }
        if lazy && version < Version::V3 {
            return Err(Error::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            ));
        }
        if !lazy {
            meta.end_lazy()?;
        }
        meta.header.compatible.set(Compatible::LAZY_REFCOUNTS, lazy);
        meta.write_header().context(|| "Could not update the image header")?;
        meta.lazy_refcounts = lazy;
        Ok(())
    }
}
