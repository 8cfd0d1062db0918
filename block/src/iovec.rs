//! Scattered buffers: one request stays one request, whatever it is made of.
//!
//! [`IoVecMut`] is where a read goes, [`IoVec`] what a write comes from. Both are lists of borrowed slices that can be
//! split at any byte without copying.

use smallvec::SmallVec;
use std::io::{IoSlice, IoSliceMut};

/// Most requests are one buffer; a few are head, middle and tail.
type Parts<T> = SmallVec<[T; 3]>;

/// The destination of a read.
#[derive(Debug, Default)]
pub struct IoVecMut<'a> {
    parts: Parts<&'a mut [u8]>,
    len: usize,
}

impl<'a> IoVecMut<'a> {
    /// A request for no bytes; grow it with [`IoVecMut::push`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a buffer.
    pub fn push(&mut self, part: &'a mut [u8]) {
        if !part.is_empty() {
            self.len += part.len();
            self.parts.push(part);
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of buffers.
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Takes the first `n` bytes (all, when there are fewer) off the front.
    pub fn split_to(&mut self, n: usize) -> IoVecMut<'a> {
        let mut head = IoVecMut::new();
        let mut rest = IoVecMut::new();
        for part in std::mem::take(&mut self.parts) {
            let (a, b) = part.split_at_mut(part.len().min(n.saturating_sub(head.len)));
            head.push(a);
            rest.push(b);
        }
        *self = rest;
        head
    }

    /// A shorter borrow of the same buffers.
    pub fn reborrow(&mut self) -> IoVecMut<'_> {
        let len = self.len;
        IoVecMut { parts: self.parts.iter_mut().map(|p| &mut **p).collect(), len }
    }

    /// The buffers, in order.
    pub fn parts_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.parts.iter_mut().map(|p| &mut **p)
    }

    /// Fills everything with `byte`.
    pub fn fill(&mut self, byte: u8) {
        self.parts_mut().for_each(|p| p.fill(byte));
    }

    /// Copies from `from`, which must be as long as this.
    pub fn copy_from_slice(&mut self, from: &[u8]) {
        let mut rest = from;
        for part in self.parts_mut() {
            let (head, tail) = rest.split_at(part.len());
            part.copy_from_slice(head);
            rest = tail;
        }
    }

    /// The buffers in the form the operating system takes, skipping the first `skip` bytes.
    pub fn io_slices(&mut self, mut skip: usize) -> SmallVec<[IoSliceMut<'_>; 3]> {
        let mut list = SmallVec::new();
        for part in &mut self.parts {
            let n = skip.min(part.len());
            skip -= n;
            if n < part.len() {
                list.push(IoSliceMut::new(&mut part[n..]));
            }
        }
        list
    }

    /// Whether every buffer starts and ends at a multiple of `align` (a power of two) in memory.
    pub fn is_aligned(&self, align: usize) -> bool {
        self.parts.iter().all(|p| aligned(p, align))
    }
}

fn aligned(part: &[u8], align: usize) -> bool {
    (part.as_ptr().addr() | part.len()).is_multiple_of(align)
}

impl<'a> From<&'a mut [u8]> for IoVecMut<'a> {
    fn from(part: &'a mut [u8]) -> Self {
        let mut v = IoVecMut::new();
        v.push(part);
        v
    }
}

/// The source of a write.
#[derive(Debug, Default, Clone)]
pub struct IoVec<'a> {
    parts: Parts<&'a [u8]>,
    len: usize,
}

impl<'a> IoVec<'a> {
    /// A request of no bytes; grow it with [`IoVec::push`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a buffer.
    pub fn push(&mut self, part: &'a [u8]) {
        if !part.is_empty() {
            self.len += part.len();
            self.parts.push(part);
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of buffers.
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// The bytes `[at, at + n)`, as far as they exist.
    pub fn slice(&self, at: usize, n: usize) -> IoVec<'a> {
        let mut out = IoVec::new();
        let mut skip = at;
        for part in &self.parts {
            let start = skip.min(part.len());
            skip -= start;
            let take = (n - out.len).min(part.len() - start);
            out.push(&part[start..start + take]);
        }
        out
    }

    /// The buffers, in order.
    pub fn parts(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.parts.iter().copied()
    }

    /// Copies everything to `to`, which must be as long as this.
    pub fn copy_to_slice(&self, to: &mut [u8]) {
        let mut rest = to;
        for part in self.parts() {
            let (head, tail) = rest.split_at_mut(part.len());
            head.copy_from_slice(part);
            rest = tail;
        }
    }

    /// The buffers in the form the operating system takes, skipping the first `skip` bytes.
    pub fn io_slices(&self, mut skip: usize) -> SmallVec<[IoSlice<'a>; 3]> {
        let mut list = SmallVec::new();
        for part in self.parts() {
            let n = skip.min(part.len());
            skip -= n;
            if n < part.len() {
                list.push(IoSlice::new(&part[n..]));
            }
        }
        list
    }

    /// Whether every buffer starts and ends at a multiple of `align` (a power of two) in memory.
    pub fn is_aligned(&self, align: usize) -> bool {
        self.parts.iter().all(|p| aligned(p, align))
    }
}

impl<'a> From<&'a [u8]> for IoVec<'a> {
    fn from(part: &'a [u8]) -> Self {
        let mut v = IoVec::new();
        v.push(part);
        v
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_keeps_every_byte_in_order() {
        let (mut a, mut b) = (*b"abc", *b"defg");
        let mut v = IoVecMut::new();
        v.push(&mut a);
        v.push(&mut b);
        let mut head = v.split_to(4);
        assert_eq!((head.len(), v.len()), (4, 3));
        head.copy_from_slice(b"1234");
        v.copy_from_slice(b"567");
        drop((head, v));
        assert_eq!((&a, &b), (b"123", b"4567"));
    }

    #[test]
    fn slices_of_a_source_are_the_bytes_asked_for() {
        let mut v = IoVec::new();
        v.push(b"abc");
        v.push(b"defg");
        let mut out = [0; 4];
        v.slice(2, 4).copy_to_slice(&mut out);
        assert_eq!(&out, b"cdef");
        assert_eq!(v.slice(6, 10).len(), 1);
    }
}
