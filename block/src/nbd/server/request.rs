//! Requests: what a client may ask for. [`validate`] turns what came over the wire into a [`ValidRequest`], and nothing
//! else can make one.

use super::super::wire::{CommandFlags, Headers, MAX_PAYLOAD, Request, command};
use super::Session;
use nix::libc;
use std::ops::Range;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    /// Read; in one chunk when `whole`.
    Read { whole: bool },
    /// Write the payload.
    Write { fua: bool },
    /// Make completed writes durable.
    Flush,
    /// Give the range up.
    Trim { fua: bool },
    /// Read ahead.
    Cache,
    /// Make the range read as zeroes.
    Zeroes(Zeroes),
    /// Say what the range is, in the contexts with these ids; one extent each when `one`.
    Status { one: bool, contexts: Vec<u32> },
}

/// How to make a range read as zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zeroes {
    pub(super) fua: bool,
    pub(super) may_unmap: bool,
    pub(super) only_fast: bool,
}

/// A request that can be executed as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ValidRequest {
    pub(super) operation: Operation,
    /// Inside the export.
    pub(super) range: Range<u64>,
}

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The error number.
    pub(super) errno: i32,
    /// The sentence, for clients that can show one.
    pub(super) text: String,
}

impl Refusal {
    fn new(errno: i32, text: impl Into<String>) -> Self {
        Refusal { errno, text: text.into() }
    }
}

/// The length of what follows the header of a request, in bytes.
pub(super) fn payload_len(headers: Headers, request: &Request) -> u64 {
    let explicit = headers == Headers::Extended && request.flags.contains(CommandFlags::PAYLOAD_LEN);
    if explicit || request.command == command::WRITE { request.length } else { 0 }
}

/// Judges a request; `payload` is what followed it, where that says what is asked (`BLOCK_STATUS`).
pub(super) fn validate(
    session: &Session,
    request: &Request,
    payload: &[u8],
) -> Result<ValidRequest, Refusal> {
    check_flags(session, request)?;
    let changes = matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
    if changes && session.export.is_read_only() {
        return Err(Refusal::new(libc::EPERM, "Export is read-only"));
    }
    let fua = request.flags.contains(CommandFlags::FUA);
    let operation = match request.command {
        command::READ => Operation::Read { whole: request.flags.contains(CommandFlags::DF) },
        command::WRITE => Operation::Write { fua },
        // Its range means nothing.
        command::FLUSH => return Ok(ValidRequest { operation: Operation::Flush, range: 0..0 }),
        command::TRIM => Operation::Trim { fua },
        command::CACHE => Operation::Cache,
        command::WRITE_ZEROES => Operation::Zeroes(Zeroes {
            fua,
            may_unmap: !request.flags.contains(CommandFlags::NO_HOLE),
            only_fast: request.flags.contains(CommandFlags::FAST_ZERO),
        }),
        command::BLOCK_STATUS => return status(session, request, payload),
        other => return Err(Refusal::new(libc::EINVAL, format!("invalid request type ({other})"))),
    };
    if matches!(request.command, command::READ | command::CACHE) && request.length > MAX_PAYLOAD.into() {
        let text = format!("len ({}) is larger than max len ({MAX_PAYLOAD})", request.length);
        return Err(Refusal::new(libc::EINVAL, text));
    }
    Ok(ValidRequest { operation, range: range(session, request, request.length)? })
}

fn check_flags(session: &Session, request: &Request) -> Result<(), Refusal> {
    use CommandFlags as F;
    let mut allowed = F::FUA;
    allowed |= match request.command {
        command::READ if session.headers >= Headers::Structured => F::DF,
        command::WRITE_ZEROES => F::NO_HOLE | F::FAST_ZERO,
        command::BLOCK_STATUS => F::REQ_ONE,
        _ => F::empty(),
    };
    if session.headers == Headers::Extended
        && matches!(request.command, command::WRITE | command::BLOCK_STATUS)
    {
        allowed |= F::PAYLOAD_LEN;
    }
    let unknown = request.flags.bits() & !allowed.bits();
    if unknown != 0 {
        let text = format!("unsupported flags for command {} (got 0x{unknown:x})", request.command);
        return Err(Refusal::new(libc::EINVAL, text));
    }
    Ok(())
}

fn range(session: &Session, request: &Request, length: u64) -> Result<Range<u64>, Refusal> {
    let size = session.export.size();
    match request.offset.checked_add(length) {
        Some(end) if end <= size => Ok(request.offset..end),
        _ => {
            let grows = matches!(request.command, command::WRITE | command::WRITE_ZEROES);
            let errno = if grows { libc::ENOSPC } else { libc::EINVAL };
            let from = request.offset;
            let text = format!("operation past EOF; From: {from}, Len: {length}, Size: {size}");
            Err(Refusal::new(errno, text))
        }
    }
}

fn status(session: &Session, request: &Request, payload: &[u8]) -> Result<ValidRequest, Refusal> {
    if session.contexts.is_empty() {
        return Err(Refusal::new(libc::EINVAL, "CMD_BLOCK_STATUS not negotiated"));
    }
    let (length, contexts) = if request.flags.contains(CommandFlags::PAYLOAD_LEN) {
        chosen_contexts(session, payload)
            .ok_or_else(|| Refusal::new(libc::EINVAL, "invalid payload of CMD_BLOCK_STATUS"))?
    } else {
        (request.length, session.contexts.clone())
    };
    if length == 0 {
        return Err(Refusal::new(libc::EINVAL, "need non-zero length"));
    }
    let one = request.flags.contains(CommandFlags::REQ_ONE);
    Ok(ValidRequest {
        operation: Operation::Status { one, contexts },
        range: range(session, request, length)?,
    })
}

/// The effect length and the contexts a payload chooses; `None` when it is malformed, or names a context twice or one
/// that was not negotiated.
fn chosen_contexts(session: &Session, payload: &[u8]) -> Option<(u64, Vec<u32>)> {
    let (length, ids) = payload.split_first_chunk()?;
    let (ids, rest) = ids.as_chunks();
    let mut contexts = Vec::new();
    for id in ids {
        let id = u32::from_be_bytes(*id);
        if !session.contexts.contains(&id) || contexts.contains(&id) {
            return None;
        }
        contexts.push(id);
    }
    rest.is_empty().then_some((u64::from_be_bytes(*length), contexts))
}

#[cfg(test)]
mod tests {
    use super::super::Export;
    use super::*;
    use crate::protocol::memory::Memory;
    use crate::{Image, Limits, Node, NodeFlags, NodeName, WriteCache};
    use std::sync::Arc;

    fn session(headers: Headers, read_only: bool) -> Session {
        let node = Memory::node(vec![0; 4096], Limits::default());
        let flags = NodeFlags { read_only, ..NodeFlags::default() };
        let node = if read_only { Node::new(Box::new(Shut(node)), NodeName::default(), flags) } else { node };
        let export = Export::new("", Image::new(node, WriteCache::Back), 0).unwrap();
        Session { export: Arc::new(export), headers, contexts: vec![0] }
    }

    /// A read-only view of 4096 bytes.
    #[derive(Debug)]
    struct Shut(Arc<Node>);

    impl crate::Driver for Shut {
        fn len(&self) -> crate::Result<u64> {
            self.0.len()
        }
        fn map(&self, at: u64, max: u64, want: crate::Want) -> crate::Result<crate::Mapping> {
            self.0.map(at, max, want)
        }
        fn read(&self, at: u64, to: &mut crate::IoVecMut<'_>) -> crate::Result<()> {
            self.0.read(at, to)
        }
        fn write(&self, _: u64, _: &crate::IoVec<'_>, _: crate::WriteFlags) -> crate::Result<()> {
            Err(crate::Error::from_errno(libc::EROFS))
        }
        fn flush(&self, _: crate::Level) -> crate::Result<()> {
            Ok(())
        }
    }

    fn ask(
        session: &Session,
        command: u16,
        flags: u16,
        offset: u64,
        length: u64,
    ) -> Result<ValidRequest, i32> {
        let flags = CommandFlags::from_bits_retain(flags);
        let request = Request { flags, command, cookie: 1, offset, length };
        validate(session, &request, &[]).map_err(|refusal| refusal.errno)
    }

    #[test]
    fn requests_past_the_end_are_refused_with_the_error_of_the_specification() {
        let session = session(Headers::Structured, false);
        for (command, errno) in [
            (command::READ, libc::EINVAL),
            (command::WRITE, libc::ENOSPC),
            (command::WRITE_ZEROES, libc::ENOSPC),
            (command::TRIM, libc::EINVAL),
            (command::CACHE, libc::EINVAL),
            (command::BLOCK_STATUS, libc::EINVAL),
        ] {
            assert!(ask(&session, command, 0, 4095, 1).is_ok(), "{command}");
            assert_eq!(ask(&session, command, 0, 4095, 2), Err(errno), "{command}");
            assert_eq!(ask(&session, command, 0, u64::MAX, 2), Err(errno), "{command}");
        }
        assert!(ask(&session, command::FLUSH, 0, u64::MAX, 2).is_ok());
    }

    #[test]
    fn a_read_only_export_refuses_every_change() {
        let session = session(Headers::Structured, true);
        for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            assert_eq!(ask(&session, command, 0, 0, 1), Err(libc::EPERM));
        }
        assert!(ask(&session, command::READ, 0, 0, 1).is_ok());
    }

    #[test]
    fn flags_and_commands_that_were_not_agreed_on_are_refused() {
        let simple = session(Headers::Simple, false);
        assert_eq!(ask(&simple, command::READ, CommandFlags::DF.bits(), 0, 1), Err(libc::EINVAL));
        assert_eq!(ask(&simple, command::WRITE, CommandFlags::PAYLOAD_LEN.bits(), 0, 1), Err(libc::EINVAL));
        assert_eq!(ask(&simple, command::READ, 1 << 9, 0, 1), Err(libc::EINVAL));
        assert_eq!(ask(&simple, 8, 0, 0, 1), Err(libc::EINVAL));
        assert_eq!(ask(&simple, command::BLOCK_STATUS, 0, 0, 0), Err(libc::EINVAL));
        assert_eq!(ask(&simple, command::READ, 0, 0, u64::from(MAX_PAYLOAD) + 1), Err(libc::EINVAL));
        let extended = session(Headers::Extended, false);
        assert!(ask(&extended, command::WRITE, CommandFlags::PAYLOAD_LEN.bits(), 0, 1).is_ok());
        assert!(ask(&extended, command::READ, CommandFlags::DF.bits(), 0, 0).is_ok());
    }

    #[test]
    fn contexts_are_chosen_by_payload_once_each() {
        let session = session(Headers::Extended, false);
        let choose = |ids: &[u32]| {
            let mut payload = 512u64.to_be_bytes().to_vec();
            ids.iter().for_each(|id| payload.extend(id.to_be_bytes()));
            let flags = CommandFlags::PAYLOAD_LEN;
            let length = payload.len() as u64;
            let request = Request { flags, command: command::BLOCK_STATUS, cookie: 1, offset: 0, length };
            validate(&session, &request, &payload)
        };
        assert_eq!(choose(&[0]).unwrap().range, 0..512);
        assert!(choose(&[0, 0]).is_err());
        assert!(choose(&[1]).is_err());
    }
}
