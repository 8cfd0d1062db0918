//! A driver in the graph.
//!
//! [`Node`] does once what every driver would otherwise have to do: it aligns requests (reading, modifying and writing
//! back where needed), splits long ones, keeps overlapping ones apart, and emulates what a driver does not have. Bounds
//! and permissions are the business of the two handles, [`Image`](crate::Image) and [`Child`].

mod capability;
mod requests;

use crate::buffer::{Pool, Pooled};
use crate::check::{CheckResult, Repair};
use crate::graph::Opened;
use crate::inflight::{InFlight, Mode};
use crate::{
    Breakpoints, Child, Driver, Error, Event, FormatInfo, IoVec, IoVecMut, Kind, Level, Limits, MapKind,
    Mapping, Perm, Perms, Quiesced, Resize, Result, VmState, Want, WriteFlags, ZeroFlags,
};
use arc_swap::{ArcSwap, Guard};
use serde_json::{Map, Value};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Image lengths are multiples of this many bytes: a file's last, partial sector reads as if zeroes followed.
pub const SECTOR: u64 = 512;

/// The longest piece that goes through a bounce buffer, in bytes.
const BOUNCE: u64 = 1 << 20;

/// The most buffers of a request that must stay aligned: more may not fit into one system call.
const MAX_BUFFERS: usize = 1024;

/// Zeroes to write where a driver has no zero operation, aligned for direct I/O.
#[repr(align(4096))]
struct Zeroes([u8; 1 << 20]);

static ZEROES: Zeroes = Zeroes([0; 1 << 20]);

/// The roles in which a driver's main child stands.
const PRIMARY: [&str; 2] = ["file", "image"];

/// The roles of children whose space is not the parent's.
const UNCOUNTED: [&str; 5] = ["backing", "image", "log", "raw", "test"];

/// When to turn written zeroes into a write of zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetectZeroes {
    /// Never.
    #[default]
    Off,
    /// Always.
    On,
    /// Always, and the range may be deallocated.
    Unmap,
}

/// What the user said about a node, beyond the driver's own options.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeFlags {
    /// No writes.
    pub read_only: bool,
    /// The format is one that probing found.
    pub guessed: bool,
    /// Others may do anything meanwhile, whatever the parent says.
    pub force_share: bool,
    /// Pass discards (and deallocating zero writes) on to the driver.
    pub discard: bool,
    /// What to do with zeroes that are written.
    pub detect_zeroes: DetectZeroes,
    /// Keep in this layer what is read from those below it.
    pub copy_on_read: bool,
    /// What is written need not reach stable storage, whoever asks: flushes end where the operating system has everything.
    pub no_flush: bool,
}

/// How a node is called in messages and reports.
#[derive(Debug, Clone, Default)]
pub struct NodeName {
    /// The driver's name.
    pub driver: &'static str,
    /// The file name, or a `json:{…}` description where no name says it all.
    pub filename: String,
    /// The node name: what the user gave, or a generated `#blockN`.
    pub node: String,
    /// The options that would open it again: its own with dotted names, nodes below as groups.
    pub description: Map<String, Value>,
}

/// What changes when a node is reopened.
#[derive(Debug)]
pub(crate) struct State {
    /// The driver.
    pub(crate) driver: Box<dyn Driver>,
    /// What the user said about the node.
    pub(crate) flags: NodeFlags,
    /// What it was opened with, for nodes that can be reopened.
    pub(crate) opened: Option<Opened>,
}

/// A driver in the graph: see the module documentation.
#[derive(Debug)]
pub struct Node {
    state: ArcSwap<State>,
    name: NodeName,
    /// What the parent does with it, and lets others do.
    perms: Mutex<Perms>,
    inflight: InFlight,
    pool: Pool,
    /// Something was written since the last flush.
    written: AtomicBool,
}

impl Node {
    /// Puts `driver` into a node.
    pub fn new(driver: Box<dyn Driver>, name: NodeName, flags: NodeFlags) -> Arc<Self> {
        Self::with_state(State { driver, flags, opened: None }, name)
    }

    pub(crate) fn with_state(state: State, name: NodeName) -> Arc<Self> {
        let state = ArcSwap::from_pointee(state);
        let perms = Mutex::new(Perms { own: Perm::empty(), shared: Perm::all() });
        Arc::new(Node {
            state,
            name,
            perms,
            inflight: InFlight::default(),
            pool: Pool::new(),
            written: AtomicBool::new(false),
        })
    }

    /// What holds until the node is reopened; requests that began before may go on with what they have.
    pub(crate) fn state(&self) -> Guard<Arc<State>> {
        self.state.load()
    }

    /// Replaces the driver.
    pub(crate) fn replace(&self, state: State) {
        self.state.store(Arc::new(state));
    }

    /// What was permitted last.
    pub(crate) fn perms(&self) -> Perms {
        *self.perms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How this node is called.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Whether the node was opened without the right to write.
    pub fn is_read_only(&self) -> bool {
        self.state().flags.read_only
    }

    /// Whether nobody named the format, so that probing chose it.
    pub fn is_guessed(&self) -> bool {
        self.state().flags.guessed
    }

    /// Length in bytes, a multiple of [`SECTOR`].
    ///
    /// # Errors
    /// The driver's.
    pub fn len(&self) -> Result<u64> {
        Ok(self.state().driver.len()?.next_multiple_of(SECTOR))
    }

    /// What the driver can do.
    pub fn limits(&self) -> Limits {
        self.state().driver.limits()
    }

    /// The nodes below.
    pub fn children(&self) -> Arc<[Child]> {
        self.state().driver.children()
    }

    /// The node below in the given role, such as `file`.
    pub fn child(&self, role: &str) -> Option<Arc<Node>> {
        self.children().iter().find(|c| c.role() == role).map(|c| Arc::clone(c.node()))
    }

    /// This node or, where it is a filter, the first below it that is none.
    pub fn unfiltered(self: &Arc<Self>) -> Arc<Node> {
        let below = self.state().driver.filtered().map(|child| Arc::clone(child.node()));
        below.map_or_else(|| Arc::clone(self), |below| below.unfiltered())
    }

    /// The file whose directory relative names in this image begin in: the lowest one, as what is above may be called by
    /// a description, or by the name of a filter.
    pub fn base_name(&self) -> String {
        self.primary().map_or_else(|| self.name.filename.clone(), |below| below.base_name())
    }

    /// The next layer in the chain of images: the backing file of this node or of the one it filters.
    pub fn backing(self: &Arc<Self>) -> Option<Arc<Node>> {
        self.unfiltered().child("backing")
    }

    /// Takes and checks the permissions its parent wants; they replace those of an earlier call.
    ///
    /// # Errors
    /// Another process holds what is wanted, or wants what is not shared; a read-only node is to be written; or the last
    /// request unit is not whole, so that writing to it would need the right to grow.
    pub fn permit(&self, perms: Perms) -> Result<()> {
        let state = self.state();
        if state.flags.read_only && perms.own.intersects(Perm::WRITE | Perm::WRITE_UNCHANGED) {
            return Err(Error::new(Kind::ReadOnly, "Block node is read-only").with_errno(nix::libc::EPERM));
        }
        self.permit_for(&state, perms)
    }

    /// Like [`Node::permit`], for what this node is or will be.
    pub(crate) fn permit_for(&self, state: &State, mut perms: Perms) -> Result<()> {
        if state.flags.force_share {
            perms.shared = Perm::all();
        }
        let grows = perms.own.contains(Perm::RESIZE) || !perms.own.contains(Perm::WRITE);
        let align = u64::from(state.driver.limits().request_align);
        // Any length will do for units up to a sector; a drive without a disc has none.
        if !grows && align > SECTOR && !state.driver.len()?.next_multiple_of(SECTOR).is_multiple_of(align) {
            return Err(Error::invalid(
                "Cannot get 'write' permission without 'resize': Image size is not a multiple of request alignment",
            ));
        }
        state.driver.permit(perms)?;
        *self.perms.lock().unwrap_or_else(PoisonError::into_inner) = perms;
        Ok(())
    }

    /// What the format says about itself.
    pub fn info(&self) -> FormatInfo {
        self.state().driver.info()
    }

    /// Space used on disk in bytes, where known: the driver's own figure, or that of the nodes below without backing.
    pub fn allocated(&self) -> Option<u64> {
        self.state().driver.allocated().or_else(|| {
            let children = self.children();
            let below = children.iter().filter(|c| !UNCOUNTED.contains(&c.role()));
            below.map(|c| c.node().allocated()).reduce(|a, b| Some(a? + b?)).flatten()
        })
    }

    fn serve_read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let inside = usize::try_from(self.len()?.saturating_sub(at)).unwrap_or(usize::MAX);
        let body = to.split_to(inside);
        to.fill(0);
        if body.is_empty() {
            return Ok(());
        }
        let limits = self.limits();
        let cover = cover(at, body.len() as u64, &limits);
        let _guard = self.inflight.begin(cover, Mode::Plain);
        self.read_within(at, body, &limits)
    }

    /// Reads what lies inside the image; the caller has entered the range.
    fn read_within(&self, at: u64, to: IoVecMut<'_>, limits: &Limits) -> Result<()> {
        let exact = cover(at, to.len() as u64, limits) == (at..at + to.len() as u64);
        let fits = limits.request_align == 1 || to.count() <= MAX_BUFFERS;
        match exact && fits && to.is_aligned(limits.memory_align as usize) {
            true => self.read_aligned(at, to, limits),
            false => self.read_bounced(at, to, limits),
        }
    }

    fn read_aligned(&self, mut at: u64, mut to: IoVecMut<'_>, limits: &Limits) -> Result<()> {
        let max = max_transfer(limits, u64::MAX);
        while !to.is_empty() {
            let mut piece = to.split_to(usize::try_from(max).unwrap_or(usize::MAX));
            let len = piece.len() as u64;
            // The driver may take the vector apart.
            self.state().driver.read(at, &mut piece)?;
            at += len;
        }
        Ok(())
    }

    fn read_bounced(&self, mut at: u64, mut to: IoVecMut<'_>, limits: &Limits) -> Result<()> {
        let max = max_transfer(limits, BOUNCE);
        while !to.is_empty() {
            let start = at - at % u64::from(limits.request_align);
            let mut piece = to.split_to((max - (at - start)) as usize);
            let cover = cover(at, piece.len() as u64, limits);
            let mut bounce = self.pool.take((cover.end - cover.start) as usize);
            self.state().driver.read(cover.start, &mut IoVecMut::from(&mut *bounce))?;
            let skip = (at - cover.start) as usize;
            piece.copy_from_slice(&bounce[skip..skip + piece.len()]);
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn serve_write(&self, at: u64, from: &IoVec<'_>, mut flags: WriteFlags) -> Result<()> {
        let limits = self.limits();
        // Nothing, and inside a unit: not even what cannot be done is refused, as in QEMU.
        if from.is_empty() && !at.is_multiple_of(limits.request_align.into()) {
            return Ok(());
        }
        if self.detects_zeroes(from) {
            let range = at..at + from.len() as u64;
            return self.serve_zeroes(range, self.detected_flags(flags));
        }
        if self.state().flags.no_flush {
            flags -= WriteFlags::FUA;
        }
        let native = flags & limits.write_flags;
        if flags.contains(WriteFlags::COMPRESSED) && !native.contains(WriteFlags::COMPRESSED) {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        let then_flush = flags.contains(WriteFlags::FUA) && !native.contains(WriteFlags::FUA);
        if from.is_empty() {
            return self.finish_fua(then_flush);
        }
        self.noting_writes(|| {
            self.write_guarded(at, from, native, &limits)?;
            self.finish_fua(then_flush)
        })
    }

    /// Carries out a request that writes. It is noted when it is over: its own flush counts as one of earlier requests.
    fn noting_writes(&self, request: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = request();
        self.written.store(true, Ordering::Release);
        done
    }

    /// Writes with the range entered into the requests in flight; alone there if there is something to be merged.
    fn write_guarded(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags, limits: &Limits) -> Result<()> {
        let cover = cover(at, from.len() as u64, limits);
        let exact = cover == (at..at + from.len() as u64);
        let _guard = self.inflight.begin(cover, if exact { Mode::Plain } else { Mode::Serialising });
        match exact {
            true => self.write_aligned(at, from, flags, limits),
            false => self.read_modify_write(at, from, flags, limits),
        }
    }

    /// Whether what is written is to become a write of zeroes.
    fn detects_zeroes(&self, from: &IoVec<'_>) -> bool {
        self.state().flags.detect_zeroes != DetectZeroes::Off && from.parts().all(crate::buffer::is_zero)
    }

    /// Whether a write goes to the driver as it is: nobody looks for zeroes, and it is whole request units.
    fn goes_down_whole(&self, at: u64, len: u64, limits: &Limits) -> bool {
        self.state().flags.detect_zeroes == DetectZeroes::Off && cover(at, len, limits) == (at..at + len)
    }

    fn serve_placed(&self, at: u64, from: &IoVec<'_>, placed: &dyn Fn()) -> Result<()> {
        let limits = self.limits();
        let len = from.len() as u64;
        let plain = self.goes_down_whole(at, len, &limits)
            && from.is_aligned(limits.memory_align as usize)
            && (1..=max_transfer(&limits, u64::MAX)).contains(&len);
        if !plain {
            return self.serve_write(at, from, WriteFlags::empty());
        }
        let _guard = self.inflight.begin(at..at + len, Mode::Plain);
        self.noting_writes(|| self.announcing_write(|| self.state().driver.write_placed(at, from, placed)))
    }

    fn serve_copy(&self, at: u64, from: &Node, from_at: u64, len: u64) -> Result<()> {
        let limits = self.limits();
        let range = at..at + len;
        if !self.goes_down_whole(at, len, &limits) {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        let _guard = self.inflight.begin(range, Mode::Plain);
        self.noting_writes(|| self.state().driver.copy_in(at, from, from_at, len))
    }

    fn detected_flags(&self, flags: WriteFlags) -> ZeroFlags {
        let mut zero = ZeroFlags::empty();
        zero.set(ZeroFlags::FUA, flags.contains(WriteFlags::FUA));
        zero.set(ZeroFlags::MAY_UNMAP, self.state().flags.detect_zeroes == DetectZeroes::Unmap);
        zero
    }

    fn finish_fua(&self, wanted: bool) -> Result<()> {
        if wanted { self.flush(Level::Disk) } else { Ok(()) }
    }

    fn write_aligned(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags, limits: &Limits) -> Result<()> {
        self.announcing_write(|| self.write_pieces(at, from, flags, limits))
    }

    /// Carries out a write of whole units between the events that tell of it.
    fn announcing_write(&self, write: impl FnOnce() -> Result<()>) -> Result<()> {
        self.event(Event("pwritev"));
        let done = write();
        self.event(Event("pwritev_done"));
        done
    }

    fn write_pieces(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags, limits: &Limits) -> Result<()> {
        let fits = limits.request_align == 1 || from.count() <= MAX_BUFFERS;
        let aligned = fits && from.is_aligned(limits.memory_align as usize);
        let max = max_transfer(limits, if aligned { u64::MAX } else { BOUNCE });
        let mut done = 0;
        while done < from.len() {
            let piece = from.slice(done, usize::try_from(max).unwrap_or(usize::MAX));
            if aligned {
                self.state().driver.write(at + done as u64, &piece, flags)?;
            } else {
                let mut bounce = self.pool.take(piece.len());
                piece.copy_to_slice(&mut bounce);
                self.state().driver.write(at + done as u64, &IoVec::from(&*bounce), flags)?;
            }
            done += piece.len();
        }
        Ok(())
    }

    /// Completes an unaligned write with what is around it; the caller holds the whole range.
    fn read_modify_write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags, limits: &Limits) -> Result<()> {
        let align = u64::from(limits.request_align);
        let cover = cover(at, from.len() as u64, limits);
        let before = (at - cover.start) as usize;
        let after = (cover.end - at) as usize - from.len();
        let (head, tail);
        if cover.end - cover.start <= 2 * align {
            // Both ends in one read.
            head = self.read_around(&[(Edge::Head, before), (Edge::Tail, after)], cover)?;
            tail = None;
        } else {
            head = self.read_around(&[(Edge::Head, before)], cover.start..cover.start + align)?;
            tail = Some(self.read_around(&[(Edge::Tail, after)], cover.end - align..cover.end)?);
        }
        let tail = tail.as_deref().unwrap_or(&head);
        let mut whole = IoVec::new();
        whole.push(&head[..before]);
        from.parts().for_each(|part| whole.push(part));
        whole.push(&tail[tail.len() - after..]);
        self.write_aligned(at - before as u64, &whole, flags, limits)
    }

    /// Reads the units in which the ends of an unaligned write lie, each with the number of bytes that stay; nothing
    /// when that is none. Past the end are zeroes.
    fn read_around(&self, edges: &[(Edge, usize)], units: Range<u64>) -> Result<Pooled<'_>> {
        let edges = || edges.iter().filter(|(_, kept)| *kept > 0).map(|(edge, _)| edge);
        if edges().next().is_none() {
            return Ok(self.pool.take(0));
        }
        let align = u64::from(self.limits().request_align);
        let end = self.len()?.next_multiple_of(align);
        let mut bytes = self.pool.take((units.end - units.start) as usize);
        let inside = (end.saturating_sub(units.start) as usize).min(bytes.len());
        let (inside, outside) = bytes.split_at_mut(inside);
        outside.fill(0);
        edges().for_each(|edge| self.event(edge.before()));
        if !inside.is_empty() {
            self.state().driver.read(units.start, &mut IoVecMut::from(inside))?;
        }
        edges().for_each(|edge| self.event(edge.after()));
        Ok(bytes)
    }

    fn serve_zeroes(&self, range: Range<u64>, mut flags: ZeroFlags) -> Result<()> {
        flags.set(ZeroFlags::MAY_UNMAP, flags.contains(ZeroFlags::MAY_UNMAP) && self.state().flags.discard);
        let limits = self.limits();
        let native_fua = limits.write_flags.contains(WriteFlags::FUA);
        let passed_on = native_fua && !self.state().flags.no_flush;
        let native = if passed_on { flags } else { flags - ZeroFlags::FUA };
        // Nothing, but inside a unit: what is not whole units has to be written, as in QEMU.
        let inside = range.is_empty() && !range.start.is_multiple_of(limits.request_align.into());
        if inside && flags.contains(ZeroFlags::NO_FALLBACK) {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        let then_flush = flags.contains(ZeroFlags::FUA) && !native_fua && !range.is_empty();
        self.noting_writes(|| {
            split_at_granularity(range, limits.request_align).try_for_each(|piece| {
                let whole = cover(piece.start, piece.end - piece.start, &limits) == piece;
                match whole {
                    true => self.zero_units(piece, native, &limits),
                    false => self.zero_part(piece, native, &limits),
                }
            })?;
            self.finish_fua(then_flush)
        })
    }

    /// Zeroes a part of a request unit, which has to be read first.
    fn zero_part(&self, part: Range<u64>, flags: ZeroFlags, limits: &Limits) -> Result<()> {
        if flags.contains(ZeroFlags::NO_FALLBACK) {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        let zeroes = zeroes(part.end - part.start);
        self.write_guarded(part.start, &zeroes, sent_flags(flags), limits)
    }

    /// Zeroes whole request units.
    fn zero_units(&self, units: Range<u64>, flags: ZeroFlags, limits: &Limits) -> Result<()> {
        self.event(Event("pwritev_zero"));
        let unit = limits.request_align;
        let granularity =
            if limits.zero_granularity.is_multiple_of(unit) { limits.zero_granularity } else { unit };
        let done = split_at_granularity(units, granularity)
            .flat_map(|piece| chunks(piece, limits.max_zero))
            .try_for_each(|piece| self.zero_piece(piece, u64::from(granularity), flags, limits));
        self.event(Event("pwritev_done"));
        done
    }

    /// Zeroes within one unit of the granularity, or whole units. Of a part of a unit a driver may zero the whole where the
    /// rest reads as zeroes already: nobody may write to that rest meanwhile.
    fn zero_piece(&self, piece: Range<u64>, unit: u64, flags: ZeroFlags, limits: &Limits) -> Result<()> {
        let cover = piece.start - piece.start % unit..piece.end.next_multiple_of(unit);
        let mode = if cover == piece { Mode::Plain } else { Mode::Serialising };
        let guard = self.inflight.begin(cover, mode);
        match self.state().driver.write_zeroes(piece.clone(), flags) {
            Err(e) if e.kind() == Kind::Unsupported => {}
            done => return done,
        }
        drop(guard);
        if flags.contains(ZeroFlags::NO_FALLBACK) {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        self.send_zeroes(piece, flags, limits)
    }

    fn send_zeroes(&self, range: Range<u64>, flags: ZeroFlags, limits: &Limits) -> Result<()> {
        let most = (ZEROES.0.len() as u64).max(limits.request_align.into());
        chunks(range, Some(most)).try_for_each(|piece| {
            let _guard = self.inflight.begin(piece.clone(), Mode::Plain);
            self.write_pieces(piece.start, &zeroes(piece.end - piece.start), sent_flags(flags), limits)
        })
    }

    fn serve_discard(&self, range: Range<u64>) -> Result<()> {
        let limits = self.limits();
        let unit = if limits.discards_parts { 1 } else { limits.request_align };
        let align = u64::from(unit);
        let range = range.start.next_multiple_of(align)..range.end - range.end % align;
        if !self.state().flags.discard || range.is_empty() {
            return Ok(());
        }
        let _guard = self.inflight.begin(range.clone(), Mode::Plain);
        // Only a driver that limits discards cares where they are taken apart.
        let granularity = limits.max_discard.map_or(unit, |_| limits.discard_granularity);
        let mut pieces =
            split_at_granularity(range, granularity).flat_map(|piece| chunks(piece, limits.max_discard));
        self.noting_writes(|| pieces.try_for_each(|piece| self.discard_piece(piece)))
    }

    fn discard_piece(&self, piece: Range<u64>) -> Result<()> {
        match self.state().driver.discard(piece) {
            Err(e) if e.kind() == Kind::Unsupported => Ok(()),
            done => done,
        }
    }

    /// How far a flush goes that was asked for `level`.
    fn honoured(&self, level: Level) -> Level {
        if self.state().flags.no_flush { Level::Os } else { level }
    }

    fn serve_flush(&self, level: Level) -> Result<()> {
        let (state, below) = (self.state(), self.primary());
        let level = self.honoured(level);
        let tell = |event| below.iter().for_each(|node| node.event(Event(event)));
        tell("flush_to_os");
        if below.is_some() || level == Level::Os {
            state.driver.flush(Level::Os)?;
        }
        if level == Level::Os {
            return Ok(());
        }
        let written = self.written.swap(false, Ordering::AcqRel);
        if written {
            tell("flush_to_disk");
        }
        let flushed = state.driver.flush(Level::Disk);
        self.written.fetch_or(written && flushed.is_err(), Ordering::AcqRel);
        flushed
    }

    /// Whether there were requests to write, failed ones too, since the last flush to stable storage that did not fail.
    pub fn is_written(&self) -> bool {
        self.written.load(Ordering::Acquire)
    }

    fn serve_map(self: &Arc<Self>, at: u64, max: u64, want: Want) -> Result<Mapping> {
        let state = self.state();
        let driver = &*state.driver;
        let left = driver.len()?.next_multiple_of(SECTOR).saturating_sub(at);
        if left == 0 || max == 0 {
            return Ok(Mapping { eof: left == 0, ..Mapping::zero(max.max(1)) });
        }
        let mut limits = driver.limits();
        let unit = u64::from(limits.request_align);
        if driver.maps_below() {
            limits.request_align = 1;
        }
        let (start, mut mapping) = map_unit(driver, cover(at, max.min(left), &limits), at, want, unit)?;
        let skip = at - start;
        mapping.len = (mapping.len - skip).min(max.min(left));
        mapping.eof = mapping.len == left;
        if let Some(host) = &mut mapping.host {
            host.offset += skip;
            host.node.get_or_insert_with(|| Arc::clone(self));
        }
        if mapping.kind == MapKind::Hole {
            mapping.host = None;
        }
        Ok(mapping)
    }

    /// Where the room for the state of a machine begins, in bytes; 0 where there is none.
    pub fn vmstate_offset(&self) -> u64 {
        self.with_vmstate(|room| Ok(room.offset())).unwrap_or(0)
    }

    /// Reads the state of a machine, from `at` bytes into its room.
    ///
    /// # Errors
    /// A format without such room, or the driver's.
    pub fn read_vmstate(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        self.with_vmstate(|room| room.read(at, to))
    }

    /// Writes the state of a machine.
    ///
    /// # Errors
    /// As for [`Node::read_vmstate`].
    pub fn write_vmstate(&self, at: u64, from: &IoVec<'_>) -> Result<()> {
        self.with_vmstate(|room| room.write(at, from))
    }

    /// Applies `f` to the room of this driver or of the one below that stores the image.
    fn with_vmstate<T>(&self, f: impl FnOnce(&dyn VmState) -> Result<T>) -> Result<T> {
        match (self.state().driver.vmstate(), self.primary()) {
            (Some(room), _) => f(room),
            (None, Some(below)) => below.with_vmstate(f),
            (None, None) => Err(Error::from_errno(nix::libc::ENOTSUP)),
        }
    }

    /// Applies `f` to the breakpoints of the first driver from here down that has any.
    ///
    /// # Errors
    /// `ENOTSUP` where none has, or those of `f`.
    pub fn with_breakpoints<T>(&self, f: impl FnOnce(&dyn Breakpoints) -> Result<T>) -> Result<T> {
        match (self.state().driver.breakpoints(), self.primary()) {
            (Some(points), _) => f(points),
            (None, Some(below)) => below.with_breakpoints(f),
            (None, None) => Err(Error::from_errno(nix::libc::ENOTSUP)),
        }
    }

    /// The node below that holds the bytes of this one.
    pub fn primary(&self) -> Option<Arc<Node>> {
        PRIMARY.iter().find_map(|role| self.child(role))
    }

    fn serve_truncate(&self, to: Resize) -> Result<()> {
        let quiesced = self.drain();
        self.state().driver.truncate(&quiesced, to)
    }

    /// Whether the format has a consistency check.
    pub fn has_check(&self) -> bool {
        self.state().driver.check().is_some()
    }

    /// Checks the image with nothing else in flight, mending what `repair` allows; `report` is given a line for each
    /// finding.
    ///
    /// # Errors
    /// `Unsupported` where the format has no check; otherwise the check could not be done.
    pub fn check(&self, repair: Repair, report: &mut dyn FnMut(&str)) -> Result<CheckResult> {
        let state = self.state();
        let check = state
            .driver
            .check()
            .ok_or_else(|| Error::unsupported("This image format does not support checks"))?;
        check.check(&self.drain(), repair, report)
    }

    /// Waits for the requests in flight and keeps new ones out while the answer lives.
    pub fn drain(&self) -> Quiesced<'_> {
        Quiesced { _gate: self.inflight.drain() }
    }

    /// Announces a point that fault injection may be waiting for.
    pub fn event(&self, event: Event) {
        self.state().driver.event(event);
    }

    fn serve_close(&self) -> Result<()> {
        let children = self.children();
        // What is written last is what the lowest layers make durable.
        let level = if children.is_empty() { self.honoured(Level::Disk) } else { Level::Os };
        let flushed = if self.state().flags.read_only { Ok(()) } else { self.state().driver.flush(level) };
        let stored = if self.state().flags.read_only { Ok(()) } else { self.store_bitmaps() };
        // Closing tries again whatever a flush could not do, and says more about it.
        let mut result = stored.and(self.state().driver.close()).and(flushed);
        for child in children.iter() {
            result = result.and(child.node().close());
        }
        result
    }
}

/// The run that has the byte `at`, and where it starts. Requests are for whole units; a driver that answers in parts
/// of units is taken at its word and asked about the next part. Of the last unit of `unit` bytes, the end is what
/// its beginning is.
fn map_unit(
    driver: &dyn Driver,
    cover: Range<u64>,
    at: u64,
    want: Want,
    unit: u64,
) -> Result<(u64, Mapping)> {
    let mut start = cover.start;
    loop {
        let mut mapping = driver.map(start, cover.end - start, want)?;
        if start + mapping.len == driver.len()? {
            // What is left of the last unit cannot be asked for by itself: it is what its beginning is.
            mapping.len = (start + mapping.len).next_multiple_of(unit) - start;
        }
        if start + mapping.len > at {
            return Ok((start, mapping));
        }
        start += mapping.len.max(1);
    }
}

/// An end of an unaligned write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Head,
    Tail,
}

impl Edge {
    fn before(self) -> Event {
        Event(if self == Edge::Head { "pwritev_rmw_head" } else { "pwritev_rmw_tail" })
    }

    fn after(self) -> Event {
        Event(if self == Edge::Head { "pwritev_rmw_after_head" } else { "pwritev_rmw_after_tail" })
    }
}

/// So many zeroes.
fn zeroes(len: u64) -> IoVec<'static> {
    let mut vector = IoVec::new();
    for piece in chunks(0..len, Some(ZEROES.0.len() as u64)) {
        vector.push(&ZEROES.0[..(piece.end - piece.start) as usize]);
    }
    vector
}

/// How zeroes are sent that were to be written with these flags.
fn sent_flags(flags: ZeroFlags) -> WriteFlags {
    let mut write = WriteFlags::empty();
    write.set(WriteFlags::FUA, flags.contains(ZeroFlags::FUA));
    write
}

/// A range in pieces of at most `most` bytes.
fn chunks(range: Range<u64>, most: Option<u64>) -> impl Iterator<Item = Range<u64>> {
    let step = most.unwrap_or(u64::MAX).max(1);
    let mut at = range.start;
    std::iter::from_fn(move || {
        let piece = at..range.end.min(at.saturating_add(step));
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The smallest aligned range that covers `len` bytes at `at`.
fn cover(at: u64, len: u64, limits: &Limits) -> Range<u64> {
    let align = u64::from(limits.request_align);
    let end = at + len;
    at - at % align..end.checked_next_multiple_of(align).unwrap_or(end)
}

/// The longest request, a multiple of the request alignment and at most `cap` (if that is not shorter than one unit).
fn max_transfer(limits: &Limits, cap: u64) -> u64 {
    let align = u64::from(limits.request_align);
    let max = limits.max_transfer.unwrap_or(u64::MAX).min(cap);
    (max - max % align).max(align)
}

/// A range as head, aligned middle and tail; empty pieces left out.
fn split_at_granularity(range: Range<u64>, granularity: u32) -> impl Iterator<Item = Range<u64>> {
    let unit = u64::from(granularity.max(1));
    let first = range.start.checked_next_multiple_of(unit).unwrap_or(range.end).min(range.end);
    let last = (range.end - range.end % unit).max(first);
    [range.start..first, first..last, last..range.end].into_iter().filter(|r| !r.is_empty())
}

mod copying;
#[cfg(test)]
mod tests;
