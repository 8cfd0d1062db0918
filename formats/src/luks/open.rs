//! Opening LUKS images: from option tree to driver.

use super::area::Area;
use super::derive::Bounds;
use super::head::{Head, Opened};
use super::header::Placement;
use super::options::OpenOptions;
use super::payload::Payload;
use block::graph::OpenCtx;
use block::{Driver, Perm, Perms, Result};

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
        bounds: Bounds::of(&ctx.flags),
        payload_file: Some(file.len()?),
        repair: ctx.flags.repair,
        alone: ctx.flags.no_io && detached.is_none(),
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
