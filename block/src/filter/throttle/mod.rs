//! `throttle`: requests wait so that a group of nodes stays within its limits.
//!
//! [`group`] is the object that nodes name, [`bucket`] the arithmetic of one limit.

mod bucket;
mod group;

use super::pass::{Filter, Filtered};
use crate::graph::{DriverKind, DriverRow, OpenCtx, ReopenCtx};
use crate::{Child, Driver, Error, IoVec, IoVecMut, Kind, Result, WriteFlags, ZeroFlags};
use bucket::Direction;
use group::Limiter;
pub use group::{TYPE, ThrottleGroup};
use serde::Deserialize;
use std::ops::Range;
use std::sync::Arc;

/// The `throttle` driver.
pub static ROW: DriverRow = DriverRow {
    children: &["file"],
    strong_options: &["throttle-group"],
    ..DriverRow::new("throttle", DriverKind::Filter, open)
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ThrottleOptions {
    throttle_group: Option<String>,
}

impl ThrottleOptions {
    fn limiter(&self, objects: &secret::Registry) -> Result<Arc<Limiter>> {
        let name =
            self.throttle_group.as_ref().ok_or_else(|| Error::invalid("Please specify a throttle group"))?;
        let group = objects.get::<ThrottleGroup>(name).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("Throttle group '{name}' does not exist"))
                .with_hint(format!("Make it first: --object throttle-group,id={name},limits.bps-total=N"))
        })?;
        Ok(group.limiter())
    }
}

#[derive(Debug)]
struct Throttle {
    file: Child,
    limiter: Arc<Limiter>,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let perms = ctx.perms;
    let file = ctx.child("file", perms)?;
    let limiter = ctx.options::<ThrottleOptions>()?.limiter(ctx.env.objects)?;
    Ok(Box::new(Filtered(Throttle { file, limiter })))
}

impl Filter for Throttle {
    fn below(&self) -> &Child {
        &self.file
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.limiter.wait(Direction::Read, to.len() as u64);
        self.file.read(at, to)
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        self.limiter.wait(Direction::Write, from.len() as u64);
        self.file.write(at, from, flags)
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.limiter.wait(Direction::Write, range.end - range.start);
        self.file.write_zeroes(range, flags)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.limiter.wait(Direction::Write, range.end - range.start);
        self.file.discard(range)
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        let options: ThrottleOptions = ctx.options(&["throttle-group"])?;
        let limiter = options.limiter(ctx.env.objects)?;
        let perms = ctx.perms;
        Ok(Box::new(Filtered(Throttle { file: ctx.child("file", perms)?, limiter })))
    }
}
