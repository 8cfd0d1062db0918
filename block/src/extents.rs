//! What an image is made of, run by run: the one view that map, convert, compare and measure share.
//!
//! [`Extents`] walks a chain of images lazily: where the top layer has nothing, the backing layer is asked, and so on.
//! Runs that continue each other are merged.

use crate::{MapKind, Node, Result, Want};
use std::ops::Range;
use std::sync::Arc;

/// A run of an image that is all of one kind.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Offset in the image, in bytes.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// How many layers down it was found; 0 is the top.
    pub depth: u32,
    /// Some layer of the chain has it (as data or as zeroes).
    pub present: bool,
    /// It reads as zeroes.
    pub zero: bool,
    /// Bytes are stored for it.
    pub data: bool,
    /// Stored compressed.
    pub compressed: bool,
    /// Where it is stored, where that is one place.
    pub host: Option<(Arc<Node>, u64)>,
}

impl Extent {
    /// A run that no layer of the chain has; it reads as zeroes.
    pub fn absent(start: u64, len: u64, depth: u32) -> Self {
        Extent { start, len, depth, present: false, zero: true, data: false, compressed: false, host: None }
    }

    fn continues(&self, next: &Extent) -> bool {
        let same = self.depth == next.depth
            && (self.present, self.zero, self.data, self.compressed)
                == (next.present, next.zero, next.data, next.compressed);
        let host = match (&self.host, &next.host) {
            (Some((a, at)), Some((b, bt))) => Arc::ptr_eq(a, b) && at + self.len == *bt,
            (None, None) => true,
            _ => false,
        };
        same && host
    }
}

/// The extents of a range, in order, as an iterator. It ends after the first error.
#[derive(Debug)]
pub struct Extents {
    top: Arc<Node>,
    at: u64,
    end: u64,
    want: Want,
    /// What was found behind the run handed out last.
    ahead: Option<Result<Extent>>,
    /// What the file below was said to be last.
    below: Option<Below>,
}

/// How far down the file below a layer is asked about at once, in bytes: the answer serves the runs to come too.
const LOOK_AHEAD: u64 = 1 << 30;

/// A part of the file that stores a layer's bytes.
#[derive(Debug)]
struct Below {
    layer: Arc<Node>,
    file: Arc<Node>,
    range: Range<u64>,
    /// It reads as zeroes.
    zero: bool,
}

impl Below {
    fn covers(&self, layer: &Arc<Node>, file: &Arc<Node>, at: u64) -> bool {
        self.range.contains(&at) && Arc::ptr_eq(&self.layer, layer) && Arc::ptr_eq(&self.file, file)
    }
}

impl Extents {
    /// The extents of `range` of the image whose top layer is `top`.
    pub fn new(top: &Arc<Node>, range: Range<u64>, want: Want) -> Self {
        Extents { top: Arc::clone(top), at: range.start, end: range.end, want, ahead: None, below: None }
    }

    /// The next run as the layers report it, not merged with what follows.
    fn step(&mut self) -> Option<Result<Extent>> {
        if self.at >= self.end {
            return None;
        }
        let found = self.find(self.at, self.end - self.at);
        match &found {
            Ok(extent) => self.at += extent.len,
            Err(_) => self.at = self.end,
        }
        Some(found)
    }
}

impl Iterator for Extents {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Result<Extent>> {
        let mut extent = match self.ahead.take().or_else(|| self.step())? {
            Ok(extent) => extent,
            failed => return Some(failed),
        };
        loop {
            match self.step() {
                Some(Ok(next)) if extent.continues(&next) => extent.len += next.len,
                other => {
                    self.ahead = other;
                    return Some(Ok(extent));
                }
            }
        }
    }
}

impl Extents {
    /// The run at `at`, from the first layer that has it.
    fn find(&mut self, at: u64, mut max: u64) -> Result<Extent> {
        let mut lower: Option<Arc<Node>> = None;
        let mut depth = 0;
        loop {
            let layer = lower.as_ref().unwrap_or(&self.top);
            let mapping = layer.map(at, max, self.want)?;
            max = mapping.len;
            if mapping.kind != MapKind::Absent {
                let kind = mapping.kind;
                let zero = matches!(kind, MapKind::Zero | MapKind::ZeroData)
                    || reads_zero_below(layer, &mapping, &mut max, &mut self.below)?;
                return Ok(Extent {
                    start: at,
                    len: max,
                    depth,
                    present: kind != MapKind::Hole,
                    zero,
                    data: matches!(kind, MapKind::Data | MapKind::ZeroData),
                    compressed: mapping.compressed,
                    host: host_of(mapping),
                });
            }
            match layer.backing() {
                Some(below) if at < below.len()? => lower = Some(below),
                // Behind the end of a shorter backing file it is as if there were none.
                _ => return Ok(Extent { host: host_of(mapping), ..Extent::absent(at, max, depth) }),
            }
            depth += 1;
        }
    }
}

/// Where a run is stored, or would be if it were written.
fn host_of(mapping: crate::Mapping) -> Option<(Arc<Node>, u64)> {
    mapping.host.and_then(|host| Some((host.node?, host.offset)))
}

/// Whether stored bytes are a hole in the file that stores them; narrows `max` to the part that is alike.
fn reads_zero_below(
    layer: &Arc<Node>,
    mapping: &crate::Mapping,
    max: &mut u64,
    last: &mut Option<Below>,
) -> Result<bool> {
    let stored = mapping.plain && mapping.kind != MapKind::Hole;
    let Some((file, at)) =
        mapping.host.as_ref().filter(|_| stored).and_then(|host| Some((host.node.as_ref()?, host.offset)))
    else {
        return Ok(false);
    };
    if !last.as_ref().is_some_and(|below| below.covers(layer, file, at)) {
        // A file for data alone is all data, as for the tool we stand in for.
        if !layer.unfiltered().primary().is_some_and(|primary| Arc::ptr_eq(file, &primary)) {
            return Ok(false);
        }
        let found = file.map(at, LOOK_AHEAD.max(*max), Want::Zeroes)?;
        let zero = matches!(found.kind, MapKind::Zero | MapKind::ZeroData);
        let range = at..at.saturating_add(found.len);
        *last = Some(Below { layer: Arc::clone(layer), file: Arc::clone(file), range, zero });
    }
    let Some(below) = last else { return Ok(false) };
    *max = (below.range.end - at).min(*max);
    Ok(below.zero)
}
