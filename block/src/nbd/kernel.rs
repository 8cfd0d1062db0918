//! Kernel devices (`/dev/nbdN`): handing a connection in the transmission phase to the kernel, and taking it back, over
//! generic netlink.
//!
//! The kernel's interface is `linux/nbd-netlink.h`. A request is one message; its answer ends with an acknowledgement that
//! carries an error number. Nothing here serves anything: the other end of the connection does.

use super::client::ExportInfo;
use crate::{Context, Error, Kind, Result};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Generic netlink's own family, which knows the others.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const SOCKET_ITEM: u16 = 1;
const SOCKET_FD: u16 = 1;

const NESTED: u16 = 0x8000;
const ERROR_MESSAGE: u16 = 2;
/// A request that is to be acknowledged.
const REQUEST_FLAGS: u16 = 1 | 4;
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// What the kernel takes as block size, in bytes.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=4096;

/// A device, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(u32);

impl Device {
    /// The device at `path`, which need not exist.
    ///
    /// # Errors
    /// A name that is none of such a device.
    pub fn at(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("nbd"));
        let number = name.and_then(|number| number.parse().ok());
        number.map(Device).ok_or_else(|| {
            Error::invalid(format!("{} is not an NBD device", path.display()))
                .with_hint("They are called /dev/nbd0, /dev/nbd1, …")
        })
    }

    /// Who attached it, as the kernel tells it in its table of devices; `None` while nothing is attached.
    pub fn owner(self) -> Option<String> {
        std::fs::read_to_string(format!("/sys/block/nbd{}/pid", self.0)).ok()
    }
}

/// The way to the kernel.
#[derive(Debug)]
pub struct Kernel {
    fd: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Kernel {
    /// Finds the kernel's NBD driver.
    ///
    /// # Errors
    /// There is none.
    pub fn open() -> Result<Self> {
        let fd = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        );
        Self::over(fd?).context(|| "Kernel /dev/nbdN support not available")
    }

    /// The same over any socket that keeps messages apart.
    fn over(fd: OwnedFd) -> Result<Self> {
        let mut kernel = Kernel { fd, family: CONTROL, sequence: 0 };
        let mut body = Vec::new();
        put(&mut body, FAMILY_NAME, b"nbd\0");
        let answer = kernel.ask(GET_FAMILY, &body)?;
        let id = attribute(&answer, FAMILY_ID).and_then(|id| id.first_chunk().copied());
        kernel.family = id.map(u16::from_ne_bytes).ok_or_else(|| {
            Error::from_errno(nix::libc::ENOENT)
                .with_hint("Try `modprobe nbd' as the system's administrator.")
        })?;
        Ok(kernel)
    }

    /// Makes the device one over `socket`, on which `export` was negotiated with simple replies.
    ///
    /// # Errors
    /// The device is in use, or the kernel's.
    pub fn attach(&mut self, device: Device, socket: BorrowedFd<'_>, export: &ExportInfo) -> Result<()> {
        let min = export.block_sizes.map_or(512, |[min, ..]| min);
        let block = min.clamp(*BLOCK_SIZES.start(), *BLOCK_SIZES.end());
        let mut item = Vec::new();
        put(&mut item, SOCKET_FD, &socket.as_raw_fd().to_ne_bytes());
        let mut sockets = Vec::new();
        put(&mut sockets, SOCKET_ITEM | NESTED, &item);
        let mut body = Vec::new();
        put(&mut body, INDEX, &device.0.to_ne_bytes());
        put(&mut body, SIZE_BYTES, &export.size.to_ne_bytes());
        put(&mut body, BLOCK_SIZE_BYTES, &u64::from(block).to_ne_bytes());
        put(&mut body, SERVER_FLAGS, &u64::from(export.flags.bits()).to_ne_bytes());
        put(&mut body, SOCKETS | NESTED, &sockets);
        self.ask(CONNECT, &body).map(drop)
    }

    /// Takes the device's connection away. A device without one is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn detach(&mut self, device: Device) -> Result<()> {
        let mut body = Vec::new();
        put(&mut body, INDEX, &device.0.to_ne_bytes());
        self.ask(DISCONNECT, &body).map(drop)
    }

    /// Sends a request and gives the attributes of its answer.
    fn ask(&mut self, command: u8, body: &[u8]) -> Result<Vec<u8>> {
        self.sequence += 1;
        let message = message(self.family, command, self.sequence, body);
        socket::send(self.fd.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; 8192];
        loop {
            let n = socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if n == 0 {
                return Err(Error::new(Kind::Io, "The kernel does not answer"));
            }
            let mut rest = &buffer[..n];
            while let Some((kind, sequence, body)) = next_message(&mut rest) {
                if sequence != self.sequence {
                    continue;
                }
                if kind != ERROR_MESSAGE {
                    answer = body.get(GENERIC_HEADER..).unwrap_or_default().to_vec();
                    continue;
                }
                return match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                    Some(0) => Ok(answer),
                    Some(code) => Err(Error::from_errno(code.saturating_neg())),
                    None => Err(Error::new(Kind::Io, "The kernel's answer is incomplete")),
                };
            }
        }
    }
}

/// Appends an attribute, padded to four bytes.
fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("attributes are short");
    out.extend(len.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The value of the first attribute of that kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let ([a, b, c, d], _) = attributes.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = attributes.get(4..len)?;
        if u16::from_ne_bytes([*c, *d]) & !NESTED == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn message(family: u16, command: u8, sequence: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + GENERIC_HEADER + body.len()).expect("messages are short");
    let mut out = len.to_ne_bytes().to_vec();
    out.extend(family.to_ne_bytes());
    out.extend(REQUEST_FLAGS.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    // Command, version, reserved.
    out.extend([command, 1, 0, 0]);
    out.extend(body);
    out
}

/// Takes the next message off `rest`: its kind, its sequence number and what follows the header.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let header: &[u8; HEADER] = rest.first_chunk()?;
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let len = word(0) as usize;
    let body = rest.get(HEADER..len)?;
    *rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes([header[4], header[5]]), word(8), body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::wire::{Headers, TransmissionFlags};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    const FAMILY: u16 = 0x1c;

    /// Plays the kernel for one request: checks it with `check` and answers with `answer` and an error number.
    fn play(socket: &UnixDatagram, answer: &[u8], error: i32, check: impl FnOnce(u16, u8, &[u8])) {
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer).unwrap();
        let mut rest = &buffer[..n];
        let (family, sequence, body) = next_message(&mut rest).unwrap();
        assert!(rest.is_empty());
        check(family, body[0], &body[GENERIC_HEADER..]);
        let mut reply = message(family, body[0], sequence, answer);
        let mut ack = (HEADER as u32 + 4).to_ne_bytes().to_vec();
        ack.extend(ERROR_MESSAGE.to_ne_bytes());
        ack.extend([0, 0]);
        ack.extend(sequence.to_ne_bytes());
        ack.extend([0; 4]);
        ack.extend((-error).to_ne_bytes());
        reply.extend(ack);
        socket.send(&reply).unwrap();
    }

    fn play_family(socket: &UnixDatagram) {
        let mut answer = Vec::new();
        put(&mut answer, FAMILY_NAME, b"nbd\0");
        put(&mut answer, FAMILY_ID, &FAMILY.to_ne_bytes());
        play(socket, &answer, 0, |family, command, body| {
            assert_eq!((family, command), (CONTROL, GET_FAMILY));
            assert_eq!(attribute(body, FAMILY_NAME), Some(&b"nbd\0"[..]));
        });
    }

    #[test]
    fn a_device_is_attached_with_its_size_flags_and_socket_and_detached_by_number() {
        let (ours, kernel) = UnixDatagram::pair().unwrap();
        let player = std::thread::spawn(move || {
            play_family(&kernel);
            play(&kernel, &[], 0, |family, command, body| {
                assert_eq!((family, command), (FAMILY, CONNECT));
                assert_eq!(attribute(body, INDEX), Some(&7u32.to_ne_bytes()[..]));
                assert_eq!(attribute(body, SIZE_BYTES), Some(&(1u64 << 40).to_ne_bytes()[..]));
                assert_eq!(attribute(body, BLOCK_SIZE_BYTES), Some(&512u64.to_ne_bytes()[..]));
                assert_eq!(attribute(body, SERVER_FLAGS), Some(&3u64.to_ne_bytes()[..]));
                let item = attribute(attribute(body, SOCKETS).unwrap(), SOCKET_ITEM).unwrap();
                assert_eq!(attribute(item, SOCKET_FD).unwrap().len(), 4);
            });
            play(&kernel, &[], 0, |_, command, body| {
                assert_eq!(command, DISCONNECT);
                assert_eq!(attribute(body, INDEX), Some(&7u32.to_ne_bytes()[..]));
            });
            play(&kernel, &[], nix::libc::EBUSY, |_, _, _| {});
        });
        let device = Device::at(Path::new("/dev/nbd7")).unwrap();
        let export = ExportInfo {
            name: String::new(),
            description: None,
            size: 1 << 40,
            flags: TransmissionFlags::HAS_FLAGS | TransmissionFlags::READ_ONLY,
            block_sizes: Some([1, 4096, 1 << 25]),
            headers: Headers::Simple,
            contexts: Vec::new(),
        };
        let mut kernel = Kernel::over(ours.into()).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        kernel.attach(device, socket.as_fd(), &export).unwrap();
        kernel.detach(device).unwrap();
        let busy = kernel.attach(device, socket.as_fd(), &export).unwrap_err();
        assert_eq!(busy.errno(), nix::libc::EBUSY);
        player.join().unwrap();
    }

    #[test]
    fn a_kernel_without_the_driver_says_so() {
        let (ours, kernel) = UnixDatagram::pair().unwrap();
        let player = std::thread::spawn(move || play(&kernel, &[], nix::libc::ENOENT, |_, _, _| {}));
        let error = Kernel::over(ours.into()).unwrap_err();
        assert_eq!(error.errno(), nix::libc::ENOENT);
        player.join().unwrap();
    }

    #[test]
    fn only_names_of_devices_are_devices() {
        assert_eq!(Device::at(Path::new("nbd12")).unwrap(), Device(12));
        for path in ["/dev/sda", "/dev/nbd", "/dev/nbd0p1", "/dev/"] {
            assert!(Device::at(Path::new(path)).is_err(), "{path}");
        }
    }
}
