//! Snapshots inside an image as the source of a command (`-l`).

use crate::command::Tool;
use block::snapshot::SnapshotName;
use block::{Context, Error, Image, Result};

/// The snapshot that `text` describes: `snapshot.id=…,snapshot.name=…`, or else a name or id.
///
/// # Errors
/// The first unknown member.
pub(crate) fn parse(tool: &Tool<'_>, text: &str) -> Result<SnapshotName> {
    SnapshotName::parse(text).map_err(|e| {
        tool.out.error(&e);
        Error::invalid(format!("Failed in parsing snapshot param '{text}'"))
    })
}

/// Makes an image, opened read-only, show what it was when a snapshot was taken.
///
/// # Errors
/// A format without snapshots, no such snapshot, or what is wrong in the image.
pub(crate) fn load(image: &Image, name: &SnapshotName) -> Result<()> {
    image.node().load_snapshot(name).context(|| "Failed to load snapshot")
}
