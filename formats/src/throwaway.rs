//! Throw-away overlays: an image that can be written while its file stays as it is.
//!
//! What is written goes to a qcow2 file that has no name any more, so nothing is left of it however the program ends.

use block::graph::{self, DriverKind, Env, OpenFlags};
use block::{Context, Error, Image, Options, Result};
use serde_json::Value;
use std::path::PathBuf;

/// Opens the image that `name` and `options` describe, as [`graph::open_tree`] does, under an overlay that takes all
/// writes.
///
/// # Errors
/// The image's failure to open, or no room for the overlay.
pub fn open(env: Env<'_>, name: Option<&str>, options: Options, flags: OpenFlags) -> Result<Image> {
    let below = OpenFlags { writable: false, resize: false, ..flags };
    let base = graph::open_tree(env, name, options.clone(), below)?;
    let len = base.len()?;
    base.close()?;
    let file = tempfile::Builder::new()
        .prefix("img.")
        .tempfile_in(folder())
        .map_err(Error::from)
        .context(|| "Could not create temporary overlay")?;
    let path = file.path().to_str().ok_or_else(|| Error::invalid("TMPDIR is not UTF-8"))?;
    let row = &crate::qcow2::ROW;
    let mut settings = graph::options_for(env, row, Some(path))?;
    settings.set("size", &len.to_string())?;
    graph::create(env, row, path, &settings).context(|| "Could not create temporary overlay")?;
    let mut tree =
        Options::from_pairs([("driver", row.name), ("file.driver", "file"), ("file.filename", path)])?;
    // Nobody will ever read it after a crash.
    tree.set("file.cache.no-flush", "on")?;
    tree.merge("backing", described(env, name, options)?)?;
    graph::open_tree(env, None, tree, OpenFlags { resize: flags.writable, ..flags })
}

fn folder() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// A name and options as options alone.
fn described(env: Env<'_>, name: Option<&str>, options: Options) -> Result<Options> {
    let Some(name) = name else { return Ok(options) };
    if let Some(json) = name.strip_prefix("json:") {
        let mut tree = Options::from_json(json)?;
        tree.overlay(options)?;
        return Ok(tree);
    }
    let mut tree = options;
    let row = tree.get("driver").and_then(Value::as_str).and_then(|driver| env.drivers.find(driver));
    // A format's name is that of the file below it, be the format known or not.
    let key = match row {
        Some(row) if row.kind == DriverKind::Protocol => "filename",
        _ => "file.filename",
    };
    tree.set_default(key, name)?;
    Ok(tree)
}
