//! What to copy next: the sources' extents cut into chunks, handed out in order.

use super::{CHUNK, Segment};
use crate::extents::{Extent, Extents};
use crate::{Image, Result, Want};

/// A chunk: all zeroes, or bytes to be read.
#[derive(Debug)]
pub struct Span<'a> {
    /// Where the bytes are.
    pub source: &'a Image,
    /// Offset in that source.
    pub source_at: u64,
    /// Offset in the target.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Nothing to read: zeroes.
    pub zero: bool,
}

/// Walks the sources.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    segments: std::slice::Iter<'a, Segment>,
    current: Option<(&'a Segment, Extents)>,
    /// What is left of the current extent.
    rest: Option<Extent>,
    /// Target offset of the next chunk.
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(segments: &'a [Segment]) -> Self {
        Cursor { segments: segments.iter(), current: None, rest: None, at: 0 }
    }

    /// The next chunk; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Span<'a>>> {
        loop {
            if let (Some(extent), Some((segment, _))) = (self.rest.take(), &self.current) {
                return Ok(Some(self.cut(extent, &segment.image)));
            }
            if let Some((_, extents)) = &mut self.current
                && let Some(extent) = extents.next()
            {
                self.rest = Some(extent?);
                continue;
            }
            let Some(segment) = self.segments.next() else { return Ok(None) };
            let extents = Extents::new(segment.image.node(), segment.range.clone(), Want::Zeroes);
            self.current = Some((segment, extents));
        }
    }

    /// Cuts the next chunk off `extent`. Data chunks end at multiples of the chunk size in the target; zeroes are
    /// not cut at all.
    fn cut(&mut self, mut extent: Extent, source: &'a Image) -> Span<'a> {
        let room = if extent.zero { u64::MAX } else { CHUNK - self.at % CHUNK };
        let len = extent.len.min(room);
        let span = Span { source, source_at: extent.start, at: self.at, len, zero: extent.zero };
        self.at += len;
        extent.start += len;
        extent.len -= len;
        self.rest = (extent.len > 0).then_some(extent);
        span
    }
}
