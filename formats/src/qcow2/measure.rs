//! How much space an image takes: `measure`.
//!
//! Metadata is counted as if every cluster were allocated, so the required size errs on the side of too much.

use super::bitmap;
use super::create::{self, Given};
use super::geometry::Geometry;
use super::header::{MAX_L1_BYTES, Version};
use super::reftable::{self, Room};
use block::extents::Extents;
use block::graph::{CreateOptions, Env, Measure};
use block::{Error, Image, Prealloc, Result, Want};

/// Computes the space an image takes for `source`, or for the size among the options.
///
/// # Errors
/// Options that make no sense, a size that is too large, or the source's.
pub(super) fn measure(env: Env<'_>, options: &CreateOptions, source: Option<&Image>) -> Result<Measure> {
    let given: Given = options.parse()?;
    let prealloc = create::prealloc_mode(given.preallocation.as_deref())?;
    let version = create::version(given.compat.as_deref())?;
    let g = create::geometry(&given, version)?;
    let size = source.map_or(Ok(given.size.0), Image::len)?;
    let end = size.checked_next_multiple_of(g.cluster_size()).filter(|end| l1_bytes(g, *end) <= MAX_L1_BYTES);
    let end =
        end.ok_or_else(|| Error::invalid("The image size is too large (try using a larger cluster size)"))?;
    let keys = create::key_area(env, &given)?.next_multiple_of(g.cluster_size());
    let all = full_size(g, end) + keys;
    let stored = match source {
        _ if matches!(prealloc, Prealloc::Falloc | Prealloc::Full) => end,
        // How much of it is in the backing file, nobody knows.
        Some(_) if given.backing_file.is_some() => end,
        Some(image) => stored(g, image, size)?,
        None => 0,
    };
    let kept = source.filter(|image| version >= Version::V3 && image.node().has_bitmaps());
    Ok(Measure {
        required: all - end + stored,
        fully_allocated: all,
        bitmaps: kept.map(|image| bitmap::room(g, image)).transpose()?,
    })
}

fn l1_bytes(g: Geometry, size: u64) -> u64 {
    g.l1_entries(size) * 8
}

/// Bytes of a file in which every cluster of a disk of `size` bytes, whole clusters, is stored.
fn full_size(g: Geometry, size: u64) -> u64 {
    let l2 = (size >> g.cluster_bits).next_multiple_of(g.l2_entries()) * g.l2_entry_size();
    let l1 = ((l2 >> g.cluster_bits) * 8).next_multiple_of(g.cluster_size());
    let bytes = g.cluster_size() + l2 + l1 + size;
    let counts = reftable::area(g, bytes >> g.cluster_bits, Room::Exact);
    bytes + ((counts.blocks + counts.table) << g.cluster_bits)
}

/// Bytes of the clusters in which the source has anything but zeroes.
fn stored(g: Geometry, image: &Image, size: u64) -> Result<u64> {
    let (mut bytes, mut done) = (0, 0);
    for extent in Extents::new(image.node(), 0..size, Want::Zeroes) {
        let extent = extent?;
        if extent.zero {
            continue;
        }
        let start = g.round_down(extent.start).max(done);
        let end = g.round_up(extent.start + extent.len);
        bytes += end.saturating_sub(start);
        done = end.max(done);
    }
    Ok(bytes)
}
