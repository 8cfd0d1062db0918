//! Requests on an export, as a driver.

use super::link::Link;
use crate::nbd::client::Sink;
use crate::nbd::wire::{
    CommandFlags, Headers, MAX_PAYLOAD, Request, STATE_HOLE, STATE_ZERO, TransmissionFlags, command,
};
use crate::{
    Driver, Error, IoVec, IoVecMut, Kind, Level, Limits, MapKind, Mapping, Quiesced, Resize, Result, Want,
    WriteFlags, ZeroFlags,
};
use std::ops::Range;

/// Lengths in compact requests are below this, and aligned for every server.
const COMPACT_MAX: u64 = 1 << 31;

/// An export of a server.
#[derive(Debug)]
struct NbdDriver {
    link: Link,
    size: u64,
    /// Alignment of requests in bytes.
    align: u32,
    /// The longest payload in bytes.
    max_transfer: u64,
}

pub(super) fn open(link: Link, needs_context: bool, writable: bool) -> Result<Box<dyn Driver>> {
    let info = link.info();
    if writable && info.flags.contains(TransmissionFlags::READ_ONLY) {
        let text = "request on denied for read-only export";
        return Err(Error::new(Kind::ReadOnly, text).with_errno(nix::libc::EACCES));
    }
    if needs_context && info.contexts.is_empty() {
        return Err(Error::invalid("requested x-dirty-bitmap not found"));
    }
    let [align, _, max] = info.block_sizes.unwrap_or([1, 4096, MAX_PAYLOAD]);
    let max_transfer = u64::from(max.min(MAX_PAYLOAD));
    let max_transfer = (max_transfer - max_transfer % u64::from(align)).max(align.into());
    let size = info.size;
    Ok(Box::new(NbdDriver { link, size, align, max_transfer }))
}

impl NbdDriver {
    fn has(&self, flags: TransmissionFlags) -> bool {
        self.link.info().flags.contains(flags)
    }

    fn request(
        &self,
        command: u16,
        flags: CommandFlags,
        range: &Range<u64>,
        sink: &mut Sink<'_, '_>,
    ) -> Result<()> {
        self.request_with(command, flags, range, &IoVec::new(), sink)
    }

    fn request_with(
        &self,
        command: u16,
        flags: CommandFlags,
        range: &Range<u64>,
        payload: &IoVec<'_>,
        sink: &mut Sink<'_, '_>,
    ) -> Result<()> {
        let request =
            Request { flags, command, cookie: 0, offset: range.start, length: range.end - range.start };
        self.link.run(|connection| connection.call(request, payload, sink.again()))
    }

    /// Does a request without payload piece by piece, each at most `max` bytes long.
    fn in_pieces(&self, command: u16, flags: CommandFlags, range: Range<u64>, max: u64) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at.saturating_add(max));
            self.request(command, flags, &(at..end), &mut Sink::Nothing)?;
            at = end;
        }
        Ok(())
    }

    /// The longest request without payload, in bytes.
    fn max_effect(&self) -> u64 {
        match self.link.info().headers {
            Headers::Extended => u64::MAX,
            _ => COMPACT_MAX,
        }
    }

    fn wrote(&self, fua: bool) {
        if !fua {
            self.link.wrote();
        }
    }
}

impl Driver for NbdDriver {
    fn len(&self) -> Result<u64> {
        Ok(self.size)
    }

    fn limits(&self) -> Limits {
        let mut write_flags = WriteFlags::empty();
        write_flags.set(WriteFlags::FUA, self.has(TransmissionFlags::SEND_FUA));
        Limits {
            request_align: self.align,
            max_transfer: Some(self.max_transfer),
            write_flags,
            ..Limits::default()
        }
    }

    fn map(&self, at: u64, max: u64, _want: Want) -> Result<Mapping> {
        let Some((id, _)) = self.link.info().contexts.first().cloned() else {
            return Ok(Mapping::data(max).at(None, at));
        };
        let end = self.size.max(at + 1).min(at.saturating_add(max.min(self.max_effect() - 1)));
        if at >= self.size {
            return Ok(Mapping::zero(max));
        }
        let mut extents = Vec::new();
        let mut sink = Sink::Extents(id, &mut extents);
        self.request(command::BLOCK_STATUS, CommandFlags::REQ_ONE, &(at..end), &mut sink)?;
        let (len, flags) = extents.first().copied().unwrap_or((end - at, 0));
        if len == 0 {
            return Err(Error::from_errno(nix::libc::EIO));
        }
        Ok(mapping(len.min(max), flags).at(None, at))
    }

    fn read(&self, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        // The last sector of the node may be longer than what the server has.
        let inside = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut to = to.reborrow();
        let mut body = to.split_to(inside);
        to.fill(0);
        if body.is_empty() {
            return Ok(());
        }
        let range = at..at + body.len() as u64;
        self.request(command::READ, CommandFlags::empty(), &range, &mut Sink::Data(&mut body))
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        let fua = flags.contains(WriteFlags::FUA);
        let wire = if fua { CommandFlags::FUA } else { CommandFlags::empty() };
        let range = at..at + from.len() as u64;
        self.request_with(command::WRITE, wire, &range, from, &mut Sink::Nothing)?;
        self.wrote(fua);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let fast = flags.contains(ZeroFlags::NO_FALLBACK);
        if !self.has(TransmissionFlags::SEND_WRITE_ZEROES)
            || (fast && !self.has(TransmissionFlags::SEND_FAST_ZERO))
        {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        let fua = flags.contains(ZeroFlags::FUA);
        let mut wire = CommandFlags::empty();
        wire.set(CommandFlags::FUA, fua);
        wire.set(CommandFlags::NO_HOLE, !flags.contains(ZeroFlags::MAY_UNMAP));
        wire.set(CommandFlags::FAST_ZERO, fast);
        // Servers before extended headers may take the payload limit for one of zeroes too.
        let max = if self.link.info().headers == Headers::Extended { u64::MAX } else { self.max_transfer };
        self.in_pieces(command::WRITE_ZEROES, wire, range, max)?;
        self.wrote(fua);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        if !self.has(TransmissionFlags::SEND_TRIM) {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        self.in_pieces(command::TRIM, CommandFlags::empty(), range, self.max_effect())?;
        self.wrote(false);
        Ok(())
    }

    fn flush(&self, level: Level) -> Result<()> {
        if level == Level::Os || !self.has(TransmissionFlags::SEND_FLUSH) {
            return Ok(());
        }
        let request = Request {
            flags: CommandFlags::empty(),
            command: command::FLUSH,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        self.link.flush(|connection| connection.call(request, &IoVec::new(), Sink::Nothing))
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        match to.size {
            size if size == self.size => Ok(()),
            size if size > self.size => Err(Error::invalid("Cannot grow NBD nodes")),
            _ if !to.exact => Ok(()),
            _ => Err(Error::unsupported("Cannot resize NBD nodes")),
        }
    }

    fn close(&self) -> Result<()> {
        self.link.close();
        Ok(())
    }
}

/// What the flags of `base:allocation` say, or those of another context taken for it.
fn mapping(len: u64, flags: u64) -> Mapping {
    let kind = match (flags & STATE_HOLE != 0, flags & STATE_ZERO != 0) {
        (false, false) => MapKind::Data,
        (false, true) => MapKind::ZeroData,
        (true, false) => MapKind::Hole,
        (true, true) => MapKind::Zero,
    };
    Mapping { kind, ..Mapping::data(len) }
}
