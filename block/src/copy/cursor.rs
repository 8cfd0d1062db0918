//! What to copy next: the sources' extents cut into chunks, handed out in order.

use super::{CopyError, CopyOptions, Observer, Segment};
use crate::extents::{Extent, Extents};
use crate::{Image, Node, SECTOR, Want};
use std::ops::Range;
use std::sync::Arc;

/// The longest piece of zeroes handed out at once, in bytes: writing it must not hold up the end of the copy.
const ZEROES: u64 = 1 << 30;

/// What a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpanKind {
    /// Bytes to be read, among which there may be zeroes to leave out.
    Data,
    /// Bytes to be written whatever they are.
    Plain,
    /// Zeroes.
    Zero,
    /// What the target's backing file has already.
    Backed,
}

/// A chunk.
#[derive(Debug)]
pub(super) struct Span<'a> {
    /// Where the bytes are.
    pub(super) source: &'a Image,
    /// Offset in that source.
    pub(super) source_at: u64,
    /// Offset in the target.
    pub(super) at: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// What it is.
    pub(super) kind: SpanKind,
    /// Where it is stored as it is, for copies that need not see the bytes.
    pub(super) stored: Option<(Arc<Node>, u64)>,
}

/// Walks the sources.
pub(super) struct Cursor<'a> {
    segments: std::slice::Iter<'a, Segment>,
    options: &'a CopyOptions,
    observer: &'a dyn Observer,
    current: Option<Position<'a>>,
    /// Target offset of the next chunk.
    at: u64,
    /// The longest chunk of data, in bytes.
    chunk: u64,
    /// Where the last source ends in the target.
    end: u64,
    /// Bytes of the extents to come that have been handed out already.
    ahead: u64,
}

/// How far a segment has been walked.
struct Position<'a> {
    segment: &'a Segment,
    extents: Extents,
    /// Where the next extent starts.
    at: u64,
    /// What is left of the current extent.
    rest: Option<Extent>,
}

impl<'a> Position<'a> {
    fn new(segment: &'a Segment, at: u64) -> Self {
        let extents = Extents::new(segment.image.node(), at..segment.range.end, Want::Zeroes);
        Position { segment, extents, at, rest: None }
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn new(
        segments: &'a [Segment],
        options: &'a CopyOptions,
        observer: &'a dyn Observer,
        chunk: u64,
    ) -> Self {
        let end = segments.iter().map(|s| s.range.end - s.range.start).sum();
        let segments = segments.iter();
        Cursor { segments, options, observer, current: None, at: 0, chunk, end, ahead: 0 }
    }

    /// The same, for chunks that go to the target from `at` on.
    pub(super) fn starting_at(self, at: u64) -> Self {
        Cursor { at, ..self }
    }

    /// The next chunk; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Span<'a>>, CopyError> {
        loop {
            if let Some(position) = &mut self.current {
                if let Some(extent) = position.rest.take() {
                    return Ok(Some(self.cut(extent)));
                }
                if let Some(extent) = position.extents.next() {
                    let extent = extent.or_else(|e| self.salvage(e))?;
                    self.hold(extent);
                    continue;
                }
            }
            let Some(segment) = self.segments.next() else { return Ok(None) };
            self.current = Some(Position::new(segment, segment.range.start));
        }
    }

    fn hold(&mut self, extent: Extent) {
        if let Some(position) = &mut self.current {
            position.at = extent.start + extent.len;
            let done = self.ahead.min(extent.len);
            self.ahead -= done;
            position.rest = (extent.len > done).then(|| after(extent, done));
        }
    }

    /// After a failure to get the status at the current position: asks for less and less. A sector whose status cannot
    /// be had counts as data.
    fn salvage(&mut self, error: crate::Error) -> Result<Extent, CopyError> {
        let Some(Position { segment, at, .. }) = self.current.take_if(|_| self.options.salvage) else {
            return Err(CopyError::Status(self.at, error));
        };
        let mut failure = error;
        let mut len = segment.range.end - at;
        let extent = loop {
            if len <= SECTOR {
                self.observer.status_failed(self.at, &failure);
                break Extent { present: true, zero: false, data: true, ..Extent::absent(at, len, 0) };
            }
            len = (len / 2).next_multiple_of(SECTOR);
            match Extents::new(segment.image.node(), at..at + len, Want::Zeroes).next() {
                Some(Ok(extent)) => break extent,
                Some(Err(e)) => failure = e,
                None => {}
            }
        };
        self.current = Some(Position::new(segment, at + extent.len));
        Ok(extent)
    }

    /// Cuts the next chunk off `extent`: data at multiples of the chunk size in the target, zeroes only where they
    /// would take long to write.
    fn cut(&mut self, extent: Extent) -> Span<'a> {
        let position = self.current.as_mut().expect("an extent comes from a segment");
        let (mut kind, room) = classify(&extent, self.at, self.options, self.chunk - self.at % self.chunk);
        let mut len = extent.len.min(room);
        if let Some(unit) = self.options.compressed {
            let left = self.end - self.at;
            (kind, len) = whole_clusters(kind, self.at..self.at + len, left, unit, self.chunk);
        }
        let source_at = extent.start;
        let stored = extent.host.clone().filter(|_| kind == SpanKind::Plain);
        let span = Span { source: &position.segment.image, source_at, at: self.at, len, kind, stored };
        self.at += len;
        let here = len.min(extent.len);
        self.ahead = len - here;
        position.rest = (extent.len > here).then(|| after(extent, here));
        span
    }
}

/// What follows the first `done` bytes of an extent.
fn after(extent: Extent, done: u64) -> Extent {
    let host = extent.host.map(|(node, offset)| (node, offset + done));
    Extent { start: extent.start + done, len: extent.len - done, host, ..extent }
}

/// Makes a piece of the target whole clusters of `unit` bytes, as compressed ones are written: what is less than that is
/// read together with what follows it, of which there are `left` bytes in the sources. Chunks are whole clusters too.
fn whole_clusters(kind: SpanKind, piece: Range<u64>, left: u64, unit: u64, chunk: u64) -> (SpanKind, u64) {
    let Range { start: at, end } = piece;
    let whole = if end - at == left { end } else { end - end % unit };
    if kind != SpanKind::Data && at.is_multiple_of(unit) && whole > at {
        return (kind, whole - at);
    }
    let stop = end.next_multiple_of(unit).min(at - at % chunk + chunk);
    (SpanKind::Data, (stop - at).min(left))
}

/// What an extent is for a target offset of `at`, and for how many bytes at most; `chunk` is what is left of the chunk.
fn classify(extent: &Extent, at: u64, options: &CopyOptions, chunk: u64) -> (SpanKind, u64) {
    let backed = options.backing.unwrap_or(0).saturating_sub(at);
    let below = options.backing.is_some() && extent.depth >= options.backing_depth;
    match (extent.zero, backed) {
        (_, 1..) if below => (SpanKind::Backed, backed),
        (true, _) if options.sparse == 0 => (SpanKind::Zero, chunk),
        (true, 0) => (SpanKind::Zero, ZEROES),
        (true, _) => (SpanKind::Zero, backed.min(ZEROES)),
        (false, _) if options.offload && extent.host.is_some() && !extent.compressed => {
            (SpanKind::Plain, chunk)
        }
        (false, _) => (SpanKind::Data, chunk),
    }
}
