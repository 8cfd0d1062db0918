//! Opening LUKS images: from option tree to driver.

use super::header::{self, Header, Placement};
use super::keyslot::Search;
use super::options::OpenOptions;
use super::payload::Payload;
use super::secret as passphrase;
use crate::crypto::{self, SectorCipher, SectorSize};
use block::graph::OpenCtx;
use block::{Child, Driver, Error, Perm, Perms, Result};
use std::time::Duration;

/// How long a slot's key derivation may take unless the user says otherwise, in seconds.
const MAX_KDF_SECONDS: u32 = 60;

/// Opens an image of any version.
pub(super) fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let options: OpenOptions = ctx.options()?;
    let file = ctx.child("file", ctx.perms)?;
    let detached = match ctx.has_child("header") {
        true => {
            let perms = Perms { own: ctx.perms.own & Perm::READ, shared: Perm::all() };
            Some(ctx.child("header", perms)?)
        }
        false => None,
    };
    let header = read_header(&file, detached.as_ref())?;
    let cipher = match ctx.flags.no_io {
        true => None,
        false => Some(unlock(ctx, &options, detached.as_ref().unwrap_or(&file), &header)?),
    };
    Ok(Box::new(Payload::new(file, detached, header, cipher)))
}

fn read_header(file: &Child, detached: Option<&Child>) -> Result<Header> {
    let placement = if detached.is_some() { Placement::Detached } else { Placement::Attached };
    let from = detached.unwrap_or(file);
    let mut bytes = [0; header::BYTES];
    let there = usize::try_from(from.len()?).unwrap_or(usize::MAX).min(bytes.len());
    from.read_exact(0, &mut bytes[..there])?;
    let header = Header::parse(&bytes[..there], placement)?;
    check_length(file, &header)?;
    Ok(header)
}

/// Checks that the file has a place for the payload, which may be empty.
fn check_length(file: &Child, header: &Header) -> Result<()> {
    let (len, payload) = (file.len()?, header.payload.bytes());
    if payload > len {
        let text = format!("LUKS payload begins at byte {payload}, but the file ends at byte {len}");
        return Err(Error::corrupt(text).with_hint(
            "The file was cut off, or it is the backup of a header: driver=luks,header.filename=THIS,file.filename=IMAGE",
        ));
    }
    Ok(())
}

/// The cipher for the payload, keyed.
fn unlock(
    ctx: &OpenCtx<'_>,
    options: &OpenOptions,
    file: &Child,
    header: &Header,
) -> Result<Box<dyn SectorCipher>> {
    let secret = passphrase::find(ctx.env, options.key_secret.as_deref())?;
    let seconds = match ctx.flags.max_kdf_seconds {
        0 => MAX_KDF_SECONDS,
        given => given,
    };
    let read = |at: header::Sectors, material: &mut [u8]| file.read_exact(at.bytes(), material);
    let search = Search::new(header, &read, Duration::from_secs(seconds.into()))?;
    let key = passphrase::unlock(&search, secret)?;
    crypto::new(&header.cipher, key.as_bytes(), SectorSize::B512)
}
