//! Snapshots inside an image as the source of a command (`-l`).

use crate::command::Tool;
use block::{Error, Image, Result};
use secret::options::keyval::{self, Bare};

/// Refuses a description of a snapshot with other members than `snapshot.id` and `snapshot.name`; any other text is a
/// name or id.
///
/// # Errors
/// The first unknown member.
pub(crate) fn check_name(tool: &Tool<'_>, text: &str) -> Result<()> {
    if !text.starts_with("snapshot.") {
        return Ok(());
    }
    let known = |(key, _): &(String, String)| matches!(key.as_str(), "snapshot.id" | "snapshot.name");
    let pairs = keyval::pairs(text, Bare::Always)?;
    match pairs.iter().find(|pair| !known(pair)) {
        Some((key, _)) => {
            tool.out.error_text(&format!("Invalid parameter '{key}'"));
            Err(Error::invalid(format!("Failed in parsing snapshot param '{text}'")))
        }
        None => Ok(()),
    }
}

/// Makes an image show what it was when a snapshot was taken. No driver has snapshots to take.
///
/// # Errors
/// Always, naming the format.
pub(crate) fn load(image: &Image) -> Result<()> {
    Err(Error::unsupported(format!(
        "Failed to load snapshot: Block format '{}' used by device '' does not support temporarily loading internal \
         snapshots",
        image.node().name().driver
    )))
}
