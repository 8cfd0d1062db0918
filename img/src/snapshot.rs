//! Snapshots inside an image as the source of a command (`-l`).

use crate::command::Tool;
use block::snapshot::SnapshotName;
use block::{Context, Error, Image, Result};
use secret::options::keyval::{self, Bare};

/// The snapshot that `text` describes: `snapshot.id=…,snapshot.name=…`, or else a name or id.
///
/// # Errors
/// The first unknown member.
pub(crate) fn parse(tool: &Tool<'_>, text: &str) -> Result<SnapshotName> {
    if !text.starts_with("snapshot.") {
        return Ok(SnapshotName::Either(text.to_owned()));
    }
    let (mut id, mut name) = (None, None);
    for (key, value) in keyval::pairs(text, Bare::Always)? {
        match key.as_str() {
            "snapshot.id" => id = Some(value),
            "snapshot.name" => name = Some(value),
            _ => {
                tool.out.error_text(&format!("Invalid parameter '{key}'"));
                return Err(Error::invalid(format!("Failed in parsing snapshot param '{text}'")));
            }
        }
    }
    Ok(SnapshotName::Exact { id, name })
}

/// Makes an image, opened read-only, show what it was when a snapshot was taken.
///
/// # Errors
/// A format without snapshots, no such snapshot, or what is wrong in the image.
pub(crate) fn load(image: &Image, name: &SnapshotName) -> Result<()> {
    image.node().load_snapshot(name).context(|| "Failed to load snapshot")
}
