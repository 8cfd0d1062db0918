//! TLS as a layer over any [`Transport`]: moves records between a session and what carries them.
//!
//! Invariants: calls of the lower transport are made outside the session's lock, so that one direction never waits for the
//! other; records leave only while `output` is held, in the order the session made them. Locks are taken in the order
//! input, output, session.

use super::Transport;
use crate::{Error, Kind, Result};
use secret::tls::{Authorization, Endpoint, Received, TlsCredentials, TlsSession};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// How many bytes of records are asked of the lower transport at once: at first one of the longest records, and more for
/// peers that send more. Half-open connections by the thousand must not cost much.
const INPUT: usize = 20 << 10;

/// What that grows to.
const MAX_INPUT: usize = 160 << 10;

/// How a server secures its connections.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// What sessions start from.
    pub credentials: Arc<dyn TlsCredentials>,
    /// Who may connect; whoever the credentials accept when `None`.
    pub authorization: Option<Arc<dyn Authorization>>,
}

/// How a client secures its connections.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// What sessions start from.
    pub credentials: Arc<dyn TlsCredentials>,
    /// The name to look for in the server's certificate.
    pub hostname: Option<String>,
}

impl ServerTls {
    /// Looks the objects up: once, at start-up, so that whatever is wrong is told before anybody connects.
    ///
    /// # Errors
    /// An object that is missing or of another type; credentials whose peers have no name to be judged.
    pub fn find(objects: &secret::Registry, credentials: &str, authorization: Option<&str>) -> Result<Self> {
        let credentials = objects.tls_credentials(credentials, Endpoint::Server)?;
        let authorization = authorization.map(|id| objects.authorization(id)).transpose()?;
        if authorization.is_some() {
            credentials.check_authorizable()?;
        }
        Ok(ServerTls { credentials, authorization })
    }

    /// A layer over `lower` whose handshake is yet to be made.
    ///
    /// # Errors
    /// The credentials are of no use any more.
    pub fn over(&self, lower: Arc<dyn Transport>) -> Result<TlsTransport> {
        Ok(TlsTransport::new(lower, self.credentials.start(None)?))
    }

    /// Judges the peer after the handshake.
    ///
    /// # Errors
    /// It may not enter; the sentence says who.
    pub fn authorize(&self, transport: &TlsTransport) -> Result<()> {
        let Some(authorization) = &self.authorization else { return Ok(()) };
        let session = lock(&transport.session);
        let Some(name) = session.peer() else {
            return Err(Error::invalid("TLS peer has no name to authorize"));
        };
        if authorization.allows(&name)? {
            return Ok(());
        }
        let kind = session.peer_kind();
        Err(Error::invalid(format!("TLS {kind} authz check for {name} is denied")))
    }
}

impl ClientTls {
    /// A layer over `lower` with its handshake done.
    ///
    /// # Errors
    /// The server is not who it should be, or the handshake fails.
    pub fn connect(&self, lower: Arc<dyn Transport>) -> Result<TlsTransport> {
        let session = self.credentials.start(self.hostname.as_deref())?;
        let transport = TlsTransport::new(lower, session);
        match transport.handshake() {
            Ok(Handshake::Done) => Ok(transport),
            Ok(_) => Err(Error::new(Kind::Io, "TLS handshake failed: Connection timed out")),
            Err(e) => Err(e),
        }
    }
}

/// Where a handshake stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The peer is who it should be.
    Done,
    /// The lower transport has nothing to read at the moment.
    WantsRead,
    /// The lower transport takes nothing at the moment.
    WantsWrite,
}

/// A secure layer over a transport.
///
/// A [`Transport::write`] that answers `WouldBlock` must be repeated with the same bytes, or not at all: some of them may
/// be on their way.
pub struct TlsTransport {
    lower: Arc<dyn Transport>,
    input: Mutex<Input>,
    output: Mutex<Output>,
    session: Mutex<Box<dyn TlsSession>>,
}

/// Records that came and were not given to the session yet.
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// Records that are to be sent.
#[derive(Default)]
struct Output {
    records: Vec<u8>,
    sent: usize,
    /// How many bytes of the caller's these records stand for, when it has not been told yet.
    accepted: usize,
}

impl TlsTransport {
    /// A layer over `lower`.
    pub fn new(lower: Arc<dyn Transport>, session: Box<dyn TlsSession>) -> Self {
        TlsTransport {
            lower,
            input: Mutex::new(Input { buffer: vec![0; INPUT], start: 0, end: 0 }),
            output: Mutex::default(),
            session: Mutex::new(session),
        }
    }

    /// Goes on with the handshake until it is done or the lower transport would wait.
    ///
    /// # Errors
    /// It failed; an alert was sent to the peer if that was possible.
    pub fn handshake(&self) -> Result<Handshake> {
        loop {
            match self.send_pending() {
                Ok(()) => {}
                Err(e) if is_nothing(&e) => return Ok(Handshake::WantsWrite),
                Err(e) => return Err(failed(e.into())),
            }
            if !lock(&self.session).is_handshaking() {
                return Ok(Handshake::Done);
            }
            match self.receive(&mut []) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    return Err(failed(Error::new(
                        Kind::Io,
                        "The TLS connection was non-properly terminated.",
                    )));
                }
                Err(Broken::Lower(e)) if is_nothing(&e) => return Ok(Handshake::WantsRead),
                Err(Broken::Lower(e)) => return Err(failed(e.into())),
                Err(Broken::Session(e)) => {
                    // The alert; a peer that is gone does not need it.
                    let _ = self.send_pending();
                    return Err(e);
                }
            }
        }
    }

    /// Whether a read would give or at least use something without the lower transport.
    pub fn has_buffered(&self) -> bool {
        let input = lock(&self.input);
        input.start < input.end || lock(&self.session).has_clear()
    }

    /// Tells the peer that nothing more comes, if that can be sent at once.
    pub fn end(&self) {
        lock(&self.session).end();
        // A peer that is gone does not need it.
        let _ = self.send_pending();
    }

    /// Gives bytes in clear, or at least uses some records; `None` at the end of the stream.
    fn receive(&self, to: &mut [IoSliceMut<'_>]) -> Result<Option<usize>, Broken> {
        let mut input = lock(&self.input);
        loop {
            let (start, end) = (input.start, input.end);
            let Received { used, clear } = {
                let mut session = lock(&self.session);
                let received = session.receive(&mut input.buffer[start..end], to).map_err(Broken::Session)?;
                if received.clear == 0 && session.is_ended() {
                    return Ok(None);
                }
                received
            };
            input.start += used;
            if clear > 0 || used > 0 {
                return Ok(Some(clear));
            }
            if input.fill(&*self.lower).map_err(Broken::Lower)? == 0 {
                return Ok(None);
            }
        }
    }

    /// Sends what the session has to say.
    fn send_pending(&self) -> io::Result<()> {
        let mut output = lock(&self.output);
        self.collect(&mut output);
        output.send(&*self.lower)
    }

    /// As [`TlsTransport::send_pending`], unless a writer is at it already: then that one does it.
    fn send_replies(&self) {
        match self.output.try_lock() {
            Ok(mut output) => {
                self.collect(&mut output);
                // Whoever writes next finds out what is wrong.
                let _ = output.send(&*self.lower);
            }
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => {}
        }
    }

    fn collect(&self, output: &mut Output) {
        lock(&self.session).take_records(&mut output.records);
    }
}

impl Transport for TlsTransport {
    fn read(&self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        loop {
            match self.receive(to) {
                Ok(None) => return Ok(0),
                Ok(Some(0)) => self.send_replies(),
                Ok(Some(n)) => return Ok(n),
                Err(Broken::Lower(e)) => return Err(e),
                Err(Broken::Session(e)) => {
                    self.send_replies();
                    return Err(io::Error::other(e));
                }
            }
        }
    }

    fn write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut output = lock(&self.output);
        if output.accepted == 0 {
            let mut session = lock(&self.session);
            output.accepted = session.send(from).map_err(io::Error::other)?;
            session.take_records(&mut output.records);
        }
        output.send(&*self.lower)?;
        Ok(std::mem::take(&mut output.accepted))
    }

    fn shutdown(&self, how: Shutdown) {
        self.lower.shutdown(how);
    }

    fn is_readable(&self) -> bool {
        // A reader holds the input while it waits for more, so there is nothing then.
        let buffered = match self.input.try_lock() {
            Ok(input) => input.start < input.end,
            Err(_) => false,
        };
        buffered || lock(&self.session).has_clear() || self.lower.is_readable()
    }
}

/// What is inside is nobody's business.
impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport").field("lower", &self.lower).finish_non_exhaustive()
    }
}

impl Input {
    fn fill(&mut self, lower: &dyn Transport) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "TLS record too long"));
        }
        let n = loop {
            match lower.read(&mut [IoSliceMut::new(&mut self.buffer[self.end..])]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        self.end += n;
        if self.end == self.buffer.len() && self.end < MAX_INPUT {
            self.buffer.resize(2 * self.end, 0);
        }
        Ok(n)
    }
}

impl Output {
    fn send(&mut self, lower: &dyn Transport) -> io::Result<()> {
        while self.sent < self.records.len() {
            match lower.write(&[IoSlice::new(&self.records[self.sent..])]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.records.clear();
        self.sent = 0;
        Ok(())
    }
}

/// Which side of a layer failed.
enum Broken {
    Lower(io::Error),
    Session(Error),
}

fn failed(why: Error) -> Error {
    why.context("TLS handshake failed")
}

fn is_nothing(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
