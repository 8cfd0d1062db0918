//! The wire format: magic numbers, codes, flags, and the fixed headers of both phases. All numbers are big-endian.
//!
//! Names are those of the specification without their `NBD_` prefix. Nothing here decides anything.

use crate::{Error, Kind};
use bitflags::bitflags;
use nix::libc;

/// `NBDMAGIC`, the first eight bytes of every server.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: the second eight bytes of a newstyle server, and the start of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
/// The second eight bytes of an oldstyle server.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// The start of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// The longest string (name, description, error text), in bytes.
pub const MAX_STRING: usize = 4096;
/// The longest payload of a request or a reply we send or accept, in bytes.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// The port the protocol has been given.
pub const DEFAULT_PORT: u16 = 10809;

bitflags! {
    /// What a server offers in its greeting and a client takes in its answer.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Options are answered properly.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The 124 zero bytes after the flags of an export are left out.
        const NO_ZEROES = 1 << 1;
    }
}

bitflags! {
    /// What an export can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1 << 0;
        /// Writes are refused.
        const READ_ONLY = 1 << 1;
        /// `FLUSH` is understood.
        const SEND_FLUSH = 1 << 2;
        /// The flag `FUA` is understood.
        const SEND_FUA = 1 << 3;
        /// A spinning disk.
        const ROTATIONAL = 1 << 4;
        /// `TRIM` is understood.
        const SEND_TRIM = 1 << 5;
        /// `WRITE_ZEROES` is understood.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// The flag `DF` is understood.
        const SEND_DF = 1 << 7;
        /// A flush on one connection covers the writes of all.
        const CAN_MULTI_CONN = 1 << 8;
        /// `RESIZE` is understood.
        const SEND_RESIZE = 1 << 9;
        /// `CACHE` is understood.
        const SEND_CACHE = 1 << 10;
        /// The flag `FAST_ZERO` is understood.
        const SEND_FAST_ZERO = 1 << 11;
        /// `BLOCK_STATUS` may carry a list of contexts.
        const BLOCK_STATUS_PAYLOAD = 1 << 12;
    }
}

bitflags! {
    /// Flags of a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct CommandFlags: u16 {
        /// On stable storage before the reply.
        const FUA = 1 << 0;
        /// Zeroes are to be allocated.
        const NO_HOLE = 1 << 1;
        /// The reply to a read in one chunk.
        const DF = 1 << 2;
        /// One extent for each context.
        const REQ_ONE = 1 << 3;
        /// Zeroes only if that is fast.
        const FAST_ZERO = 1 << 4;
        /// The length is that of a payload (extended headers).
        const PAYLOAD_LEN = 1 << 5;
        const _ = !0;
    }
}

/// Options of the negotiation.
pub mod option {
    #![allow(missing_docs, reason = "names of the specification")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options; errors have the top bit set.
pub mod reply {
    #![allow(missing_docs, reason = "names of the specification")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    pub const ERR_POLICY: u32 = (1 << 31) + 2;
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    pub const ERR_PLATFORM: u32 = (1 << 31) + 4;
    pub const ERR_TLS_REQD: u32 = (1 << 31) + 5;
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub const ERR_SHUTDOWN: u32 = (1 << 31) + 7;
    pub const ERR_BLOCK_SIZE_REQD: u32 = (1 << 31) + 8;
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
    pub const ERR_EXT_HEADER_REQD: u32 = (1 << 31) + 10;
}

/// Kinds of `REP_INFO`.
pub mod info {
    #![allow(missing_docs, reason = "names of the specification")]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Commands of the transmission phase.
pub mod command {
    #![allow(missing_docs, reason = "names of the specification")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Kinds of reply chunks; errors have the top bit set.
pub mod chunk {
    #![allow(missing_docs, reason = "names of the specification")]
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = (1 << 15) + 1;
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
    /// The bit that makes a kind an error.
    pub const ERROR_BIT: u16 = 1 << 15;
}

/// `base:allocation`: nothing is stored.
pub const STATE_HOLE: u64 = 1;
/// `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u64 = 2;
/// `qemu:dirty-bitmap:…`: written since the bitmap was cleared.
pub const STATE_DIRTY: u64 = 1;
/// The context every server should have.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// Which headers were negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Headers {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// 64-bit requests and replies.
    Extended,
}

/// A request of the transmission phase, without payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Flags, unknown ones included.
    pub flags: CommandFlags,
    /// The command.
    pub command: u16,
    /// What the reply must carry.
    pub cookie: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes: of the effect, or of the payload.
    pub length: u64,
}

impl Request {
    /// Length of the header in bytes.
    pub const fn size(headers: Headers) -> usize {
        match headers {
            Headers::Extended => 32,
            _ => 28,
        }
    }

    /// Appends the header to `out`. Without extended headers the length must fit 32 bits.
    pub fn encode(&self, headers: Headers, out: &mut Vec<u8>) {
        let magic = if headers == Headers::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        out.extend(magic.to_be_bytes());
        out.extend(self.flags.bits().to_be_bytes());
        out.extend(self.command.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        put_length(self.length, headers, out);
    }

    /// Reads a header of [`Request::size`] bytes; `None` when the magic number is wrong.
    pub fn decode(headers: Headers, bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let magic = if headers == Headers::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        if fields.u32()? != magic {
            return None;
        }
        let flags = CommandFlags::from_bits_retain(fields.u16()?);
        let (command, cookie, offset) = (fields.u16()?, fields.u64()?, fields.u64()?);
        let length = if headers == Headers::Extended { fields.u64()? } else { fields.u32()?.into() };
        Some(Request { flags, command, cookie, offset, length })
    }
}

fn put_length(length: u64, headers: Headers, out: &mut Vec<u8>) {
    if headers == Headers::Extended {
        out.extend(length.to_be_bytes());
    } else {
        out.extend(u32::try_from(length).expect("callers split at 32 bits").to_be_bytes());
    }
}

/// The header of a reply, or of one chunk of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A whole reply, its payload known only to who asked.
    Simple {
        /// 0, or what went wrong.
        error: u32,
        /// The cookie of the request.
        cookie: u64,
    },
    /// One chunk.
    Chunk(Chunk),
}

/// The header of a reply chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// No chunk follows for this request.
    pub done: bool,
    /// What it is.
    pub kind: u16,
    /// The cookie of the request.
    pub cookie: u64,
    /// The offset of the request (extended headers only).
    pub offset: u64,
    /// Length of the payload in bytes.
    pub length: u64,
}

impl ReplyHeader {
    /// Length in bytes of the header that starts with `magic`; `None` for a magic number `headers` does not allow.
    pub fn size(headers: Headers, magic: u32) -> Option<usize> {
        match (headers, magic) {
            (Headers::Simple | Headers::Structured, SIMPLE_REPLY_MAGIC) => Some(16),
            (Headers::Structured, STRUCTURED_REPLY_MAGIC) => Some(20),
            (Headers::Extended, EXTENDED_REPLY_MAGIC) => Some(32),
            _ => None,
        }
    }

    /// Reads a whole header; `None` when it is too short or no header.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let magic = fields.u32()?;
        if magic == SIMPLE_REPLY_MAGIC {
            return Some(ReplyHeader::Simple { error: fields.u32()?, cookie: fields.u64()? });
        }
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
        let (offset, length) = match magic {
            STRUCTURED_REPLY_MAGIC => (0, fields.u32()?.into()),
            EXTENDED_REPLY_MAGIC => (fields.u64()?, fields.u64()?),
            _ => return None,
        };
        Some(ReplyHeader::Chunk(Chunk { done: flags & 1 != 0, kind, cookie, offset, length }))
    }
}

/// Appends a simple reply header.
pub fn put_simple_reply(cookie: u64, error: u32, out: &mut Vec<u8>) {
    out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(cookie.to_be_bytes());
}

impl Chunk {
    /// Appends the header.
    pub fn encode(&self, headers: Headers, out: &mut Vec<u8>) {
        let extended = headers == Headers::Extended;
        let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        out.extend(magic.to_be_bytes());
        out.extend(u16::from(self.done).to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        if extended {
            out.extend(self.offset.to_be_bytes());
        }
        put_length(self.length, headers, out);
    }
}

/// Reads numbers off the front of a message; `None` at its end.
#[derive(Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    /// 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// 64 bits.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// A string with its length in 32 bits before it; `None` also when it is longer than [`MAX_STRING`] or no UTF-8.
    pub fn string(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.u32()?).ok().filter(|n| *n <= MAX_STRING)?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }
}

/// What an error is called on the wire: the one place that decides it.
pub fn wire_error(error: &Error) -> u32 {
    let code = match error.errno() {
        _ if error.kind() == Kind::ReadOnly => libc::EPERM,
        libc::EPERM | libc::EROFS => libc::EPERM,
        libc::EIO => libc::EIO,
        libc::ENOMEM => libc::ENOMEM,
        libc::EDQUOT | libc::EFBIG | libc::ENOSPC => libc::ENOSPC,
        libc::EOVERFLOW => libc::EOVERFLOW,
        libc::ENOTSUP => libc::ENOTSUP,
        libc::ESHUTDOWN => libc::ESHUTDOWN,
        _ => libc::EINVAL,
    };
    code.unsigned_abs()
}

/// The error number a code on the wire stands for; what the specification does not name is taken for `EINVAL`.
pub fn errno_from_wire(code: u32) -> i32 {
    let known = [
        libc::EPERM,
        libc::EIO,
        libc::ENOMEM,
        libc::EINVAL,
        libc::ENOSPC,
        libc::EOVERFLOW,
        libc::ENOTSUP,
        libc::ESHUTDOWN,
    ];
    known.into_iter().find(|errno| errno.unsigned_abs() == code).unwrap_or(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_as_they_were_sent_in_every_header_form() {
        let request = Request {
            flags: CommandFlags::FUA | CommandFlags::from_bits_retain(1 << 14),
            command: command::WRITE_ZEROES,
            cookie: 0x0102_0304_0506_0708,
            offset: 1 << 40,
            length: 0xffff_fff0,
        };
        for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
            let mut bytes = Vec::new();
            request.encode(headers, &mut bytes);
            assert_eq!(bytes.len(), Request::size(headers));
            assert_eq!(Request::decode(headers, &bytes), Some(request));
            bytes[0] ^= 1;
            assert_eq!(Request::decode(headers, &bytes), None);
        }
    }

    #[test]
    fn reply_headers_come_back_as_they_were_sent_and_only_in_the_mode_agreed() {
        let chunk = Chunk { done: true, kind: chunk::OFFSET_HOLE, cookie: 7, offset: 0, length: 12 };
        let mut bytes = Vec::new();
        chunk.encode(Headers::Structured, &mut bytes);
        let magic = u32::from_be_bytes(*bytes.first_chunk().unwrap());
        assert_eq!(ReplyHeader::size(Headers::Structured, magic), Some(bytes.len()));
        assert_eq!(ReplyHeader::size(Headers::Extended, magic), None);
        assert_eq!(ReplyHeader::decode(&bytes), Some(ReplyHeader::Chunk(chunk)));
        assert_eq!(ReplyHeader::decode(&bytes[..19]), None);
    }

    #[test]
    fn only_codes_of_the_specification_reach_the_wire() {
        for (errno, code) in [
            (libc::EROFS, 1),
            (libc::EIO, 5),
            (libc::ENOENT, 22),
            (libc::EDQUOT, 28),
            (libc::EOPNOTSUPP, 95),
            (libc::ESHUTDOWN, 108),
        ] {
            assert_eq!(wire_error(&Error::from_errno(errno)), code);
        }
        assert_eq!(wire_error(&Error::new(Kind::ReadOnly, "x")), 1);
        assert_eq!(errno_from_wire(4711), libc::EINVAL);
    }

    #[test]
    fn strings_longer_than_the_limit_are_refused() {
        let mut bytes = 4097u32.to_be_bytes().to_vec();
        bytes.extend([b'x'; 4097]);
        assert_eq!(Fields(&bytes).string(), None);
        bytes[..4].copy_from_slice(&4096u32.to_be_bytes());
        assert_eq!(Fields(&bytes).string().map(str::len), Some(4096));
    }
}
