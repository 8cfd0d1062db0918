//! Opening LUKS images: from option tree to driver.

use super::area::Area;
use super::derive::Bounds;
use super::head::{Head, Opened};
use super::header::Placement;
use super::options::OpenOptions;
use super::payload::Payload;
use block::graph::OpenCtx;
use block::{Driver, Perm, Perms, Result};
use std::time::Duration;

/// How long a slot's key derivation may take unless the user says otherwise, in seconds.
const MAX_KDF_SECONDS: u32 = 60;

/// Opens an image of any version.
pub(super) fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let options: OpenOptions = ctx.options()?;
    let file = ctx.child("file", ctx.perms)?;
    let detached = match ctx.has_child("header") {
        true => {
            let perms = Perms { own: ctx.perms.own & (Perm::READ | Perm::WRITE), shared: ctx.perms.shared };
            Some(ctx.child("header", perms)?)
        }
        false => None,
    };
    let placement = if detached.is_some() { Placement::Detached } else { Placement::Attached };
    let area = Area::new(detached.as_ref().unwrap_or(&file).clone(), 0);
    let opened = Opened {
        placement,
        key_secret: options.key_secret,
        bounds: bounds(ctx.flags.max_kdf_seconds),
        payload_file: Some(file.len()?),
        repair: ctx.flags.repair,
    };
    let head = Head::open(area, opened)?;
    let cipher = match ctx.flags.no_io {
        true => None,
        false => Some(head.unlock(ctx.env)?),
    };
    if ctx.flags.writable && !ctx.flags.no_io {
        head.repair()?;
    }
    Ok(Box::new(Payload::new(file, detached, head, cipher)))
}

/// What a key slot may cost, when its derivation may take so many seconds (0: the default).
pub(crate) fn bounds(max_kdf_seconds: u32) -> Bounds {
    let seconds = match max_kdf_seconds {
        0 => MAX_KDF_SECONDS,
        given => given,
    };
    Bounds::new(Duration::from_secs(seconds.into()))
}
