//! Where a peer is: addresses, their resolution, and connecting.

use super::Socket;
use crate::{Context, Error, Kind, Result};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, VsockAddr};
use std::fmt;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::PathBuf;

/// Which families of Internet addresses may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

impl Default for Families {
    fn default() -> Self {
        Families { ipv4: true, ipv6: true }
    }
}

/// Where to listen or to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP: a host name or number and a port number as text.
    Inet {
        /// The host, without brackets.
        host: String,
        /// The port.
        port: String,
        /// What the name may resolve to.
        families: Families,
    },
    /// A socket in the file system.
    Unix(PathBuf),
    /// A socket in Linux's abstract name space, without the leading zero byte.
    Abstract(Vec<u8>),
    /// A socket between a virtual machine and its host.
    Vsock {
        /// The context id of the machine.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// A connected (or listening) socket this process inherited.
    Fd(RawFd),
}

impl Address {
    /// TCP to `host` and `port`, over any family.
    pub fn inet(host: impl Into<String>, port: impl Into<String>) -> Self {
        Address::Inet { host: host.into(), port: port.into(), families: Families::default() }
    }

    /// The host of an Internet address: what a certificate is expected to name.
    pub fn host(&self) -> Option<&str> {
        match self {
            Address::Inet { host, .. } => Some(host),
            _ => None,
        }
    }

    /// Connects; a name with several addresses is tried address by address.
    ///
    /// # Errors
    /// `Failed to connect to 'ADDRESS': …`, or a name that cannot be resolved.
    pub fn connect(&self) -> Result<Socket> {
        let failed = || format!("Failed to connect to '{self}'");
        let fd = match self {
            Address::Inet { .. } => self.connect_inet()?,
            Address::Unix(path) => UnixStream::connect(path).context(failed)?.into(),
            Address::Abstract(name) => {
                let address = UnixAddr::from_abstract_name(name)?;
                UnixStream::connect_addr(&address).context(failed)?.into()
            }
            Address::Vsock { cid, port } => connect_vsock(*cid, *port).context(failed)?,
            Address::Fd(fd) => {
                crate::sys::inherited_socket(*fd).context(|| format!("Invalid socket fd {fd}"))?
            }
        };
        Ok(Socket::new(fd))
    }

    fn connect_inet(&self) -> Result<OwnedFd> {
        let mut last = Error::new(Kind::NotFound, "No address found");
        for address in self.resolve()? {
            match TcpStream::connect(address) {
                Ok(stream) => return Ok(stream.into()),
                Err(e) => last = e.into(),
            }
        }
        Err(last.context(format!("Failed to connect to '{self}'")))
    }

    /// The Internet addresses a name stands for.
    pub(super) fn resolve(&self) -> Result<Vec<SocketAddr>> {
        let Address::Inet { host, port, families } = self else { return Ok(Vec::new()) };
        let failed = |why: &str| {
            Error::new(Kind::NotFound, format!("address resolution failed for {host}:{port}: {why}"))
        };
        let number: u16 = port.parse().map_err(|_| failed("Servname not supported for ai_socktype"))?;
        let found = (host.as_str(), number).to_socket_addrs().map_err(|e| {
            let text = e.to_string();
            failed(text.rsplit(": ").next().unwrap_or(&text))
        })?;
        let wanted = |a: &SocketAddr| if a.is_ipv4() { families.ipv4 } else { families.ipv6 };
        let list: Vec<SocketAddr> = found.filter(wanted).collect();
        if list.is_empty() {
            return Err(failed("Address family for hostname not supported"));
        }
        Ok(list)
    }
}

fn connect_vsock(cid: u32, port: u32) -> Result<OwnedFd> {
    let fd = socket::socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::connect(fd.as_raw_fd(), &VsockAddr::new(cid, port))?;
    Ok(fd)
}

/// As messages name it: `HOST:PORT`, a path, `vsock:CID:PORT`, or `fd:N`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet { host, port, .. } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            Address::Vsock { cid, port } => write!(f, "{cid}:{port}"),
            Address::Fd(fd) => write!(f, "fd:{fd}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_resolve_is_named_with_its_port() {
        let error = Address::inet("127.0.0.1", "abc").connect().unwrap_err();
        assert_eq!(
            error.to_string(),
            "address resolution failed for 127.0.0.1:abc: Servname not supported for ai_socktype"
        );
    }

    #[test]
    fn a_refused_connection_names_the_address() {
        let error = Address::Unix("/nonexistent/socket".into()).connect().unwrap_err();
        let want = "Failed to connect to '/nonexistent/socket': No such file or directory";
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn families_that_are_not_wanted_are_left_out() {
        let address = Address::Inet {
            host: "127.0.0.1".into(),
            port: "1".into(),
            families: Families { ipv4: false, ipv6: true },
        };
        assert!(address.resolve().is_err());
    }
}
