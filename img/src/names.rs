//! What source and target may be called: nothing that would destroy data or cannot work.

use block::graph::Source;
use block::{Error, Result};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Refuses to copy from or to a stream, or from a file to itself.
///
/// # Errors
/// The sentence says which name it is.
pub(crate) fn check_names(sources: &[Source], target: &Source) -> Result<()> {
    for source in sources {
        if is_stream(source) {
            let text = format!(
                "'{}' is no image: what comes in a stream cannot be read at any offset",
                source.text()
            );
            return Err(Error::invalid(text).with_hint("Save it to a file first, and convert that."));
        }
    }
    if is_stream(target) {
        let text = format!("'{}' is no image: a stream cannot be written at any offset", target.text());
        return Err(Error::invalid(text).with_hint("Convert into a file, and send that on."));
    }
    let ids = |source: &Source| {
        source.file_names().into_iter().filter_map(|name| FileId::of(&name)).collect::<Vec<_>>()
    };
    let target_ids = ids(target);
    match sources.iter().find(|source| ids(source).iter().any(|id| target_ids.contains(id))) {
        Some(source) => {
            let text = format!("'{}' is a source and the target at once", source.text());
            Err(Error::invalid(text).with_hint("Convert into a new file, then rename it over the old one."))
        }
        None => Ok(()),
    }
}

fn is_stream(source: &Source) -> bool {
    let streams = ["-", "/dev/stdin", "/dev/stdout", "/dev/stderr"];
    matches!(source, Source::Name(name) if streams.contains(&name.as_str()))
}

/// What tells whether two names are one file.
#[derive(Debug, PartialEq, Eq)]
enum FileId {
    Device(u64),
    File(u64, u64),
}

impl FileId {
    fn of(name: &str) -> Option<Self> {
        let meta = std::fs::metadata(name).ok()?;
        let device = meta.file_type().is_block_device();
        Some(if device { FileId::Device(meta.rdev()) } else { FileId::File(meta.dev(), meta.ino()) })
    }
}
