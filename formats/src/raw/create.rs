//! Creating raw images, and the space they take.

use block::graph::{CreateCtx, CreateKind, CreateOption, CreateOptions, CreateRow, Env, Measure};
use block::{Image, Result, SECTOR};

/// How raw images are created: the protocol does all of it.
pub(super) static ROW: CreateRow = CreateRow { options: &OPTIONS, create, measure: Some(measure) };

static OPTIONS: [CreateOption; 1] =
    [CreateOption { name: "size", kind: CreateKind::Size, help: "Virtual disk size", default: None }];

fn size(options: &CreateOptions) -> u64 {
    options.get("size").and_then(|v| v.as_u64()).unwrap_or(0)
}

fn create(ctx: &mut CreateCtx<'_>, options: &CreateOptions) -> Result<()> {
    ctx.create_file(size(options), options).map(drop)
}

fn measure(_env: Env<'_>, options: &CreateOptions, source: Option<&Image>) -> Result<Measure> {
    let bytes = match source {
        Some(image) => image.len()?,
        None => size(options).next_multiple_of(SECTOR),
    };
    Ok(Measure { required: bytes, fully_allocated: bytes, bitmaps: None })
}
