//! Listening: sockets we make, and those a service manager made for us.

use super::{Address, Socket};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, VsockAddr};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::PathBuf;

/// The first descriptor a service manager passes (`sd_listen_fds(3)`).
const FIRST_ACTIVATED: RawFd = 3;

/// A listening socket. One that has a name in the file system removes it when dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: Option<PathBuf>,
}

/// What [`Listener::accept`] found.
#[derive(Debug)]
pub enum Accepted {
    /// A client, and its address as messages name it.
    Client(Socket, String),
    /// Nobody is waiting.
    Nobody,
    /// Somebody is waiting, but this process (or the machine) has no descriptor or memory left.
    Exhausted,
}

impl Listener {
    /// Listens on `address`; a name with several Internet addresses gives a listener for each.
    ///
    /// # Errors
    /// An address that does not resolve or cannot be bound.
    pub fn bind(address: &Address) -> Result<Vec<Self>> {
        let failed = || format!("Failed to bind socket to {address}");
        let one = |fd: OwnedFd| Self::new(fd, None).map(|l| vec![l]);
        match address {
            Address::Inet { .. } => Self::bind_inet(address),
            Address::Unix(path) => {
                let listener = UnixListener::bind(path).context(failed)?;
                Ok(vec![Self::new(listener.into(), Some(path.clone()))?])
            }
            Address::Abstract(name) => {
                one(UnixListener::bind_addr(&UnixAddr::from_abstract_name(name)?).context(failed)?.into())
            }
            Address::Vsock { cid, port } => one(bind_vsock(*cid, *port).context(failed)?),
            Address::Fd(fd) => one(crate::sys::inherited_socket(*fd).context(failed)?),
        }
    }

    fn bind_inet(address: &Address) -> Result<Vec<Self>> {
        let mut listeners = Vec::new();
        let mut last = None;
        for resolved in address.resolve()? {
            match TcpListener::bind(resolved) {
                Ok(listener) => listeners.push(Self::new(listener.into(), None)?),
                Err(e) => last = Some(e),
            }
        }
        match last {
            Some(e) if listeners.is_empty() => {
                Err(Error::from(e).context(format!("Failed to find an available port for {address}")))
            }
            _ => Ok(listeners),
        }
    }

    fn new(fd: OwnedFd, path: Option<PathBuf>) -> Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Listener { fd, path })
    }

    /// Takes the next client, without waiting.
    ///
    /// # Errors
    /// A listener that is of no more use.
    pub fn accept(&self) -> Result<Accepted> {
        match crate::sys::accept(self.fd.as_fd()) {
            Ok(fd) => {
                let socket = Socket::new(fd);
                let peer = peer_name(&socket);
                Ok(Accepted::Client(socket, peer))
            }
            Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => Ok(Accepted::Exhausted),
            Err(Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP) => {
                Err(Error::from_errno(nix::libc::EBADF))
            }
            // A client that went away before we looked is nobody.
            Err(_) => Ok(Accepted::Nobody),
        }
    }
}

fn peer_name(socket: &Socket) -> String {
    match socket::getpeername::<SockaddrStorage>(socket.as_fd().as_raw_fd()) {
        Ok(name) if name.as_sockaddr_in().is_some() || name.as_sockaddr_in6().is_some() => name.to_string(),
        Ok(name) if name.as_vsock_addr().is_some() => format!("vsock:{name}"),
        _ => "local client".to_owned(),
    }
}

fn bind_vsock(cid: u32, port: u32) -> Result<OwnedFd> {
    let fd = socket::socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::bind(fd.as_raw_fd(), &VsockAddr::new(cid, port))?;
    socket::listen(&fd, socket::Backlog::MAXCONN)?;
    Ok(fd)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // It may be gone already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The listening sockets a service manager passed to this process (`LISTEN_PID`, `LISTEN_FDS`).
///
/// # Errors
/// A descriptor that is no listening socket.
pub fn activated() -> Result<Vec<Listener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<i32>().ok());
    if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    let fds = FIRST_ACTIVATED..FIRST_ACTIVATED.saturating_add(count);
    fds.map(|fd| Listener::new(crate::sys::inherited_socket(fd)?, None)).collect()
}
