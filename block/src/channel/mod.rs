//! Connections to another process, whatever carries them.
//!
//! A [`Transport`] moves bytes both ways; [`Socket`] is one over TCP, Unix sockets, vsock or an inherited descriptor, and a
//! layer such as [`TlsTransport`] is one on top of another. Whoever holds a transport never knows which it is. What the bytes mean is
//! not known here.

mod address;
mod listen;
mod socket;
pub(crate) mod tls;

pub use address::{Address, Families};
pub use listen::{Accepted, Listener, activated};
pub use socket::Socket;
pub use tls::{ClientTls, Handshake, ServerTls, TlsTransport};

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};

/// Bytes both ways. Reading and writing may go on at the same time; several readers, or several writers, must keep
/// themselves apart.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Reads what there is, at least one byte; 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing came within the transport's time limit; else the operating system's.
    fn read(&self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Writes some of `from`, at least one byte.
    ///
    /// # Errors
    /// `WouldBlock` when nothing could be sent within the transport's time limit; else the operating system's.
    fn write(&self, from: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends one or both directions. Whoever waits in [`Transport::read`] or [`Transport::write`] is woken.
    fn shutdown(&self, how: std::net::Shutdown);

    /// Whether bytes can be read at once.
    fn is_readable(&self) -> bool;
}

/// Writes all of `from`. `stalled` is asked each time the transport's time limit passes without progress, and ends the
/// attempt by answering with an error.
///
/// # Errors
/// The transport's, or the one `stalled` gives.
pub fn write_all(
    transport: &dyn Transport,
    from: &crate::IoVec<'_>,
    mut stalled: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < from.len() {
        match transport.write(&from.io_slices(done)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stalled()?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Fills `to`; `UnexpectedEof` when the stream ends before. `stalled` as for [`write_all`].
///
/// # Errors
/// The transport's, or the one `stalled` gives.
pub fn read_exact(
    transport: &dyn Transport,
    to: &mut crate::IoVecMut<'_>,
    mut stalled: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < to.len() {
        match transport.read(&mut to.io_slices(done)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stalled()?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
