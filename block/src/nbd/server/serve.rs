//! The server's one thread for everything before transmission: it accepts clients, drives their negotiations with
//! deadlines, and ends the server when it is time.

use super::Exports;
use super::budget::Budget;
use super::connection::{Connection, Shared};
use super::negotiation::{Negotiation, Session, Step, Tls};
use super::pace::Lookouts;
use crate::buffer::Pool;
use crate::channel::{Accepted, Handshake, Listener, ServerTls, Socket, TlsTransport, Transport};
use crate::{Error, Kind, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Payloads of all clients together, in bytes.
const BUDGET: u64 = 256 << 20;

/// After how long a client that makes no progress is looked at.
const STALL: Duration = Duration::from_secs(5);

/// How many clients are taken from a listener before others have their turn: a flood of them must not keep the rest
/// waiting, nor an honest one wait behind it for long.
const ACCEPT_AT_ONCE: usize = 512;

/// How long accepting pauses when descriptors have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How long the end waits for requests in flight.
const GRACE: Duration = Duration::from_secs(10);

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// How connections are secured; nothing is told before, then. In clear when `None`.
    pub tls: Option<ServerTls>,
    /// How many clients at a time; no limit when `None`.
    pub max_clients: Option<usize>,
    /// Stay when the last client has left.
    pub persistent: bool,
    /// How long a client may take to negotiate; no limit when `None`.
    pub handshake_limit: Option<Duration>,
    /// The most threads for one client.
    pub threads: usize,
}

/// Tells of what went wrong with a client.
pub(super) type Log = Box<dyn Fn(&str)>;

/// A server.
pub struct Server {
    exports: Arc<Exports>,
    listeners: Vec<Listener>,
    options: ServerOptions,
    log: Log,
    shared: Arc<Shared>,
    clients: Arc<Clients>,
    /// Written by clients that end.
    woken: UnixStream,
    /// Clients that are connected already.
    early: Vec<Socket>,
}

/// What is known of the clients there are.
#[derive(Debug)]
struct Clients {
    count: AtomicUsize,
    /// A client that had negotiated left, and was the last.
    last_left: AtomicBool,
    wake: UnixStream,
    /// The sockets of those in transmission.
    sockets: Mutex<Vec<Weak<Socket>>>,
}

/// Counts one client while it lives.
#[derive(Debug)]
struct Counted {
    clients: Arc<Clients>,
    negotiated: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let last = self.clients.count.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.negotiated {
            self.clients.last_left.store(true, Ordering::Release);
        }
        // A full pipe wakes as well as one more byte in it.
        let _ = (&self.clients.wake).write(&[0]);
    }
}

/// A client that negotiates.
struct Newcomer {
    socket: Arc<Socket>,
    /// What its bytes go through: the socket, or TLS over it.
    transport: Arc<dyn Transport>,
    secure: Option<Arc<TlsTransport>>,
    tls: Option<ServerTls>,
    /// It waits until it can send, else until it can receive.
    sending: bool,
    negotiation: Negotiation,
    deadline: Option<Instant>,
    /// What is to happen once the output is sent.
    next: Next,
    counted: Counted,
}

enum Next {
    Receive,
    StartTls,
    Shake,
    Go(Session, Vec<u8>),
    End(Option<String>),
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("exports", &self.exports).finish_non_exhaustive()
    }
}

impl Server {
    /// A server of `exports` on `listeners`; nothing happens before [`Server::run`].
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(exports: Exports, listeners: Vec<Listener>, options: ServerOptions, log: Log) -> Result<Self> {
        crate::sys::give_back_freed_memory();
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let processors = std::thread::available_parallelism().map_or(2, NonZero::get);
        let shared = Shared {
            lookouts: Lookouts::new(processors),
            budget: Budget::new(BUDGET),
            buffers: Pool::new(),
            stopping: AtomicBool::new(false),
            max_threads: options.threads,
            quick_threads: (processors / 2).max(1),
        };
        let clients = Clients {
            count: AtomicUsize::new(0),
            last_left: AtomicBool::new(false),
            wake,
            sockets: Mutex::default(),
        };
        Ok(Server {
            exports: Arc::new(exports),
            listeners,
            options,
            log,
            shared: Arc::new(shared),
            clients: Arc::new(clients),
            woken,
            early: Vec::new(),
        })
    }

    /// Takes a client that is connected already, as soon as the server runs.
    pub fn admit(&mut self, socket: Socket) {
        self.early.push(socket);
    }

    /// Serves until the last client has left (unless persistent) or `interrupt` can be read. Requests in flight then are
    /// finished and answered; the images are the caller's to flush and close.
    ///
    /// # Errors
    /// Waiting fails, or a listener is of no more use.
    pub fn run(mut self, interrupt: BorrowedFd<'_>) -> Result<()> {
        let mut newcomers: Vec<Newcomer> = Vec::new();
        let mut paused = None;
        for socket in std::mem::take(&mut self.early) {
            newcomers.push(self.newcomer(socket)?);
        }
        let outcome = loop {
            if self.is_over() {
                break Ok(());
            }
            match self.turn(interrupt, &mut newcomers, &mut paused) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        drop(newcomers);
        self.listeners.clear();
        self.finish();
        outcome
    }

    fn is_over(&self) -> bool {
        let last_left = self.clients.last_left.swap(false, Ordering::AcqRel);
        last_left && !self.options.persistent && self.clients.count.load(Ordering::Acquire) == 0
    }

    /// Waits once and does what there is to do; `false` when it is interrupted.
    fn turn(
        &mut self,
        interrupt: BorrowedFd<'_>,
        newcomers: &mut Vec<Newcomer>,
        paused: &mut Option<Instant>,
    ) -> Result<bool> {
        let accepting = self.has_room() && paused.is_none_or(|until| until <= Instant::now());
        let deadline = newcomers.iter().filter_map(|n| n.deadline).chain(*paused).min();
        let buffered = newcomers.iter().any(Newcomer::has_buffered);
        let deadline = if buffered { Some(Instant::now()) } else { deadline };
        let ready = self.wait(interrupt, newcomers, accepting, deadline)?;
        if ready[0] {
            return Ok(false);
        }
        if ready[1] {
            // Only a wake-up; how many there were does not matter.
            let _ = self.woken.read(&mut [0; 64]);
        }
        if accepting {
            *paused = None;
        }
        let first = 2 + if accepting { self.listeners.len() } else { 0 };
        self.serve_newcomers(newcomers, &ready[first..]);
        for (listener, ready) in self.listeners.iter().zip(&ready[2..first]) {
            if *ready && !self.accept(listener, newcomers)? {
                *paused = Some(Instant::now() + EXHAUSTED_PAUSE);
            }
        }
        Ok(true)
    }

    /// Which of the interrupt, the wake-ups, the listeners (when accepting) and the newcomers have something to do.
    fn wait(
        &self,
        interrupt: BorrowedFd<'_>,
        newcomers: &[Newcomer],
        accepting: bool,
        deadline: Option<Instant>,
    ) -> Result<Vec<bool>> {
        let mut fds = vec![
            PollFd::new(interrupt, PollFlags::POLLIN),
            PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
        ];
        if accepting {
            fds.extend(self.listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        }
        fds.extend(newcomers.iter().map(|n| PollFd::new(n.socket.as_fd(), n.interest())));
        // One millisecond more than asked, so that what is waited for has come.
        let limit =
            deadline.map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let limit = limit.map_or(PollTimeout::NONE, |d| PollTimeout::try_from(d).unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(fds.iter().map(|fd| fd.any().unwrap_or(false)).collect())
    }

    /// Takes those who wait at a listener; `false` when there is nothing left to take them with.
    fn accept(&self, listener: &Listener, newcomers: &mut Vec<Newcomer>) -> Result<bool> {
        for _ in 0..ACCEPT_AT_ONCE {
            if !self.has_room() {
                break;
            }
            match listener.accept()? {
                Accepted::Client(socket, _peer) => newcomers.push(self.newcomer(socket)?),
                Accepted::Nobody => break,
                Accepted::Exhausted => return Ok(false),
            }
        }
        Ok(true)
    }

    fn has_room(&self) -> bool {
        let count = self.clients.count.load(Ordering::Acquire);
        self.options.max_clients.is_none_or(|max| count < max)
    }

    fn newcomer(&self, socket: Socket) -> Result<Newcomer> {
        socket.set_nonblocking(true)?;
        self.clients.count.fetch_add(1, Ordering::AcqRel);
        let socket = Arc::new(socket);
        let tls = self.options.tls.clone();
        let wanted = if tls.is_some() { Tls::Required } else { Tls::None };
        Ok(Newcomer {
            transport: Arc::clone(&socket) as _,
            socket,
            secure: None,
            tls,
            sending: true,
            negotiation: Negotiation::new(Arc::clone(&self.exports), wanted),
            deadline: self.options.handshake_limit.map(|limit| Instant::now() + limit),
            next: Next::Receive,
            counted: Counted { clients: Arc::clone(&self.clients), negotiated: false },
        })
    }

    fn serve_newcomers(&self, newcomers: &mut Vec<Newcomer>, ready: &[bool]) {
        let now = Instant::now();
        let mut staying = Vec::with_capacity(newcomers.len());
        for (newcomer, ready) in newcomers.drain(..).zip(ready) {
            if newcomer.deadline.is_some_and(|at| at <= now) {
                continue;
            }
            match if *ready || newcomer.has_buffered() { self.serve_newcomer(newcomer) } else { Ok(newcomer) }
            {
                Ok(newcomer) => staying.push(newcomer),
                Err(Some(why)) => (self.log)(&format!("option negotiation failed: {why}")),
                Err(None) => {}
            }
        }
        *newcomers = staying;
    }

    /// Goes on with a newcomer; the error is why it is one no longer, where that is to be told.
    fn serve_newcomer(&self, mut newcomer: Newcomer) -> Result<Newcomer, Option<String>> {
        match newcomer.go_on() {
            Ok(true) => {}
            Ok(false) => return Ok(newcomer),
            Err(_) if newcomer.is_untouched() => return Err(None),
            Err(e) => return Err(Some(e.to_string())),
        }
        match std::mem::replace(&mut newcomer.next, Next::Receive) {
            Next::End(why) => Err(why),
            Next::Go(session, early) => {
                self.start(newcomer, session, early).map_err(|e| Some(e.to_string()))?;
                Err(None)
            }
            Next::Receive | Next::StartTls | Next::Shake => Ok(newcomer),
        }
    }

    fn start(&self, newcomer: Newcomer, session: Session, early: Vec<u8>) -> Result<()> {
        let Newcomer { socket, transport, mut counted, .. } = newcomer;
        counted.negotiated = true;
        socket.set_nonblocking(false)?;
        socket.set_time_limit(STALL)?;
        socket.set_keep_alive();
        {
            let mut sockets = self.clients.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            sockets.retain(|s| s.strong_count() > 0);
            sockets.push(Arc::downgrade(&socket));
        }
        Ok(Connection::start(session, early, transport, Arc::clone(&self.shared), Box::new(counted))?)
    }

    /// Lets requests in flight end, and cuts off who does not take the answers.
    fn finish(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shutdown_all(Shutdown::Read);
        let deadline = Instant::now() + GRACE;
        while self.clients.count.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            let mut fds = [PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(100u8));
            let _ = self.woken.read(&mut [0; 64]);
        }
        self.shutdown_all(Shutdown::Both);
    }

    fn shutdown_all(&self, how: Shutdown) {
        let sockets = self.clients.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().filter_map(Weak::upgrade).for_each(|socket| socket.shutdown(how));
    }
}

impl Newcomer {
    fn interest(&self) -> PollFlags {
        if self.sending { PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// Nothing was received from it.
    fn is_untouched(&self) -> bool {
        self.negotiation.is_untouched()
    }

    /// There is something to do without waiting for the socket.
    fn has_buffered(&self) -> bool {
        !self.sending && self.secure.as_ref().is_some_and(|tls| tls.has_buffered())
    }

    /// Sends or receives what can be without waiting; `true` when it negotiates no longer.
    fn go_on(&mut self) -> Result<bool> {
        if self.sending {
            self.send()?;
        } else if matches!(self.next, Next::Shake) {
            self.shake()?;
        } else {
            self.receive()?;
        }
        Ok(!self.sending && matches!(self.next, Next::Go(..) | Next::End(_)))
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        match self.transport.read(&mut [IoSliceMut::new(&mut buffer)]) {
            Ok(0) => {
                let text = "Failed to read opts magic: Unexpected end-of-file before all data were read";
                Err(Error::new(Kind::Io, text))
            }
            Ok(n) => {
                self.step(&buffer[..n]);
                self.send()
            }
            Err(e) if is_nothing(&e) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends what there is to say, and what that allows to be said next.
    fn send(&mut self) -> Result<()> {
        self.sending = true;
        if matches!(self.next, Next::Shake) {
            return self.shake();
        }
        while !self.negotiation.output.is_empty() {
            match self.transport.write(&[IoSlice::new(&self.negotiation.output)]) {
                Ok(n) => drop(self.negotiation.output.drain(..n)),
                Err(e) if is_nothing(&e) => return Ok(()),
                // Whoever asked and went is not waiting for the answer.
                Err(_) if matches!(self.next, Next::End(_)) => break,
                Err(e) => return Err(e.into()),
            }
            if self.negotiation.output.is_empty() && matches!(self.next, Next::Receive) {
                self.step(&[]);
            }
        }
        self.sending = false;
        if matches!(self.next, Next::StartTls) { self.start_tls() } else { Ok(()) }
    }

    fn start_tls(&mut self) -> Result<()> {
        let Some(tls) = &self.tls else { return Err(Error::invalid("TLS not configured")) };
        let secure = Arc::new(tls.over(Arc::clone(&self.transport))?);
        self.secure = Some(Arc::clone(&secure));
        self.transport = secure;
        self.next = Next::Shake;
        Ok(())
    }

    fn shake(&mut self) -> Result<()> {
        let (Some(secure), Some(tls)) = (&self.secure, &self.tls) else { return Ok(()) };
        match secure.handshake()? {
            Handshake::WantsRead => self.sending = false,
            Handshake::WantsWrite => self.sending = true,
            Handshake::Done => {
                tls.authorize(secure)?;
                self.sending = false;
                self.next = Next::Receive;
                self.negotiation.secured();
            }
        }
        Ok(())
    }

    fn step(&mut self, bytes: &[u8]) {
        self.next = match self.negotiation.receive(bytes) {
            Step::Continue => Next::Receive,
            Step::Go(session, early) => Next::Go(session, early),
            Step::End(why) => Next::End(why),
            Step::StartTls => Next::StartTls,
        };
    }
}

fn is_nothing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
