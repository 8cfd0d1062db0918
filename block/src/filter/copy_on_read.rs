//! `copy-on-read`: what is read from a backing file is kept in the image above it.
//!
//! The copying is [`Node::read_copying`](crate::Node::read_copying), which an image opened with copy-on-read uses too.
//! This filter decides what is worth it: with a bottom node, only what a layer down to that one has.

use super::pass::{Filter, Filtered, must_write};
use crate::extents::Extents;
use crate::graph::{DriverKind, DriverRow, OpenCtx, Perm, Perms, ReopenCtx};
use crate::{Child, Driver, Error, IoVecMut, Kind, Node, Result, Want};
use serde::Deserialize;
use std::sync::Arc;

/// The `copy-on-read` driver.
pub static ROW: DriverRow = DriverRow {
    children: &["file"],
    strong_options: &["bottom"],
    ..DriverRow::new("copy-on-read", DriverKind::Filter, open)
};

#[derive(Debug, Deserialize)]
struct CopyOptions {
    bottom: Option<String>,
}

#[derive(Debug)]
struct CopyOnRead {
    file: Child,
    /// How many layers down the last one is whose contents are kept; all of them when `None`.
    depth: Option<u32>,
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let perms = wanted(ctx.perms);
    must_write(ctx.flags.writable)?;
    let file = ctx.child("file", perms)?;
    let options: CopyOptions = ctx.options()?;
    Ok(Box::new(Filtered(CopyOnRead::new(file, &options)?)))
}

fn wanted(perms: Perms) -> Perms {
    Perms { own: perms.own | Perm::WRITE_UNCHANGED, shared: perms.shared }
}

impl CopyOnRead {
    fn new(file: Child, options: &CopyOptions) -> Result<Self> {
        let depth = options.bottom.as_deref().map(|name| depth_of(name, file.node())).transpose()?;
        // As the bottom, the image itself stands for its whole chain.
        Ok(CopyOnRead { file, depth: depth.filter(|depth| *depth > 0) })
    }
}

/// How many layers below `top` the node of that name is.
fn depth_of(name: &str, top: &Arc<Node>) -> Result<u32> {
    let mut layer = Some(Arc::clone(top));
    let mut depth = 0;
    while let Some(node) = layer {
        if node.name().node == name || node.unfiltered().name().node == name {
            return Ok(depth);
        }
        layer = node.backing();
        depth += 1;
    }
    Err(Error::new(Kind::NotFound, format!("Bottom node '{name}' not found")))
}

impl Filter for CopyOnRead {
    fn below(&self) -> &Child {
        &self.file
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let node = self.file.node();
        let Some(depth) = self.depth else { return node.read_copying(at, to) };
        let mut rest = to.reborrow();
        for extent in Extents::new(node, at..at + rest.len() as u64, Want::Exact) {
            let extent = extent?;
            let mut piece = rest.split_to(usize::try_from(extent.len).unwrap_or(usize::MAX));
            match extent.present && (1..=depth).contains(&extent.depth) {
                true => node.read_copying(extent.start, &mut piece)?,
                false => node.read(extent.start, &mut piece)?,
            }
        }
        Ok(())
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        let options: CopyOptions = ctx.options(&[])?;
        must_write(ctx.flags.writable)?;
        let perms = wanted(ctx.perms);
        Ok(Box::new(Filtered(CopyOnRead::new(ctx.child("file", perms)?, &options)?)))
    }
}
