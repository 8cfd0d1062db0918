//! Opening: header, backing file, cipher.

use super::header::{BYTES, Header};
use super::image::{Parts, Qcow};
use super::options::QcowOptions;
use crate::encrypt::{self, EncryptOptions};
use crate::mapped::Mapped;
use block::graph::{OpenCtx, OpenFlags};
use block::{Child, Driver, Error, Perm, Perms, Result};
use std::sync::Arc;

/// Opens an image, as the driver table does.
pub(super) fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let options: QcowOptions = ctx.options()?;
    let file = ctx.child("file", sole_writer(ctx.perms, ctx.flags))?;
    let header = read_header(&file)?;
    let method = header.encrypted.then_some("aes");
    EncryptOptions::check(options.encrypt.as_ref(), method)?;
    let cipher = match header.encrypted {
        true => encrypt::open_aes(ctx, options.encrypt.as_ref(), options.legacy_aes_write)?,
        false => None,
    };
    let backing_file = backing_name(&file, &header)?;
    let backing = ctx.backing(backing_file.as_deref(), None)?;
    let cipher = cipher.map(Arc::from);
    let writable = ctx.flags.writable;
    let image = Qcow::new(Parts { header, file, backing, backing_file, cipher, writable })?;
    Ok(Box::new(Mapped::new(image)))
}

/// What is needed of the file: tables must not change under us, and are ours to change.
pub(super) fn sole_writer(wanted: Perms, flags: OpenFlags) -> Perms {
    let mut own = wanted.own & Perm::READ;
    let changes = Perm::WRITE | Perm::RESIZE;
    own.set(changes, flags.writable);
    let shared = if flags.force_share { Perm::all() } else { Perm::all() - changes };
    Perms { own, shared }
}

/// Reads and validates the header.
///
/// # Errors
/// What is wrong with it, or the file's.
pub(super) fn read_header(file: &Child) -> Result<Header> {
    let mut bytes = [0; BYTES];
    file.read_exact(0, &mut bytes)?;
    Header::parse(&bytes)
}

fn backing_name(file: &Child, header: &Header) -> Result<Option<String>> {
    let (at, len) = header.backing;
    if len == 0 {
        return Ok(None);
    }
    if at.checked_add(len.into()).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Error::invalid("Invalid backing file offset"));
    }
    let mut name = vec![0; len as usize];
    file.read_exact(at, &mut name)?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(Some(String::from_utf8_lossy(&name[..end]).into_owned()).filter(|name| !name.is_empty()))
}
