//! What the three programs share at the command line: output, sizes for people, JSON as QEMU's tools print it.

pub mod cli;
pub mod daemon;
pub mod dump;
pub mod json;
pub mod out;
pub mod size;

pub use out::Out;

use crate::Result;
use secret::options::keyval::{self, Bare};
use std::path::Path;

/// The program's name for messages: the base name it was started under.
pub fn program_name() -> String {
    let argv0 = std::env::args_os().next().unwrap_or_default();
    Path::new(&argv0).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The version all programs report: that of the tools whose behaviour they have, which scripts compare, and ours.
pub fn version() -> &'static str {
    concat!("10.0.2 (blockimg ", env!("CARGO_PKG_VERSION"), ")")
}

/// Prints a warning on standard error, at once, as [`notice`].
pub fn warning(text: &str) {
    notice(&format!("{}: warning: {text}", program_name()));
}

/// The pairs of an option list, as [`keyval::pairs`] gives them, with a warning for each word that is a switch.
///
/// # Errors
/// As for [`keyval::pairs`].
pub fn pairs(list: &str, bare: Bare<'_>) -> Result<Vec<(String, String)>> {
    keyval::short_forms(list, bare).iter().for_each(|text| warning(text));
    keyval::pairs(list, bare)
}

/// A time in seconds since 1970 as people here read it.
pub fn local_time(seconds: u64) -> String {
    crate::sys::local_time(seconds).map_or_else(String::new, |[year, month, day, hour, minute, second]| {
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    })
}

/// Prints a line about an image on standard error, at once: what is found while a request is being served, and is worth
/// knowing whatever becomes of the request.
#[expect(clippy::print_stderr, reason = "there is no caller to give the text to")]
pub fn notice(text: &str) {
    eprintln!("{text}");
}
