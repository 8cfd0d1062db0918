//! Requests over one connection, from any number of threads.
//!
//! A caller sends its request under the output lock and then waits for the reply. There is no reader thread: of those
//! who wait, one has the reading role. It reads the next header; when that is for somebody else, the role goes to them,
//! so that every payload is read straight into the buffer of whoever asked for it, and a lone caller never waits for
//! another thread.
//!
//! Invariant: the role is held by exactly one thread from the moment `reading` is set until it is cleared or handed on
//! as a [`Slot::Turn`].

use super::super::wire::{
    Chunk, CommandFlags, Fields, Headers, ReplyHeader, Request, chunk, command, errno_from_wire,
};
use super::ExportInfo;
use crate::channel::{Transport, read_exact, write_all};
use crate::{Error, IoVec, IoVecMut, Kind};
use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

/// How much is read at once, in bytes.
const INPUT: usize = 16 << 10;

/// The longest payload that is no data: extents or an error text, in bytes.
const MAX_SMALL: u64 = 4 << 20;

/// Why a request failed.
#[derive(Debug)]
pub enum Failure {
    /// The server said no.
    Refused(Error),
    /// The connection is gone; the request may have been done or not.
    Lost,
}

/// Where a reply goes.
#[derive(Debug)]
pub enum Sink<'a, 'b> {
    /// Nothing but success is expected.
    Nothing,
    /// Data.
    Data(&'a mut IoVecMut<'b>),
    /// Extents of the context with this id.
    Extents(u32, &'a mut Vec<(u64, u64)>),
}

impl<'b> Sink<'_, 'b> {
    /// The same place once more, emptied of what an earlier attempt left.
    pub fn again(&mut self) -> Sink<'_, 'b> {
        match self {
            Sink::Nothing => Sink::Nothing,
            Sink::Data(to) => Sink::Data(to),
            Sink::Extents(id, list) => {
                list.clear();
                Sink::Extents(*id, list)
            }
        }
    }
}

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Connection {
    transport: Arc<dyn Transport>,
    /// What was agreed on.
    pub info: ExportInfo,
    output: Mutex<()>,
    input: Mutex<Input>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    slots: HashMap<u64, Slot>,
    next: u64,
    reading: bool,
    dead: bool,
}

#[derive(Debug)]
enum Slot {
    /// Its thread waits, or is about to.
    Waiting(Thread),
    /// Its thread has the reading role, and this header is for it.
    Turn(ReplyHeader),
}

#[derive(Debug)]
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// A request with what it needs on the way.
struct Pending<'r, 'a, 'b> {
    request: &'r Request,
    sink: Sink<'a, 'b>,
    /// Bytes of data received.
    received: u64,
    /// What the server complained about so far.
    error: Option<Error>,
}

impl Connection {
    /// Takes over a transport on which `info` was negotiated.
    pub fn new(transport: Arc<dyn Transport>, info: ExportInfo) -> Self {
        Connection {
            transport,
            info,
            output: Mutex::new(()),
            input: Mutex::new(Input { buffer: vec![0; INPUT], start: 0, end: 0 }),
            state: Mutex::new(State { slots: HashMap::new(), next: 1, reading: false, dead: false }),
        }
    }

    /// Whether requests have a chance.
    pub fn is_alive(&self) -> bool {
        !lock(&self.state).dead
    }

    /// Sends a request (its cookie is chosen here) and waits for the reply.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn call(&self, mut request: Request, payload: &IoVec<'_>, sink: Sink<'_, '_>) -> Result<(), Failure> {
        request.cookie = self.enter()?;
        if self.info.headers == Headers::Extended && request.command == command::WRITE {
            request.flags |= CommandFlags::PAYLOAD_LEN;
        }
        if self.send(&request, payload).is_err() {
            self.die();
        }
        let mut pending = Pending { request: &request, sink, received: 0, error: None };
        let done = self.wait(&mut pending);
        lock(&self.state).slots.remove(&request.cookie);
        done?;
        match pending.error {
            Some(error) => Err(Failure::Refused(error)),
            None => Ok(()),
        }
    }

    /// Says goodbye.
    pub fn disconnect(&self) {
        let request =
            Request { flags: CommandFlags::empty(), command: command::DISC, cookie: 0, offset: 0, length: 0 };
        // The server notices anyway.
        let _ = self.send(&request, &IoVec::new());
        self.die();
    }

    fn enter(&self) -> Result<u64, Failure> {
        let mut state = lock(&self.state);
        if state.dead {
            return Err(Failure::Lost);
        }
        let cookie = state.next;
        state.next += 1;
        state.slots.insert(cookie, Slot::Waiting(thread::current()));
        Ok(cookie)
    }

    fn send(&self, request: &Request, payload: &IoVec<'_>) -> io::Result<()> {
        let mut header = Vec::with_capacity(32);
        request.encode(self.info.headers, &mut header);
        let mut message = IoVec::from(&header[..]);
        payload.parts().for_each(|part| message.push(part));
        let _turn = lock(&self.output);
        write_all(&*self.transport, &message, || Ok(()))
    }

    /// Nothing comes any more: everybody who waits is told.
    fn die(&self) {
        let mut state = lock(&self.state);
        if !state.dead {
            state.dead = true;
            self.transport.shutdown(Shutdown::Both);
        }
        for slot in state.slots.values() {
            if let Slot::Waiting(thread) = slot {
                thread.unpark();
            }
        }
    }

    fn wait(&self, pending: &mut Pending<'_, '_, '_>) -> Result<(), Failure> {
        loop {
            match self.next_turn(pending.request.cookie)? {
                Turn::Park => thread::park(),
                Turn::Read => {
                    if self.read_role(None, pending)? {
                        return Ok(());
                    }
                }
                Turn::Header(header) => {
                    if self.read_role(Some(header), pending)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn next_turn(&self, cookie: u64) -> Result<Turn, Failure> {
        let mut state = lock(&self.state);
        if state.dead {
            return Err(Failure::Lost);
        }
        let slot = state.slots.get_mut(&cookie).expect("a caller's slot stays until it returns");
        if let Slot::Turn(header) = *slot {
            *slot = Slot::Waiting(thread::current());
            return Ok(Turn::Header(header));
        }
        if state.reading {
            return Ok(Turn::Park);
        }
        state.reading = true;
        Ok(Turn::Read)
    }

    /// Reads while holding the role: `true` when this request is done, `false` when the role went to somebody else.
    fn read_role(
        &self,
        first: Option<ReplyHeader>,
        pending: &mut Pending<'_, '_, '_>,
    ) -> Result<bool, Failure> {
        match self.read_until(first, pending) {
            Ok(true) => {
                self.give_up_role(pending.request.cookie);
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(_) => {
                self.die();
                Err(Failure::Lost)
            }
        }
    }

    fn read_until(&self, first: Option<ReplyHeader>, pending: &mut Pending<'_, '_, '_>) -> io::Result<bool> {
        let mut input = lock(&self.input);
        let mut header = first;
        loop {
            let next = match header.take() {
                Some(header) => header,
                None => self.read_header(&mut input)?,
            };
            let cookie = match next {
                ReplyHeader::Simple { cookie, .. } => cookie,
                ReplyHeader::Chunk(chunk) => chunk.cookie,
            };
            if cookie != pending.request.cookie {
                // Before anybody else may read.
                drop(input);
                self.hand_on(cookie, next)?;
                return Ok(false);
            }
            if self.take_reply(&mut input, next, pending)? {
                return Ok(true);
            }
        }
    }

    fn hand_on(&self, cookie: u64, header: ReplyHeader) -> io::Result<()> {
        let mut state = lock(&self.state);
        let slot = state.slots.get_mut(&cookie).ok_or_else(|| broken("a reply to nothing"))?;
        if let Slot::Waiting(thread) = std::mem::replace(slot, Slot::Turn(header)) {
            thread.unpark();
        }
        Ok(())
    }

    /// Ends the role together with the request: a second reply to it would be handed to a slot nobody looks at.
    fn give_up_role(&self, cookie: u64) {
        let mut state = lock(&self.state);
        state.slots.remove(&cookie);
        state.reading = false;
        let waiting = state.slots.values().find_map(|slot| match slot {
            Slot::Waiting(thread) => Some(thread),
            Slot::Turn(_) => None,
        });
        if let Some(thread) = waiting {
            thread.unpark();
        }
    }

    fn read_header(&self, input: &mut Input) -> io::Result<ReplyHeader> {
        input.need(&*self.transport, 4)?;
        let magic = Fields(&input.buffer[input.start..]).u32().unwrap_or_default();
        let size = ReplyHeader::size(self.info.headers, magic).ok_or_else(|| broken("bad reply magic"))?;
        input.need(&*self.transport, size)?;
        let bytes = &input.buffer[input.start..input.start + size];
        let header = ReplyHeader::decode(bytes).ok_or_else(|| broken("bad reply header"))?;
        input.start += size;
        Ok(header)
    }

    /// Takes what belongs to a header; `true` at the end of the reply.
    fn take_reply(
        &self,
        input: &mut Input,
        header: ReplyHeader,
        pending: &mut Pending<'_, '_, '_>,
    ) -> io::Result<bool> {
        match header {
            ReplyHeader::Simple { error, .. } => self.take_simple(input, error, pending).map(|()| true),
            ReplyHeader::Chunk(chunk) => {
                self.take_chunk(input, &chunk, pending)?;
                if chunk.done && pending.error.is_none() {
                    pending.check_complete()?;
                }
                Ok(chunk.done)
            }
        }
    }

    fn take_simple(
        &self,
        input: &mut Input,
        error: u32,
        pending: &mut Pending<'_, '_, '_>,
    ) -> io::Result<()> {
        if error != 0 {
            pending.error = Some(Error::from_errno(errno_from_wire(error)));
            return Ok(());
        }
        match &mut pending.sink {
            Sink::Nothing => Ok(()),
            Sink::Data(to) if self.info.headers == Headers::Simple => input.read(&*self.transport, to),
            _ => Err(broken("a simple reply where a structured one is due")),
        }
    }

    fn take_chunk(
        &self,
        input: &mut Input,
        header: &Chunk,
        pending: &mut Pending<'_, '_, '_>,
    ) -> io::Result<()> {
        let transport = &*self.transport;
        match (header.kind, &mut pending.sink) {
            (chunk::NONE, _) if header.length == 0 && header.done => Ok(()),
            (chunk::OFFSET_DATA, Sink::Data(to)) if header.length > 8 => {
                let at = input.u64(transport)?;
                let len = header.length - 8;
                let mut part = part(to, pending.request, at, len)?;
                pending.received += len;
                input.read(transport, &mut part)
            }
            (chunk::OFFSET_HOLE, Sink::Data(to)) if header.length == 12 => {
                let at = input.u64(transport)?;
                let len = input.small(transport, 4)?;
                let len = Fields(&len).u32().unwrap_or_default().into();
                part(to, pending.request, at, len)?.fill(0);
                pending.received += len;
                Ok(())
            }
            (chunk::BLOCK_STATUS, Sink::Extents(id, list)) => {
                let payload = input.small(transport, header.length)?;
                take_extents(&payload, *id, list)
            }
            (chunk::BLOCK_STATUS_EXT, Sink::Extents(id, list)) => {
                let payload = input.small(transport, header.length)?;
                take_long_extents(&payload, *id, list)
            }
            (kind, _) if kind & chunk::ERROR_BIT != 0 => {
                let payload = input.small(transport, header.length)?;
                let code = Fields(&payload).u32().unwrap_or_default();
                pending.error = Some(Error::from_errno(errno_from_wire(code)));
                Ok(())
            }
            _ => Err(broken("unexpected chunk")),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.transport.shutdown(Shutdown::Both);
    }
}

/// What a waiting caller does next.
enum Turn {
    Park,
    Read,
    Header(ReplyHeader),
}

impl Pending<'_, '_, '_> {
    /// A server that leaves out part of the data would leave old bytes in the buffer.
    fn check_complete(&self) -> io::Result<()> {
        match &self.sink {
            Sink::Data(to) if self.received != to.len() as u64 => Err(broken("incomplete data")),
            Sink::Extents(_, list) if list.is_empty() => Err(broken("no extents")),
            _ => Ok(()),
        }
    }
}

/// The part of the destination that `len` bytes at `at` of the export go to.
fn part<'x>(to: &'x mut IoVecMut<'_>, request: &Request, at: u64, len: u64) -> io::Result<IoVecMut<'x>> {
    let skip = at
        .checked_sub(request.offset)
        .filter(|skip| skip.checked_add(len).is_some_and(|end| end <= request.length));
    let skip = skip.ok_or_else(|| broken("data outside the request"))?;
    let mut rest = to.reborrow();
    rest.split_to(skip as usize);
    Ok(rest.split_to(len as usize))
}

fn take_extents(payload: &[u8], id: u32, list: &mut Vec<(u64, u64)>) -> io::Result<()> {
    let mut fields = Fields(payload);
    if fields.u32() != Some(id) || fields.0.is_empty() || !fields.0.len().is_multiple_of(8) {
        return Err(broken("malformed extents"));
    }
    while let (Some(len), Some(flags)) = (fields.u32(), fields.u32()) {
        list.push((len.into(), flags.into()));
    }
    Ok(())
}

fn take_long_extents(payload: &[u8], id: u32, list: &mut Vec<(u64, u64)>) -> io::Result<()> {
    let mut fields = Fields(payload);
    let (found, count) = (fields.u32(), fields.u32());
    if found != Some(id) || fields.0.is_empty() || count.map(|n| n as usize * 16) != Some(fields.0.len()) {
        return Err(broken("malformed extents"));
    }
    while let (Some(len), Some(flags)) = (fields.u64(), fields.u64()) {
        list.push((len, flags));
    }
    Ok(())
}

impl Input {
    /// Makes sure that `n` bytes (few) are in the buffer.
    fn need(&mut self, transport: &dyn Transport, n: usize) -> io::Result<()> {
        while self.end - self.start < n {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            match transport.read(&mut [IoSliceMut::new(&mut self.buffer[self.end..])]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.end += n,
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn u64(&mut self, transport: &dyn Transport) -> io::Result<u64> {
        self.need(transport, 8)?;
        let value = Fields(&self.buffer[self.start..]).u64().unwrap_or_default();
        self.start += 8;
        Ok(value)
    }

    /// A payload that is no data.
    fn small(&mut self, transport: &dyn Transport, len: u64) -> io::Result<Vec<u8>> {
        if len > MAX_SMALL {
            return Err(broken("payload too long"));
        }
        let mut bytes = vec![0; len as usize];
        self.read(transport, &mut IoVecMut::from(&mut bytes[..]))?;
        Ok(bytes)
    }

    /// Fills `to` from the buffer and then from the transport.
    fn read(&mut self, transport: &dyn Transport, to: &mut IoVecMut<'_>) -> io::Result<()> {
        let mut to = to.reborrow();
        let ready = to.len().min(self.end - self.start);
        to.split_to(ready).copy_from_slice(&self.buffer[self.start..self.start + ready]);
        self.start += ready;
        read_exact(transport, &mut to, || Ok(()))
    }
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => error,
            Failure::Lost => Error::new(Kind::Io, "Connection closed").with_errno(nix::libc::EIO),
        }
    }
}
