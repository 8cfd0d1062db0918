//! Several small requests at once: what came together is executed one after the other and answered with one write.
//!
//! Only reads and writes that are short and wholly there are taken, and only while requests are quick ([`super::pace`]);
//! everything else goes the way of one request a turn.

use super::super::wire::{Headers, Request, command};
use super::request::payload_len;

/// The most requests in a batch: more would leave the client without answers for too long.
const MAX_REQUESTS: usize = 8;

/// The longest request that is taken, in bytes.
const MAX_LENGTH: u64 = 16 << 10;

/// The most bytes of all requests of a batch, and of all its answers.
pub(super) const MAX_BYTES: u64 = 64 << 10;

/// The requests at the start of `input` that make a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// How many there are.
    pub(super) count: usize,
    /// How many bytes of the input they are.
    pub(super) size: usize,
    /// How many bytes of data they and their answers are.
    pub(super) held: u64,
}

/// Finds the batch; an empty one when the first request is none for it.
pub(super) fn find(headers: Headers, input: &[u8]) -> Batch {
    let mut batch = Batch::default();
    while batch.count < MAX_REQUESTS
        && let Some((request, payload)) = next(headers, &input[batch.size..])
        && matches!(request.command, command::READ | command::WRITE)
        && request.length <= MAX_LENGTH
        && batch.held + request.length <= MAX_BYTES
    {
        batch.count += 1;
        batch.size += Request::size(headers) + payload.len();
        batch.held += request.length;
    }
    batch
}

/// The request at the start of `input` with its payload, when all of it is there.
pub(super) fn next(headers: Headers, input: &[u8]) -> Option<(Request, &[u8])> {
    let (header, rest) = input.split_at_checked(Request::size(headers))?;
    let request = Request::decode(headers, header)?;
    let len = usize::try_from(payload_len(headers, &request)).ok()?;
    Some((request, rest.get(..len)?))
}

#[cfg(test)]
mod tests {
    use super::super::super::wire::CommandFlags;
    use super::*;

    fn request(command: u16, length: u64, payload: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let flags = CommandFlags::empty();
        Request { flags, command, cookie: 1, offset: 0, length }.encode(Headers::Simple, &mut bytes);
        bytes.resize(bytes.len() + payload, 0);
        bytes
    }

    fn count(requests: &[Vec<u8>]) -> usize {
        find(Headers::Simple, &requests.concat()).count
    }

    #[test]
    fn a_batch_ends_before_what_is_long_or_incomplete_or_no_transfer() {
        let (read, write) = (request(command::READ, 4096, 0), request(command::WRITE, 4096, 4096));
        assert_eq!(count(&[read.clone(), write.clone(), read.clone()]), 3);
        assert_eq!(count(&[read.clone(), request(command::FLUSH, 0, 0), read.clone()]), 1);
        assert_eq!(count(&[read.clone(), request(command::READ, 1 << 20, 0)]), 1);
        assert_eq!(count(&[read.clone(), request(command::WRITE, 4096, 4095)]), 1);
        assert_eq!(count(&[request(command::READ, MAX_LENGTH, 0), vec![0; 28]]), 1);
        assert_eq!(count(&vec![read; 20]), MAX_REQUESTS);
        assert_eq!(count(&vec![request(command::READ, MAX_LENGTH, 0); 8]), 4);
        assert_eq!(count(&[]), 0);
    }

    #[test]
    fn lengths_without_end_are_no_batch() {
        assert_eq!(count(&[request(command::WRITE, u32::MAX.into(), 10)]), 0);
        assert_eq!(count(&[request(command::READ, u32::MAX.into(), 0)]), 0);
    }
}
