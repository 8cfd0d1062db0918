//! `compress`: what is written is stored compressed, where the format below can.

use super::pass::{Filter, Filtered, pass_limits};
use crate::graph::{DriverKind, DriverRow, OpenCtx, ReopenCtx};
use crate::{Child, Driver, Error, IoVec, Limits, Result, WriteFlags};
use serde::Deserialize;

/// The `compress` driver.
pub static ROW: DriverRow =
    DriverRow { children: &["file"], ..DriverRow::new("compress", DriverKind::Filter, open) };

#[derive(Debug, Deserialize)]
struct NoOptions {}

#[derive(Debug)]
struct Compress(Child);

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let perms = ctx.perms;
    let file = ctx.child("file", perms)?;
    let NoOptions {} = ctx.options()?;
    if !file.node().limits().write_flags.contains(WriteFlags::COMPRESSED) {
        let format = file.node().name().driver;
        let text = format!("Compression is not supported for underlying format: {format}");
        return Err(Error::unsupported(text));
    }
    Ok(Box::new(Filtered(Compress(file))))
}

impl Filter for Compress {
    fn below(&self) -> &Child {
        &self.0
    }

    fn limits(&self) -> Limits {
        let below = pass_limits(&self.0);
        Limits {
            // Only whole clusters are compressed.
            request_align: below.cluster_size.filter(|n| n.is_power_of_two()).unwrap_or(1),
            // Whoever asks for compression as well asks twice.
            write_flags: below.write_flags - WriteFlags::COMPRESSED,
            ..below
        }
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.0.write(at, from, flags | WriteFlags::COMPRESSED)
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        let NoOptions {} = ctx.options(&[])?;
        let perms = ctx.perms;
        Ok(Box::new(Filtered(Compress(ctx.child("file", perms)?))))
    }
}
