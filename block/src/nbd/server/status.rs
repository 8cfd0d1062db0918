//! What a range is, in the terms of a meta context.

use super::super::wire::{STATE_DIRTY, STATE_HOLE, STATE_ZERO};
use super::{Export, MetaContext};
use crate::bitmap::DirtyBitmap;
use crate::extents::{Extent, Extents};
use crate::{Result, Want};
use std::ops::Range;

/// The most extents in one answer; clients ask again for the rest.
const MAX_EXTENTS: usize = 1 << 15;

/// The most bytes that an answer about `length` bytes takes in one context: the list of extents, and the same encoded. No
/// extent is shorter than a sector of 512 bytes.
pub(super) fn answer_size(length: u64) -> u64 {
    32 * (length / 512 + 2).min(MAX_EXTENTS as u64)
}

/// The answer while it is put together.
struct Answer {
    list: Vec<(u64, u64)>,
    limit: usize,
}

impl Answer {
    /// Adds a run, or makes the last one longer; `false` when there is no room for it.
    fn push(&mut self, len: u64, flags: u64) -> bool {
        let full = self.list.len() == self.limit;
        match self.list.last_mut() {
            Some(last) if last.1 == flags => last.0 += len,
            _ if full => return false,
            _ => self.list.push((len, flags)),
        }
        true
    }
}

/// The extents of `range` of an export as (length, flags), neighbours with equal flags merged; at most one when `one`. A
/// block that is not all of one kind is of the first kind in it.
pub(super) fn extents(
    export: &Export,
    context: &MetaContext,
    range: &Range<u64>,
    one: bool,
) -> Result<Vec<(u64, u64)>> {
    let mut answer = Answer { list: Vec::new(), limit: if one { 1 } else { MAX_EXTENTS } };
    let located = export.locate(range);
    match context {
        MetaContext::DirtyBitmap(bitmap) => dirty(bitmap, located, &mut answer)?,
        _ => stored(export, context, located, &mut answer)?,
    }
    Ok(answer.list)
}

fn stored(export: &Export, context: &MetaContext, range: Range<u64>, answer: &mut Answer) -> Result<()> {
    let block = u64::from(export.min_block);
    let mut done = range.start;
    for extent in Extents::new(export.image.node(), range.clone(), Want::Exact) {
        let extent = extent?;
        let end = (extent.start + extent.len).next_multiple_of(block).min(range.end);
        if end > done && !answer.push(end - done, flags(context, &extent)) {
            break;
        }
        done = done.max(end);
    }
    Ok(())
}

fn dirty(bitmap: &DirtyBitmap, range: Range<u64>, answer: &mut Answer) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let run = bitmap.next_dirty(at)?.unwrap_or(range.end..range.end);
        let (start, end) = (run.start.min(range.end), run.end.min(range.end));
        if (start > at && !answer.push(start - at, 0))
            || (end > start && !answer.push(end - start, STATE_DIRTY))
        {
            break;
        }
        at = end;
    }
    Ok(())
}

fn flags(context: &MetaContext, extent: &Extent) -> u64 {
    match context {
        MetaContext::AllocationDepth if extent.present => u64::from(extent.depth) + 1,
        MetaContext::AllocationDepth => 0,
        _ => {
            let hole = if extent.data { 0 } else { STATE_HOLE };
            hole | if extent.zero { STATE_ZERO } else { 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitmap::BitmapShape;
    use crate::protocol::memory::Memory;
    use crate::{Image, Limits, WriteCache};

    fn ask(base: u64, range: Range<u64>, one: bool) -> Vec<(u64, u64)> {
        let shape = BitmapShape { name: "b".into(), granularity_bits: 9, enabled: true, inconsistent: false };
        let bitmap = DirtyBitmap::empty(shape, 8192);
        bitmap.record(&(1024..2048)).unwrap();
        bitmap.record(&(8191..8192)).unwrap();
        let image = Image::new(Memory::node(vec![0; 8192], Limits::default()), WriteCache::Back);
        let export = Export::new("", image, base).unwrap();
        extents(&export, &MetaContext::DirtyBitmap(bitmap), &range, one).unwrap()
    }

    #[test]
    fn dirty_runs_alternate_with_clean_ones_and_cover_the_range() {
        let runs = [(1024, 0), (1024, STATE_DIRTY), (5632, 0), (512, STATE_DIRTY)];
        assert_eq!(ask(0, 0..8192, false), runs);
        assert_eq!(ask(0, 0..8192, true), runs[..1]);
        assert_eq!(ask(0, 1500..1600, false), [(100, STATE_DIRTY)]);
        assert_eq!(ask(0, 2048..8000, false), [(5632, 0), (320, STATE_DIRTY)]);
    }

    #[test]
    fn an_export_that_begins_later_sees_later_bits() {
        assert_eq!(ask(1024, 0..2048, false), [(1024, STATE_DIRTY), (1024, 0)]);
    }
}
