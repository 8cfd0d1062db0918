//! Copy-on-read: what a layer does not have is kept in it when it is read.

use super::{BOUNCE, Node};
use crate::inflight::Mode;
use crate::{Event, IoVec, IoVecMut, Kind, MapKind, Result, Want, WriteFlags, ZeroFlags};
use std::ops::Range;
use std::sync::Arc;

impl Node {
    /// Whether what is read through a handle on this node is to be kept in it.
    pub(crate) fn copies_on_read(&self) -> bool {
        self.state().flags.copy_on_read
    }

    /// Like [`Node::read`], keeping in this layer what the layers below gave.
    ///
    /// Whole allocation units are copied, alone in their range; what this layer has is not written again.
    ///
    /// # Errors
    /// The driver's, also for what could not be kept.
    pub fn read_copying(self: &Arc<Self>, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let len = self.len()?;
        let inside = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut body = to.split_to(inside);
        to.fill(0);
        if body.is_empty() {
            return Ok(());
        }
        let limits = self.limits();
        let unit = self.copy_unit();
        let end = at + body.len() as u64;
        let cover =
            at - at % unit..end.next_multiple_of(unit).min(len.next_multiple_of(limits.request_align.into()));
        let _guard = self.inflight.begin(cover.clone(), Mode::Serialising);
        let mut at = at;
        while !body.is_empty() {
            let start = at - at % unit;
            let mapping = self.map(start, cover.end - start, Want::Exact)?;
            let run = start..(start + mapping.len).next_multiple_of(unit).min(cover.end);
            let n = match mapping.kind {
                MapKind::Absent => self.copy_piece(at, run, &mut body)?,
                _ => {
                    let mut piece = body.split_to((start + mapping.len).saturating_sub(at).max(1) as usize);
                    let n = piece.len();
                    self.read_within(at, piece.reborrow(), &limits)?;
                    n
                }
            };
            at += n as u64;
        }
        Ok(())
    }

    /// The allocation unit of the layer that the copies go to, in bytes.
    fn copy_unit(self: &Arc<Self>) -> u64 {
        let granularity = self.unfiltered().limits().zero_granularity;
        granularity.max(self.limits().request_align).into()
    }

    /// Copies the beginning of a run of whole units up and gives the reader its part of it; how much that was.
    fn copy_piece(self: &Arc<Self>, at: u64, run: Range<u64>, to: &mut IoVecMut<'_>) -> Result<usize> {
        let unit = self.copy_unit();
        let most = (BOUNCE - BOUNCE % unit).max(unit);
        let run = run.start..run.end.min(run.start + most);
        let mut bytes = self.pool.take((run.end - run.start) as usize);
        self.read_within(run.start, IoVecMut::from(&mut *bytes), &self.limits())?;
        self.event(Event("cor_write"));
        self.keep(run.clone(), &bytes)?;
        let mut piece = to.split_to((run.end - at) as usize);
        let skip = (at - run.start) as usize;
        piece.copy_from_slice(&bytes[skip..skip + piece.len()]);
        Ok(piece.len())
    }

    /// Writes whole units of this layer without changing what they read as.
    fn keep(&self, units: Range<u64>, bytes: &[u8]) -> Result<()> {
        if crate::buffer::is_zero(bytes) {
            match self.state().driver.write_zeroes(units.clone(), ZeroFlags::empty()) {
                Err(e) if e.kind() == Kind::Unsupported => {}
                done => return done,
            }
        }
        self.write_pieces(units.start, &IoVec::from(bytes), WriteFlags::empty(), &self.limits())
    }
}
