//! The link to a server: its connections, and making them anew.
//!
//! A request is tried on one connection; when that is lost and a reconnect delay was given, it is tried again on a new one
//! for that long. Every request names its range, so doing it twice is doing it once. What a new server cannot know is
//! what the dead one had acknowledged and not flushed: the first flush afterwards fails.

use crate::channel::{Address, ClientTls, Transport};
use crate::nbd::client::{Connection, ExportInfo, Failure, Wanted, negotiate};
use crate::nbd::wire::TransmissionFlags;
use crate::{Error, Result};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long to wait between attempts: enough not to burden a machine that boots.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a server may take for one step of the negotiation.
const NEGOTIATION_LIMIT: Duration = Duration::from_secs(30);

/// No limit on a socket.
const NO_LIMIT: Duration = Duration::ZERO;

/// How a link behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkOptions {
    /// How long the first connection is tried.
    pub(super) open_timeout: Duration,
    /// How long requests wait for a lost connection to come back.
    pub(super) reconnect_delay: Duration,
    /// Do not fail the flush of what a dead server had acknowledged.
    pub(super) reconnect_unsafe: bool,
    /// How many connections, where the server allows several.
    pub(super) connections: u32,
}

/// A link to an export.
#[derive(Debug)]
pub(super) struct Link {
    address: Address,
    tls: Option<ClientTls>,
    wanted: Wanted,
    options: LinkOptions,
    info: ExportInfo,
    /// One for each connection; those after the first are made when first used.
    lanes: Vec<Mutex<Option<Arc<Connection>>>>,
    next: AtomicUsize,
    /// Writes were acknowledged that no flush has covered.
    unflushed: AtomicBool,
    /// Such writes were on a server that is gone.
    lost_writes: AtomicBool,
}

impl Link {
    /// Connects and negotiates.
    pub(super) fn open(
        address: Address,
        tls: Option<ClientTls>,
        wanted: Wanted,
        options: LinkOptions,
    ) -> Result<Self> {
        let deadline = Instant::now() + options.open_timeout;
        let first = until(deadline, || connect(&address, tls.as_ref(), &wanted))?;
        let info = first.info.clone();
        let several = info.flags.contains(TransmissionFlags::CAN_MULTI_CONN);
        let count = if several { options.connections } else { 1 };
        let mut lanes: Vec<_> = (1..count).map(|_| Mutex::new(None)).collect();
        lanes.insert(0, Mutex::new(Some(Arc::new(first))));
        Ok(Link {
            address,
            tls,
            wanted,
            options,
            info,
            lanes,
            next: AtomicUsize::new(0),
            unflushed: AtomicBool::new(false),
            lost_writes: AtomicBool::new(false),
        })
    }

    /// What the server said of the export.
    pub(super) fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// Does a request, again if need be.
    pub(super) fn run(&self, mut call: impl FnMut(&Connection) -> Result<(), Failure>) -> Result<()> {
        let lane = &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len()];
        let mut deadline = None;
        loop {
            match self.connection(lane, deadline) {
                Ok(connection) => match call(&connection) {
                    Ok(()) => return Ok(()),
                    Err(Failure::Refused(error)) => return Err(error),
                    Err(Failure::Lost) => {}
                },
                Err(_) => return Err(Error::from_errno(nix::libc::EIO)),
            }
            if self.options.reconnect_delay.is_zero() {
                return Err(Error::from_errno(nix::libc::EIO));
            }
            deadline.get_or_insert_with(|| Instant::now() + self.options.reconnect_delay);
        }
    }

    /// The connection of a lane, made anew if it is lost: once, or until the deadline.
    fn connection(
        &self,
        lane: &Mutex<Option<Arc<Connection>>>,
        deadline: Option<Instant>,
    ) -> Result<Arc<Connection>> {
        let mut current = lane.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = current.as_ref().filter(|c| c.is_alive()) {
            return Ok(Arc::clone(connection));
        }
        if current.take().is_some() && self.unflushed.swap(false, Ordering::AcqRel) {
            self.lost_writes.store(true, Ordering::Release);
        }
        let deadline = deadline.unwrap_or_else(|| Instant::now() + self.options.reconnect_delay);
        let fresh = Arc::new(until(deadline, || self.reconnect())?);
        *current = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    fn reconnect(&self) -> Result<Connection> {
        let fresh = connect(&self.address, self.tls.as_ref(), &self.wanted)?;
        let (old, new) = (&self.info, &fresh.info);
        if new.size != old.size || !new.flags.contains(old.flags) || new.contexts != old.contexts {
            return Err(Error::invalid("The server's export is no longer what it was"));
        }
        Ok(fresh)
    }

    /// Notes that a write was acknowledged without being made durable.
    pub(super) fn wrote(&self) {
        self.unflushed.store(true, Ordering::Release);
    }

    /// A flush through `call`; it fails when writes it should cover are gone with their server.
    pub(super) fn flush(&self, call: impl FnMut(&Connection) -> Result<(), Failure>) -> Result<()> {
        let dirty = self.unflushed.swap(false, Ordering::AcqRel);
        let done = self.run(call);
        if done.is_err() && dirty {
            self.unflushed.store(true, Ordering::Release);
        }
        let lost = self.lost_writes.swap(false, Ordering::AcqRel);
        if lost && !self.options.reconnect_unsafe {
            return Err(Error::from_errno(nix::libc::EIO));
        }
        done
    }

    /// Says goodbye on every connection.
    pub(super) fn close(&self) {
        for lane in &self.lanes {
            let connection = lane.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(connection) = connection {
                connection.disconnect();
            }
        }
    }
}

/// Tries until it works or the deadline has passed; once at least.
fn until<T>(deadline: Instant, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match attempt() {
            Err(e) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(e);
                }
                std::thread::sleep(left.min(PAUSE));
            }
            done => return done,
        }
    }
}

fn connect(address: &Address, tls: Option<&ClientTls>, wanted: &Wanted) -> Result<Connection> {
    let socket = Arc::new(address.connect()?);
    socket.set_time_limit(NEGOTIATION_LIMIT)?;
    socket.set_keep_alive();
    let lowest: Arc<dyn Transport> = Arc::clone(&socket) as _;
    let (info, transport) =
        negotiate(lowest, wanted, tls).inspect_err(|_| socket.shutdown(Shutdown::Both))?;
    socket.set_time_limit(NO_LIMIT)?;
    Ok(Connection::new(transport, info))
}
