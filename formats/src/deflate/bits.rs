//! Bits in the order of RFC 1951, 3.1.1: from the least significant of each byte on.

/// Writes into a buffer of fixed length, and knows when it was too short.
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Whole bytes written.
    len: usize,
    /// Bits that are not written yet, and how many.
    waiting: u64,
    count: u32,
}

/// Bytes of the word in which bits wait; the buffer has as many to spare.
const WORD: usize = 8;

impl BitWriter {
    /// A buffer for fewer than `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: vec![0; limit + WORD], len: 0, waiting: 0, count: 0 }
    }

    /// Appends the lowest `count` bits of `bits`, whose others are zero; at most 16.
    #[inline]
    pub(super) fn put(&mut self, bits: u32, count: u32) {
        self.waiting |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 48 {
            self.write();
        }
    }

    /// Bits up to the end of the byte are zero.
    pub(super) fn align(&mut self) {
        self.count = self.count.next_multiple_of(8);
    }

    fn write(&mut self) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + WORD) {
            place.copy_from_slice(&self.waiting.to_le_bytes());
        }
        let whole = self.count / 8;
        self.len += whole as usize;
        self.waiting = self.waiting.checked_shr(8 * whole).unwrap_or(0);
        self.count %= 8;
    }

    /// Whether there are `limit` bytes or more.
    pub(super) fn full(&self) -> bool {
        self.len + WORD >= self.bytes.len()
    }

    /// What was written, if it is shorter than `limit`.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        self.align();
        self.write();
        let limit = self.bytes.len() - WORD;
        (self.len < limit).then(|| {
            self.bytes.truncate(self.len);
            // Many are kept until their turn to be written comes.
            self.bytes.shrink_to_fit();
            self.bytes
        })
    }
}
