//! Copying the bitmaps of an image along with its contents (`convert --bitmaps`).

use crate::command::Tool;
use block::{Context, Error, Image, Result};

/// Refuses a source whose bitmaps cannot be copied.
///
/// # Errors
/// A format without bitmaps, or an inconsistent one unless those are to be skipped.
pub(crate) fn check_source(source: &Image, skip_broken: bool) -> Result<()> {
    if !source.node().has_bitmaps() {
        return Err(Error::unsupported("Source lacks bitmap support"));
    }
    let bitmaps = source.node().bitmaps();
    match bitmaps.iter().rev().find(|bitmap| bitmap.is_inconsistent() && !skip_broken) {
        Some(bitmap) => Err(Error::invalid(format!("Cannot copy inconsistent bitmap '{}'", bitmap.name()))
            .with_hint("Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it")),
        None => Ok(()),
    }
}

/// Refuses a target that cannot keep bitmaps.
///
/// # Errors
/// Always the same one.
pub(crate) fn check_target(target: &Image) -> Result<()> {
    match target.node().has_bitmaps() {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "Format driver '{}' does not support bitmaps",
            target.node().name().driver
        ))),
    }
}

/// Copies all bitmaps, the latest first, but for those that are inconsistent.
///
/// # Errors
/// What the target cannot keep, or the images'.
pub(crate) fn copy(tool: &Tool<'_>, source: &Image, target: &Image) -> Result<()> {
    for bitmap in source.node().bitmaps().into_iter().rev() {
        let name = bitmap.name();
        if bitmap.is_inconsistent() {
            tool.out.error_text(&format!("warning: Skipping inconsistent bitmap '{name}'"));
            continue;
        }
        let copy = target
            .node()
            .add_bitmap(name, Some(bitmap.granularity()))
            .context(|| format!("Failed to create bitmap {name}"))?;
        copy.merge(&bitmap).context(|| format!("Failed to populate bitmap {name}"))?;
        copy.set_enabled(bitmap.is_enabled())?;
    }
    Ok(())
}
