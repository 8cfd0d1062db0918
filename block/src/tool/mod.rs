//! What the three programs share at the command line: output, sizes for people, JSON as QEMU's tools print it.

pub mod daemon;
pub mod json;
pub mod out;
pub mod size;

pub use out::Out;

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

/// Prints a line about an image on standard error, at once: what is found while a request is being served, and is worth
/// knowing whatever becomes of the request.
#[expect(clippy::print_stderr, reason = "there is no caller to give the text to")]
pub fn notice(text: &str) {
    eprintln!("{text}");
}
