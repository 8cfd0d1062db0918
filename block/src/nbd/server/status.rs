//! What a range is, in the terms of a meta context.

use super::super::wire::{STATE_HOLE, STATE_ZERO};
use super::MetaContext;
use crate::extents::{Extent, Extents};
use crate::{Image, Result, Want};
use std::ops::Range;

/// The most extents in one answer; clients ask again for the rest.
const MAX_EXTENTS: usize = 1 << 15;

/// The extents of `range` as (length, flags), neighbours with equal flags merged; at most one when `one`.
pub(super) fn extents(
    image: &Image,
    context: MetaContext,
    range: Range<u64>,
    one: bool,
) -> Result<Vec<(u64, u64)>> {
    let limit = if one { 1 } else { MAX_EXTENTS };
    let mut list: Vec<(u64, u64)> = Vec::new();
    for extent in Extents::new(image.node(), range, Want::Exact) {
        let extent = extent?;
        let flags = flags(context, &extent);
        let full = list.len() == limit;
        match list.last_mut() {
            Some(last) if last.1 == flags => last.0 += extent.len,
            _ if full => break,
            _ => list.push((extent.len, flags)),
        }
    }
    Ok(list)
}

fn flags(context: MetaContext, extent: &Extent) -> u64 {
    match context {
        MetaContext::Allocation => {
            let hole = if extent.data { 0 } else { STATE_HOLE };
            hole | if extent.zero { STATE_ZERO } else { 0 }
        }
        MetaContext::AllocationDepth if extent.present => u64::from(extent.depth) + 1,
        MetaContext::AllocationDepth => 0,
    }
}
