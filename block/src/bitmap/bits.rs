//! [`Bits`]: a long row of bits that takes room only where some are set and some are not.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bits in a chunk.
const CHUNK: u64 = 1 << 15;
/// Words in a chunk.
const WORDS: usize = (CHUNK / 64) as usize;

/// A stretch of bits of which at least one is set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Chunk {
    /// All are.
    Full,
    /// Those are.
    Some(Box<[u64; WORDS]>),
}

/// What a stretch of bits looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stretch {
    /// No bit is set.
    Clear,
    /// Some bits are set.
    Mixed,
}

/// A row of bits: see the module documentation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bits {
    len: u64,
    chunks: BTreeMap<u64, Chunk>,
}

impl Chunk {
    fn word(&self, index: usize) -> u64 {
        match self {
            Chunk::Full => u64::MAX,
            Chunk::Some(words) => words[index],
        }
    }

    fn words(&mut self) -> &mut [u64; WORDS] {
        if *self == Chunk::Full {
            *self = Chunk::Some(Box::new([u64::MAX; WORDS]));
        }
        match self {
            Chunk::Some(words) => words,
            Chunk::Full => unreachable!("it was just taken apart"),
        }
    }
}

/// The bits of one word between two positions of the chunk it is in.
fn word_mask(word: usize, range: &Range<u64>) -> u64 {
    let base = word as u64 * 64;
    let from = range.start.saturating_sub(base).min(64);
    let to = range.end.saturating_sub(base).min(64);
    let below = |n: u64| if n == 64 { u64::MAX } else { (1 << n) - 1 };
    below(to) & !below(from)
}

impl Bits {
    /// `len` bits, none of them set.
    pub fn new(len: u64) -> Self {
        Bits { len, chunks: BTreeMap::new() }
    }

    /// How many bits there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no bit is set.
    pub fn is_clear(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes of memory taken.
    pub fn memory(&self) -> u64 {
        self.chunks.values().filter(|chunk| matches!(chunk, Chunk::Some(_))).count() as u64 * (CHUNK / 8)
    }

    /// Sets a range of bits, as far as there are any.
    pub fn set(&mut self, range: Range<u64>) {
        let range = range.start..range.end.min(self.len);
        let mut at = range.start;
        while at < range.end {
            let index = at / CHUNK;
            let end = range.end.min((index + 1) * CHUNK);
            let part = at % CHUNK..at % CHUNK + (end - at);
            // The last chunk is full when all that there is of it is set; what follows is cleared when the row grows.
            if part == (0..CHUNK) {
                self.chunks.insert(index, Chunk::Full);
            } else {
                let chunk = self.chunks.entry(index).or_insert_with(|| Chunk::Some(Box::new([0; WORDS])));
                if *chunk != Chunk::Full {
                    let words = chunk.words();
                    let touched = (part.start / 64) as usize..((part.end - 1) / 64 + 1) as usize;
                    for (word, bits) in words.iter_mut().enumerate().take(touched.end).skip(touched.start) {
                        *bits |= word_mask(word, &part);
                    }
                }
            }
            at = end;
        }
    }

    /// Clears all bits.
    pub fn clear(&mut self) {
        self.chunks.clear();
    }

    /// Changes the number of bits; new ones are clear.
    pub fn resize(&mut self, len: u64) {
        if len < self.len {
            let rest = self.chunks.split_off(&len.div_ceil(CHUNK));
            drop(rest);
            if let Some(chunk) = self.chunks.get_mut(&(len / CHUNK)) {
                let gone = len % CHUNK..CHUNK;
                let words = chunk.words();
                for (word, bits) in words.iter_mut().enumerate().skip((gone.start / 64) as usize) {
                    *bits &= !word_mask(word, &gone);
                }
                if words.iter().all(|word| *word == 0) {
                    self.chunks.remove(&(len / CHUNK));
                }
            }
        }
        self.len = len;
    }

    /// Sets every bit that is set in `other`.
    pub fn merge(&mut self, other: &Bits) {
        let mut at = 0;
        while let Some(run) = other.next_run(at) {
            at = run.end;
            self.set(run);
        }
    }

    /// The first run of set bits at or after `from`.
    pub fn next_run(&self, from: u64) -> Option<Range<u64>> {
        let start = self.next(from, true)?;
        let end = self.next(start, false).unwrap_or(self.len);
        Some(start..end)
    }

    /// The first bit at or after `from` that is set, or that is clear.
    fn next(&self, from: u64, set: bool) -> Option<u64> {
        let mut at = from;
        while at < self.len {
            let index = at / CHUNK;
            let chunk = match self.chunks.get(&index) {
                None if !set => return Some(at),
                None => {
                    at = self.chunks.range(index..).next()?.0 * CHUNK;
                    continue;
                }
                Some(Chunk::Full) if set => return Some(at),
                Some(chunk) => chunk,
            };
            match next_in(chunk, at % CHUNK, set) {
                Some(found) => return Some(index * CHUNK + found).filter(|bit| *bit < self.len),
                None => at = (index + 1) * CHUNK,
            }
        }
        None
    }

    /// The bits from `first` (a multiple of 8) on as bytes, the lowest bit first; fills `out`, with zeroes past the end.
    pub fn copy_bytes(&self, first: u64, out: &mut [u8]) -> Stretch {
        out.fill(0);
        let end = first + out.len() as u64 * 8;
        let mut at = first;
        let mut stretch = Stretch::Clear;
        while let Some(run) = self.next_run(at).filter(|run| run.start < end) {
            stretch = Stretch::Mixed;
            at = run.end;
            fill_bits(out, run.start.max(first) - first..run.end.min(end) - first);
        }
        stretch
    }

    /// Sets the bits from `first` (a multiple of 8) on that are set in `bytes`.
    pub fn load_bytes(&mut self, first: u64, bytes: &[u8]) {
        let mut run: Option<Range<u64>> = None;
        for (i, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            for bit in (0..8).filter(|bit| byte >> bit & 1 != 0) {
                let at = first + i as u64 * 8 + bit;
                match &mut run {
                    Some(run) if run.end == at => run.end += 1,
                    _ => {
                        if let Some(done) = run.replace(at..at + 1) {
                            self.set(done);
                        }
                    }
                }
            }
        }
        run.into_iter().for_each(|run| self.set(run));
    }
}

fn next_in(chunk: &Chunk, from: u64, set: bool) -> Option<u64> {
    let first = (from / 64) as usize;
    for index in first..WORDS {
        let mut word = chunk.word(index);
        if !set {
            word = !word;
        }
        if index == first {
            word &= u64::MAX << (from % 64);
        }
        if word != 0 {
            return Some(index as u64 * 64 + u64::from(word.trailing_zeros()));
        }
    }
    None
}

fn fill_bits(bytes: &mut [u8], bits: Range<u64>) {
    let index = |bit: u64| usize::try_from(bit / 8).unwrap_or(usize::MAX);
    let (first, last) = (index(bits.start), index(bits.end - 1));
    let head = 0xffu8 << (bits.start % 8);
    let tail = 0xffu8 >> (7 - (bits.end - 1) % 8);
    if first == last {
        bytes[first] |= head & tail;
        return;
    }
    bytes[first] |= head;
    bytes[first + 1..last].fill(0xff);
    bytes[last] |= tail;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(bits: &Bits) -> Vec<Range<u64>> {
        let mut at = 0;
        std::iter::from_fn(|| {
            let run = bits.next_run(at)?;
            at = run.end;
            Some(run)
        })
        .collect()
    }

    #[test]
    fn runs_cross_chunks_and_end_with_the_row() {
        let mut bits = Bits::new(3 * CHUNK + 5);
        bits.set(3..4);
        bits.set(CHUNK - 1..2 * CHUNK + 70);
        bits.set(3 * CHUNK..u64::MAX);
        assert_eq!(runs(&bits), [3..4, CHUNK - 1..2 * CHUNK + 70, 3 * CHUNK..3 * CHUNK + 5]);
        bits.resize(3 * CHUNK + 2);
        bits.resize(4 * CHUNK);
        assert_eq!(runs(&bits)[2], 3 * CHUNK..3 * CHUNK + 2);
        bits.resize(CHUNK + 1);
        assert_eq!(runs(&bits), [3..4, CHUNK - 1..CHUNK + 1]);
    }

    #[test]
    fn what_is_full_takes_no_room() {
        let mut bits = Bits::new(1 << 40);
        bits.set(0..1 << 25);
        assert_eq!(bits.memory(), 0);
        bits.set(1 << 30..(1 << 30) + 1);
        assert_eq!(bits.memory(), 4096);
    }

    #[test]
    fn bytes_come_back_as_they_were() {
        let mut bits = Bits::new(100_000);
        for run in [0..1, 9..31, 4095..4097, 32_760..70_001, 99_999..100_000] {
            bits.set(run);
        }
        let mut back = Bits::new(100_000);
        let mut bytes = [0; 512];
        for first in (0..100_000).step_by(4096) {
            bits.copy_bytes(first, &mut bytes);
            back.load_bytes(first, &bytes);
        }
        assert_eq!(runs(&back), runs(&bits));
        assert_eq!(bits.copy_bytes(4096, &mut bytes), Stretch::Mixed);
        assert_eq!(bytes[0], 1);
        assert_eq!(bits.copy_bytes(8192, &mut bytes), Stretch::Clear);
    }

    #[test]
    fn merging_adds() {
        let (mut a, mut b) = (Bits::new(1000), Bits::new(1000));
        a.set(0..10);
        b.set(5..20);
        b.set(999..1000);
        a.merge(&b);
        assert_eq!(runs(&a), [0..20, 999..1000]);
    }
}
