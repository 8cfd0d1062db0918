//! Replies as bytes, for each kind of headers. A reply may be several chunks, some followed by data.

use super::super::wire::{Chunk, Headers, chunk, put_simple_reply};

/// Replies to one request, as it was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    pub(super) headers: Headers,
    pub(super) cookie: u64,
    /// The offset of the request.
    pub(super) offset: u64,
}

impl Reply {
    fn chunk(self, kind: u16, length: u64, done: bool, out: &mut Vec<u8>) {
        Chunk { done, kind, cookie: self.cookie, offset: self.offset, length }.encode(self.headers, out);
    }

    /// Done, nothing to say.
    pub(super) fn ok(self, out: &mut Vec<u8>) {
        match self.headers {
            Headers::Extended => self.chunk(chunk::NONE, 0, true, out),
            // Structured replies are needed for reads only.
            _ => put_simple_reply(self.cookie, 0, out),
        }
    }

    /// It failed: a code of the wire and, where the headers can carry it, why.
    pub(super) fn error(self, code: u32, text: &str, out: &mut Vec<u8>) {
        if self.headers == Headers::Simple {
            return put_simple_reply(self.cookie, code, out);
        }
        let text = &text.as_bytes()[..text.floor_char_boundary(super::super::wire::MAX_STRING)];
        self.chunk(chunk::ERROR, 6 + text.len() as u64, true, out);
        out.extend(code.to_be_bytes());
        out.extend(u16::try_from(text.len()).expect("cut to MAX_STRING").to_be_bytes());
        out.extend(text);
    }

    /// The header for `len` bytes of data at `at`, which must follow.
    pub(super) fn data(self, at: u64, len: u64, done: bool, out: &mut Vec<u8>) {
        if self.headers == Headers::Simple {
            return put_simple_reply(self.cookie, 0, out);
        }
        self.chunk(chunk::OFFSET_DATA, 8 + len, done, out);
        out.extend(at.to_be_bytes());
    }

    /// `len` bytes at `at` read as zeroes.
    pub(super) fn hole(self, at: u64, len: u32, done: bool, out: &mut Vec<u8>) {
        self.chunk(chunk::OFFSET_HOLE, 12, done, out);
        out.extend(at.to_be_bytes());
        out.extend(len.to_be_bytes());
    }

    /// A read of no bytes.
    pub(super) fn nothing_read(self, out: &mut Vec<u8>) {
        match self.headers {
            Headers::Simple => put_simple_reply(self.cookie, 0, out),
            _ => self.chunk(chunk::NONE, 0, true, out),
        }
    }

    /// The extents of the context with this id.
    pub(super) fn status(self, context: u32, extents: &[(u64, u64)], done: bool, out: &mut Vec<u8>) {
        if self.headers == Headers::Extended {
            self.chunk(chunk::BLOCK_STATUS_EXT, 8 + 16 * extents.len() as u64, done, out);
            out.extend(context.to_be_bytes());
            out.extend(u32::try_from(extents.len()).expect("few extents").to_be_bytes());
            return extents.iter().for_each(|(len, flags)| {
                out.extend(len.to_be_bytes());
                out.extend(flags.to_be_bytes());
            });
        }
        self.chunk(chunk::BLOCK_STATUS, 4 + 8 * extents.len() as u64, done, out);
        out.extend(context.to_be_bytes());
        for (len, flags) in extents {
            // The request's length is 32 bits, so no extent is longer; the depth of a chain never comes near.
            out.extend(u32::try_from(*len).unwrap_or(u32::MAX).to_be_bytes());
            out.extend(u32::try_from(*flags).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}
