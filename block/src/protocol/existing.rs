//! How protocols "create" whose images exist already: devices, servers.
//!
//! The image must be large enough; it keeps its length. Its first sector is cleared, so that nobody takes what was
//! there before for the new image's format.

use crate::graph::{CreateCtx, CreateKind, CreateOption, CreateOptions, CreateRow, prealloc};
use crate::{Context, Error, Level, Prealloc, Resize, Result, SECTOR};

/// The creation row of such a protocol.
pub static ROW: CreateRow = CreateRow { options: &OPTIONS, create, measure: None };

static OPTIONS: [CreateOption; 2] = [
    CreateOption { name: "size", kind: CreateKind::Size, help: "Virtual disk size", default: None },
    CreateOption {
        name: "preallocation",
        kind: CreateKind::Str,
        help: "Preallocation mode (allowed values: off)",
        default: None,
    },
];

fn create(ctx: &mut CreateCtx<'_>, options: &CreateOptions) -> Result<()> {
    let mode = prealloc(options)?;
    if mode != Prealloc::Off {
        return Err(Error::unsupported(format!("Unsupported preallocation mode '{}'", mode.name())));
    }
    let size = options.get("size").and_then(|v| v.as_u64()).unwrap_or(0);
    let image = ctx.open_file().context(|| {
        format!(
            "Protocol driver '{}' does not support creating new images, so an existing image must be selected as the \
             target; however, opening the given target as an existing image failed",
            ctx.protocol()
        )
    })?;
    image.truncate(Resize { exact: false, ..Resize::to(size) })?;
    let first = usize::try_from(image.len()?.min(SECTOR)).unwrap_or(0);
    image.write_all(0, &[0; SECTOR as usize][..first])?;
    image.flush(Level::Disk)
}
