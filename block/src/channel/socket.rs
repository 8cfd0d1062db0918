//! A stream socket of any family, as the lowest [`Transport`].

use super::Transport;
use crate::Result;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, sockopt};
use nix::sys::time::TimeVal;
use nix::sys::uio::{readv, writev};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A connected stream socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Takes over a connected stream socket.
    pub fn new(fd: OwnedFd) -> Self {
        // Replies are sent whole; waiting to fill a segment would only add latency. No TCP socket: no such option.
        let _ = socket::setsockopt(&fd, sockopt::TcpNoDelay, &true);
        Socket { fd }
    }

    /// Two sockets connected to each other.
    ///
    /// # Errors
    /// The operating system's.
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) = std::os::unix::net::UnixStream::pair()?;
        Ok((Self::new(a.into()), Self::new(b.into())))
    }

    /// Makes calls answer `WouldBlock` at once, or wait again.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_nonblocking(&self, on: bool) -> Result<()> {
        let mut flags = OFlag::from_bits_retain(fcntl(&self.fd, FcntlArg::F_GETFL)?);
        flags.set(OFlag::O_NONBLOCK, on);
        fcntl(&self.fd, FcntlArg::F_SETFL(flags))?;
        Ok(())
    }

    /// Makes reads and writes that get nowhere for `limit` answer `WouldBlock`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_time_limit(&self, limit: Duration) -> Result<()> {
        let seconds = nix::libc::time_t::try_from(limit.as_secs()).unwrap_or(nix::libc::time_t::MAX);
        let value = TimeVal::new(seconds, limit.subsec_micros().into());
        socket::setsockopt(&self.fd, sockopt::SendTimeout, &value)?;
        socket::setsockopt(&self.fd, sockopt::ReceiveTimeout, &value)?;
        Ok(())
    }

    /// Has the kernel find out when the peer is gone (TCP only).
    pub fn set_keep_alive(&self) {
        let _ = socket::setsockopt(&self.fd, sockopt::KeepAlive, &true);
    }

    /// Waits until bytes, or the end of the stream, can be read; `false` when `limit` passed.
    ///
    /// # Errors
    /// The operating system's.
    pub fn wait_readable(&self, limit: Duration) -> io::Result<bool> {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, limit)? > 0)
    }

    /// Waits until both directions have ended, for whoever holds a connection that somebody else uses.
    ///
    /// # Errors
    /// The operating system's.
    pub fn wait_ended(&self) -> io::Result<()> {
        // The end is told whether asked for or not.
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Transport for Socket {
    fn read(&self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        Ok(readv(&self.fd, to)?)
    }

    fn write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(writev(&self.fd, from)?)
    }

    fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => socket::Shutdown::Read,
            Shutdown::Write => socket::Shutdown::Write,
            Shutdown::Both => socket::Shutdown::Both,
        };
        // The peer may have gone first.
        let _ = socket::shutdown(self.fd.as_raw_fd(), how);
    }

    fn is_readable(&self) -> bool {
        self.wait_readable(Duration::ZERO).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_exact, write_all};
    use super::*;
    use crate::{IoVec, IoVecMut};

    #[test]
    fn scattered_bytes_arrive_in_order() {
        let (a, b) = Socket::pair().unwrap();
        let mut from = IoVec::from(&b"abc"[..]);
        from.push(b"defg");
        write_all(&a, &from, || Ok(())).unwrap();
        let (mut head, mut tail) = ([0; 2], [0; 5]);
        let mut to = IoVecMut::from(&mut head[..]);
        to.push(&mut tail);
        read_exact(&b, &mut to, || Ok(())).unwrap();
        drop(to);
        assert_eq!((&head, &tail), (b"ab", b"cdefg"));
    }

    #[test]
    fn the_end_of_a_connection_is_seen_without_reading_from_it() {
        let (a, b) = Socket::pair().unwrap();
        let held = Socket::new(a.as_fd().try_clone_to_owned().unwrap());
        let waiting = std::thread::spawn(move || held.wait_ended());
        write_all(&b, &IoVec::from(&b"unread"[..]), || Ok(())).unwrap();
        assert!(!waiting.is_finished());
        a.shutdown(Shutdown::Both);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_read_ends_when_the_peer_goes_or_says_nothing() {
        let (a, b) = Socket::pair().unwrap();
        b.set_time_limit(Duration::from_millis(1)).unwrap();
        let mut byte = [0];
        let stalled =
            read_exact(&b, &mut IoVecMut::from(&mut byte[..]), || Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(stalled.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(a);
        let ended = read_exact(&b, &mut IoVecMut::from(&mut byte[..]), || Ok(()));
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
