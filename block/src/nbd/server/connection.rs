//! The transmission phase with one client: a pool of threads that take turns.
//!
//! A thread takes the input lock, reads one request (or a few short ones that came together), hands the lock on, executes
//! what it has, takes the output lock and replies with one vectored write. The pool starts with one thread and grows when
//! all are busy and more input is there, as far as [`Pace`] thinks threads are of use; those that are not leave. A
//! thread that finds the end of the input leaves, and so do the others; the last one out closes.

use super::super::wire::{CommandFlags, Headers, MAX_PAYLOAD, Request, command, wire_error};
use super::Session;
use super::batch::{self, Batch};
use super::budget::Budget;
use super::pace::{Lookouts, Pace, comes_soon};
use super::reply::Reply;
use super::request::{Operation, Refusal, ValidRequest, Zeroes, payload_len, validate};
use super::status;
use crate::buffer::{Buffer, Pool};
use crate::channel::{Transport, read_exact, write_all};
use crate::extents::Extents;
use crate::{Error, IoVec, IoVecMut, Result, Want, WriteFlags, ZeroFlags};
use std::any::Any;
use std::io::{self, IoSliceMut};
use std::net::Shutdown;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How much input is read at once, in bytes: a whole batch of requests of 4 KiB with their payloads.
const INPUT: usize = 36 << 10;

/// The buffer each thread keeps, in bytes. Requests that need more take what all connections share: there may be many
/// threads, and what they keep is not in the budget.
const OWN_BUFFER: usize = 64 << 10;

/// How much is read ahead at once, in bytes.
const READ_AHEAD: usize = 1 << 20;

/// Reads at least this long look for holes first, in bytes: for shorter ones it would cost more than it saves.
const HOLES_FROM: u64 = 64 << 10;

/// What the connections of a server have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) budget: Budget,
    /// Buffers for long requests, each taken under a lease of the budget.
    pub(super) buffers: Pool,
    pub(super) lookouts: Lookouts,
    /// No further requests are read.
    pub(super) stopping: AtomicBool,
    /// The most threads for one connection.
    pub(super) max_threads: usize,
    /// The most while requests are quick.
    pub(super) quick_threads: usize,
}

/// A client in the transmission phase.
#[derive(Debug)]
pub(super) struct Connection {
    session: Session,
    transport: Arc<dyn Transport>,
    shared: Arc<Shared>,
    input: Mutex<Input>,
    output: Mutex<()>,
    threads: AtomicUsize,
    /// Threads that wait for the input lock.
    waiting: AtomicUsize,
    pace: Pace,
    /// Answers reach nobody any more: what has been asked and not begun is dropped.
    broken: AtomicBool,
    /// Data known to be stored without holes: a later read inside need not ask again. It may become stale only by
    /// turning into zeroes, and then reading it is still right.
    data_run: Mutex<Range<u64>>,
    /// Dropped when the last thread leaves.
    _client: Box<dyn Any + Send + Sync>,
}

/// What came from the client and was not used yet.
#[derive(Debug)]
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The client did not let us wait for its last request.
    soon: bool,
    /// Nothing more is to be read.
    ended: bool,
}

/// What a thread keeps from one turn to the next.
struct Worker {
    /// The data of one request, unless it is long.
    buffer: Buffer,
    /// The requests of a batch.
    batch: Vec<u8>,
    /// Their answers.
    answers: Vec<u8>,
}

/// A request as it came.
struct Received {
    request: Request,
    verdict: Result<ValidRequest, Refusal>,
    /// The payload of a write: this much of the thread's buffer.
    payload: usize,
}

impl Connection {
    /// Serves the client on a thread of its own (and more). `early` is input that came with the negotiation; `client` is
    /// dropped at the end.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(
        session: Session,
        early: Vec<u8>,
        transport: Arc<dyn Transport>,
        shared: Arc<Shared>,
        client: Box<dyn Any + Send + Sync>,
    ) -> io::Result<()> {
        let mut buffer = early;
        let end = buffer.len();
        buffer.resize(end.max(INPUT), 0);
        let connection = Arc::new(Connection {
            session,
            transport,
            shared,
            input: Mutex::new(Input { buffer, start: 0, end, soon: false, ended: false }),
            output: Mutex::new(()),
            threads: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            pace: Pace::default(),
            broken: AtomicBool::new(false),
            data_run: Mutex::new(0..0),
            _client: client,
        });
        connection.spawn()
    }

    fn spawn(self: &Arc<Self>) -> io::Result<()> {
        let connection = Arc::clone(self);
        self.threads.fetch_add(1, Ordering::Relaxed);
        let started = std::thread::Builder::new().name("nbd".into()).spawn(move || connection.work());
        if started.is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    fn work(self: Arc<Self>) {
        let mut worker =
            Worker { buffer: Buffer::zeroed(OWN_BUFFER), batch: Vec::new(), answers: Vec::new() };
        while !self.retire() {
            self.waiting.fetch_add(1, Ordering::AcqRel);
            let input = lock(&self.input);
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            if self.turn(input, &mut worker).is_none() {
                if self.threads.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.transport.shutdown(Shutdown::Both);
                }
                return;
            }
        }
    }

    /// Whether this thread is one too many, and counted out. One always stays.
    fn retire(&self) -> bool {
        let limit = self.useful_threads();
        let fewer = |threads: usize| (threads > limit).then(|| threads - 1);
        self.threads.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok()
    }

    /// How many threads are of use at the moment; one at least.
    fn useful_threads(&self) -> usize {
        let quick = self.pace.is_quick();
        if quick { self.shared.quick_threads } else { self.shared.max_threads }.max(1)
    }

    /// One request or one batch, from reading to replying; `None` at the end.
    fn turn(self: &Arc<Self>, mut input: MutexGuard<'_, Input>, worker: &mut Worker) -> Option<()> {
        self.await_header(&mut input)?;
        if self.pace.is_quick() {
            let batch = batch::find(self.session.headers, input.unused());
            if batch.count > 1 {
                return self.batch_turn(&batch, input, worker);
            }
        }
        let header = self.next_header(&mut input)?;
        let held = held(self.session.headers, &header);
        // Given back when the buffer is.
        let _lease = self.shared.budget.take(held as u64 + self.described(&header));
        if self.broken.load(Ordering::Acquire) {
            return input.end();
        }
        let mut long;
        let buffer = match held <= OWN_BUFFER {
            true => &mut worker.buffer[..],
            false => {
                long = self.shared.buffers.take(held);
                &mut long[..]
            }
        };
        let Ok(received) = self.receive(header, &mut input, buffer) else { return input.end() };
        if received.request.command == command::DISC {
            return input.end();
        }
        self.grow(&input);
        drop(input);
        if self.execute(received, buffer).is_err() {
            self.break_off();
        }
        Some(())
    }

    /// Gives the connection up. Whoever reads finds out at once.
    fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
        self.transport.shutdown(Shutdown::Both);
    }

    /// Executes a batch and answers it with one write.
    fn batch_turn(
        self: &Arc<Self>,
        batch: &Batch,
        mut input: MutexGuard<'_, Input>,
        worker: &mut Worker,
    ) -> Option<()> {
        let _lease = self.shared.budget.take(2 * batch.held);
        worker.batch.clear();
        worker.batch.extend_from_slice(&input.unused()[..batch.size]);
        input.start += batch.size;
        self.grow(&input);
        drop(input);
        worker.answers.clear();
        let begun = Instant::now();
        let mut rest = &worker.batch[..];
        while let Some((request, payload)) = batch::next(self.session.headers, rest) {
            self.answer(&request, payload, &mut worker.answers);
            rest = &rest[Request::size(self.session.headers) + payload.len()..];
        }
        self.pace.note(begun.elapsed(), batch.count);
        if self.send(&IoVec::from(&worker.answers[..])).is_err() {
            self.break_off();
        }
        Some(())
    }

    /// Executes a short read or write and appends the answer.
    fn answer(&self, request: &Request, payload: &[u8], out: &mut Vec<u8>) {
        let reply = self.reply_to(request);
        let start = out.len();
        let outcome = match validate(&self.session, request, payload) {
            Err(refusal) => return reply.error(refused_code(&refusal), &refusal.text, out),
            Ok(ValidRequest { operation: Operation::Read { .. }, range }) if range.is_empty() => {
                reply.nothing_read(out);
                Ok(())
            }
            Ok(ValidRequest { operation: Operation::Read { .. }, range }) => {
                reply.data(range.start, range.end - range.start, true, out);
                let data = out.len();
                out.resize(data + (range.end - range.start) as usize, 0);
                self.read_image(&range, &mut out[data..])
            }
            Ok(valid) => self.change(&valid, payload).map(|()| reply.ok(out)),
        };
        if let Err(e) = outcome {
            out.truncate(start);
            reply.error(wire_error(&e), &e.to_string(), out);
        }
    }

    /// Another thread, when nobody is left to take the next request and there is one.
    fn grow(self: &Arc<Self>, input: &Input) {
        let all_busy = self.waiting.load(Ordering::Acquire) == 0;
        if all_busy
            && self.threads.load(Ordering::Relaxed) < self.useful_threads()
            && (!input.unused().is_empty() || self.may_ask() && self.transport.is_readable())
        {
            // Without it the others go on.
            let _ = self.spawn();
        }
    }

    /// Whether asking the transport for more input is worth its time.
    fn may_ask(&self) -> bool {
        !self.pace.is_quick()
    }

    /// Waits for a whole header.
    fn await_header(&self, input: &mut Input) -> Option<()> {
        let size = Request::size(self.session.headers);
        let over = self.shared.stopping.load(Ordering::Acquire) || self.broken.load(Ordering::Acquire);
        if input.ended || over {
            return input.end();
        }
        while input.unused().len() < size {
            match self.fill(input) {
                Ok(0) => return input.end(),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                    if self.shared.stopping.load(Ordering::Acquire) {
                        return input.end();
                    }
                }
                Err(_) => return input.end(),
            }
        }
        Some(())
    }

    /// Reads more, without sleeping first where the client is quick and all others of the pool have nothing to do.
    fn fill(&self, input: &mut Input) -> io::Result<usize> {
        let idle = self.waiting.load(Ordering::Acquire) + 1 >= self.threads.load(Ordering::Relaxed);
        let begun = Instant::now();
        if input.soon && idle {
            self.shared.lookouts.look(|| self.transport.is_readable());
        }
        let filled = input.fill(&*self.transport);
        input.soon = comes_soon(begun.elapsed());
        filled
    }

    /// How many bytes the answer to a question about the state of blocks may take.
    fn described(&self, request: &Request) -> u64 {
        if request.command != command::BLOCK_STATUS || request.flags.contains(CommandFlags::REQ_ONE) {
            return 0;
        }
        // How much is asked about may be in the payload, which did not come yet.
        let length =
            if request.flags.contains(CommandFlags::PAYLOAD_LEN) { u64::MAX } else { request.length };
        let contexts = self.session.contexts.len() as u64;
        (contexts * status::answer_size(length)).min(MAX_PAYLOAD.into())
    }

    fn next_header(&self, input: &mut Input) -> Option<Request> {
        let size = Request::size(self.session.headers);
        let header = Request::decode(self.session.headers, &input.unused()[..size]);
        input.start += size;
        match header {
            Some(header) => Some(header),
            // Out of step: nothing that follows can be understood.
            None => input.end(),
        }
    }

    /// Reads the payload, if there is one, and judges the request.
    fn receive(&self, request: Request, input: &mut Input, buffer: &mut [u8]) -> io::Result<Received> {
        let len = payload_len(self.session.headers, &request);
        if len > MAX_PAYLOAD.into() {
            self.refuse_and_end(&request, input)?;
        }
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let by_payload = request.command == command::BLOCK_STATUS && len > 0;
        let judged_first = if by_payload { None } else { Some(validate(&self.session, &request, &[])) };
        // A write that is refused has its payload read all the same, to stay in step.
        self.read_payload(input, &mut buffer[..len])?;
        let verdict = judged_first.unwrap_or_else(|| validate(&self.session, &request, &buffer[..len]));
        Ok(Received { request, verdict, payload: len })
    }

    /// A payload too long to read: the client gets its answer, and that is all.
    fn refuse_and_end(&self, request: &Request, input: &mut Input) -> io::Result<()> {
        input.ended = true;
        let text = format!("len ({}) is larger than max len ({MAX_PAYLOAD})", request.length);
        let mut out = Vec::new();
        self.reply_to(request).error(nix::libc::EINVAL.unsigned_abs(), &text, &mut out);
        self.send(&IoVec::from(&out[..]))?;
        Err(io::ErrorKind::InvalidData.into())
    }

    fn read_payload(&self, input: &mut Input, to: &mut [u8]) -> io::Result<()> {
        let ready = to.len().min(input.end - input.start);
        to[..ready].copy_from_slice(&input.buffer[input.start..input.start + ready]);
        input.start += ready;
        read_exact(&*self.transport, &mut IoVecMut::from(&mut to[ready..]), || self.stalled())
    }

    /// A client that gets nowhere may stay, unless it holds what others wait for or the server ends.
    fn stalled(&self) -> io::Result<()> {
        if self.shared.budget.is_contended() || self.shared.stopping.load(Ordering::Acquire) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn reply_to(&self, request: &Request) -> Reply {
        Reply { headers: self.session.headers, cookie: request.cookie, offset: request.offset }
    }

    fn send(&self, bytes: &IoVec<'_>) -> io::Result<()> {
        let _turn = lock(&self.output);
        write_all(&*self.transport, bytes, || self.stalled())
    }

    /// Executes what was received and replies.
    fn execute(&self, received: Received, buffer: &mut [u8]) -> io::Result<()> {
        let reply = self.reply_to(&received.request);
        let mut out = Vec::with_capacity(64);
        let outcome = match received.verdict {
            Err(refusal) => {
                reply.error(refused_code(&refusal), &refusal.text, &mut out);
                return self.send(&IoVec::from(&out[..]));
            }
            Ok(ValidRequest { operation: Operation::Read { whole }, range }) => {
                return self.read(reply, range, whole, buffer);
            }
            Ok(ValidRequest { operation: Operation::Status { one, contexts }, range }) => {
                self.status(reply, &range, one, &contexts, &mut out)
            }
            Ok(valid) => {
                let begun = Instant::now();
                let done = self.change(&valid, &buffer[..received.payload]);
                self.pace.note(begun.elapsed(), 1);
                done.map(|()| reply.ok(&mut out))
            }
        };
        if let Err(e) = outcome {
            out.clear();
            reply.error(wire_error(&e), &e.to_string(), &mut out);
        }
        self.send(&IoVec::from(&out[..]))
    }

    fn change(&self, request: &ValidRequest, payload: &[u8]) -> Result<()> {
        let image = &self.session.export.image;
        let range = self.session.export.locate(&request.range);
        match request.operation {
            Operation::Write { fua } => {
                let flags = if fua { WriteFlags::FUA } else { WriteFlags::empty() };
                image.writev(range.start, &IoVec::from(payload), flags)
            }
            Operation::Flush => image.flush(),
            Operation::Trim { fua } => {
                image.discard(range)?;
                if fua { image.flush() } else { Ok(()) }
            }
            Operation::Zeroes(how) => image.write_zeroes(range, zero_flags(how)),
            Operation::Cache => read_ahead(image, range),
            Operation::Read { .. } | Operation::Status { .. } => Ok(()),
        }
    }

    fn status(
        &self,
        reply: Reply,
        range: &Range<u64>,
        one: bool,
        contexts: &[u32],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let export = &self.session.export;
        for (i, id) in contexts.iter().enumerate() {
            let context = export.context(*id).ok_or_else(|| Error::from_errno(nix::libc::EINVAL))?;
            let list = status::extents(export, context, range, one)?;
            reply.status(*id, &list, i + 1 == contexts.len(), out);
        }
        if contexts.is_empty() {
            reply.ok(out);
        }
        Ok(())
    }

    fn read(&self, reply: Reply, range: Range<u64>, whole: bool, buffer: &mut [u8]) -> io::Result<()> {
        let len = (range.end - range.start) as usize;
        let mut out = Vec::with_capacity(64);
        if len == 0 {
            reply.nothing_read(&mut out);
            return self.send(&IoVec::from(&out[..]));
        }
        let buffer = &mut buffer[..len];
        let sparse = self.session.headers >= Headers::Structured && !whole && len as u64 >= HOLES_FROM;
        let done = match sparse {
            true => self.read_sparse(reply, &range, buffer),
            false => self.read_timed(&range, buffer).map(|()| false),
        };
        match done {
            Ok(true) => Ok(()),
            Ok(false) => {
                reply.data(range.start, len as u64, true, &mut out);
                let mut message = IoVec::from(&out[..]);
                message.push(buffer);
                self.send(&message)
            }
            Err(e) => {
                reply.error(wire_error(&e), &e.to_string(), &mut out);
                self.send(&IoVec::from(&out[..]))
            }
        }
    }

    /// Replies with holes and data, read into `buffer`, as chunks; `false` (nothing sent, everything read) when there is no
    /// hole.
    fn read_sparse(&self, reply: Reply, range: &Range<u64>, buffer: &mut [u8]) -> Result<bool> {
        let parts = if self.is_known_data(range) { vec![(range.clone(), false)] } else { self.parts(range)? };
        for (part, zero) in &parts {
            let at = (part.start - range.start) as usize;
            if !zero {
                self.read_timed(part, &mut buffer[at..at + (part.end - part.start) as usize])?;
            }
        }
        if let [(_, false)] = parts[..] {
            return Ok(false);
        }
        let mut headers = Vec::new();
        let mut ends = Vec::new();
        for (i, (part, zero)) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let size = part.end - part.start;
            match zero {
                true => reply.hole(part.start, u32::try_from(size).unwrap_or(u32::MAX), last, &mut headers),
                false => reply.data(part.start, size, last, &mut headers),
            }
            ends.push(headers.len());
        }
        debug_assert_eq!(parts.last().map(|(part, _)| part.end), Some(range.end));
        let mut message = IoVec::new();
        let mut start = 0;
        for ((part, zero), end) in parts.iter().zip(ends) {
            message.push(&headers[start..end]);
            if !zero {
                let at = (part.start - range.start) as usize;
                message.push(&buffer[at..at + (part.end - part.start) as usize]);
            }
            start = end;
        }
        // A connection that broke is noticed by whoever reads next.
        self.send(&message).map_err(Error::from)?;
        Ok(true)
    }

    fn read_image(&self, range: &Range<u64>, to: &mut [u8]) -> Result<()> {
        let export = &self.session.export;
        export.image.read(export.locate(range).start, to)
    }

    /// As [`Connection::read_image`], with a look at how long it takes.
    fn read_timed(&self, range: &Range<u64>, to: &mut [u8]) -> Result<()> {
        let begun = Instant::now();
        let done = self.read_image(range, to);
        self.pace.note(begun.elapsed(), 1);
        done
    }

    fn is_known_data(&self, range: &Range<u64>) -> bool {
        let known = lock(&self.data_run);
        known.start <= range.start && range.end <= known.end
    }

    /// The range as runs of data (`false`) and zeroes (`true`).
    fn parts(&self, range: &Range<u64>) -> Result<Vec<(Range<u64>, bool)>> {
        let export = &self.session.export;
        // One look far ahead answers for the reads that follow.
        let mut parts: Vec<(Range<u64>, bool)> = Vec::new();
        let ahead = export.locate(&(range.start..export.size()));
        let mut start = range.start;
        for extent in Extents::new(export.image.node(), ahead, Want::Zeroes) {
            let extent = extent?;
            let end = start + extent.len;
            if !extent.zero {
                *lock(&self.data_run) = start..end;
            }
            let part = start..end.min(range.end);
            start = end;
            match parts.last_mut() {
                Some((last, zero)) if *zero == extent.zero => last.end = part.end,
                _ => parts.push((part, extent.zero)),
            }
            if end >= range.end {
                break;
            }
        }
        Ok(parts)
    }
}

impl Input {
    /// What was not used yet.
    fn unused(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads more into the buffer, after what is there.
    fn fill(&mut self, transport: &dyn Transport) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let n = transport.read(&mut [IoSliceMut::new(&mut self.buffer[self.end..])])?;
        self.end += n;
        Ok(n)
    }

    fn end<T>(&mut self) -> Option<T> {
        self.ended = true;
        None
    }
}

/// How many bytes a request needs for its payload or its answer.
fn held(headers: Headers, request: &Request) -> usize {
    let needed = match request.command {
        command::READ => request.length,
        command::CACHE => request.length.min(READ_AHEAD as u64),
        _ => 0,
    };
    needed.max(payload_len(headers, request)).min(MAX_PAYLOAD.into()) as usize
}

fn refused_code(refusal: &Refusal) -> u32 {
    wire_error(&Error::from_errno(refusal.errno))
}

fn zero_flags(how: Zeroes) -> ZeroFlags {
    let mut flags = ZeroFlags::empty();
    flags.set(ZeroFlags::FUA, how.fua);
    flags.set(ZeroFlags::MAY_UNMAP, how.may_unmap);
    flags.set(ZeroFlags::NO_FALLBACK, how.only_fast);
    flags
}

/// Reads a range for the sake of the caches below.
fn read_ahead(image: &crate::Image, range: Range<u64>) -> Result<()> {
    let mut buffer = Buffer::zeroed(READ_AHEAD.min((range.end - range.start) as usize));
    let mut at = range.start;
    while at < range.end {
        let n = buffer.len().min((range.end - at) as usize);
        image.read(at, &mut buffer[..n])?;
        at += n as u64;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
