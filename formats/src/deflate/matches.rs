//! Finds repetitions: the last places with the same bytes, and lazy choice among what they give.

/// What a match may look back, in bytes.
const WINDOW: usize = 1 << super::WINDOW_BITS;
/// Shortest and longest match (RFC 1951, 3.2.5).
const SHORTEST: usize = 3;
const LONGEST: usize = 258;
const HASH_BITS: u32 = 12;
/// How many places are kept for each hash, as numbers of 16 bits in one word.
const WAYS: u32 = 3;
/// A match of this length is taken without looking for a better one behind it.
const NICE: usize = 24;
/// Bytes that are compared at once; no match begins nearer to the end.
const WORD: usize = 8;

/// One step of the decoder: a literal byte, or bytes repeated from earlier.
#[derive(Clone, Copy)]
pub(super) enum Item {
    Literal(u8),
    Match { length: u16, distance: u16 },
}

/// A repetition; none has a length of 0.
#[derive(Clone, Copy, Default)]
struct Found {
    length: usize,
    distance: usize,
}

impl Found {
    /// What it saves, in units of about two bits: a byte counts four, each doubling of the distance costs one.
    fn worth(self) -> usize {
        4 * self.length - (self.distance | 1).ilog2() as usize
    }
}

/// The places seen, by hashes of the four and of the three bytes there. Only the lowest bits of a position are kept: those that are beyond
/// the window look like others within it, so whatever is found is compared.
pub(super) struct Matcher<'a> {
    data: &'a [u8],
    recent: Box<[u64; 1 << HASH_BITS]>,
    short: Box<[u16; 1 << HASH_BITS]>,
    /// The first position that is not in the tables.
    next: usize,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, recent: table(), short: table(), next: 0 }
    }

    /// Calls `emit` with what covers the bytes from `from` to at least `to`; returns where it ended.
    pub(super) fn parse(&mut self, from: usize, to: usize, mut emit: impl FnMut(Item)) -> usize {
        let mut at = from;
        while at < to {
            let found = self.search(at, SHORTEST - 1);
            if found.length == 0 {
                emit(Item::Literal(self.data[at]));
                at += 1;
            } else {
                at = self.settle(at, found, &mut emit);
            }
        }
        at
    }

    /// Takes the match, or one that begins later and is worth more; returns where it ends.
    fn settle(&mut self, mut at: usize, mut found: Found, emit: &mut impl FnMut(Item)) -> usize {
        while found.length < NICE {
            let later = self.search(at + 1, found.length - 1);
            if later.length == 0 || later.worth() <= found.worth() + 2 {
                break;
            }
            emit(Item::Literal(self.data[at]));
            (at, found) = (at + 1, later);
        }
        emit(Item::Match { length: found.length as u16, distance: found.distance as u16 });
        let end = at + found.length;
        self.insert_until(end);
        end
    }

    /// The longest match at `at` of more than `least` bytes, if there is one.
    fn search(&mut self, at: usize, least: usize) -> Found {
        let longest = LONGEST.min(self.data.len() - at);
        if longest < WORD || longest <= least {
            return Found::default();
        }
        let (recent, short) = self.insert(at);
        self.next = at + 1;
        if at == 0 {
            return Found::default();
        }
        // Without a branch for each, which no processor could predict.
        let hits =
            (0..WAYS).fold(0, |hits, way| hits | u32::from(self.differ(at, nth(recent, way)) == 0) << way);
        if hits == 0 {
            let three = least < SHORTEST && self.differ(at, short) << 8 == 0;
            let found = Found { length: SHORTEST, distance: distance(at, short) };
            return if three { found } else { Found::default() };
        }
        self.longest(at, recent, hits, least)
    }

    /// The longest of these hits, if one has more than `least` bytes.
    #[inline]
    fn longest(&self, at: usize, recent: u64, mut hits: u32, least: usize) -> Found {
        let longest = LONGEST.min(self.data.len() - at);
        let mut found = Found { length: least, distance: 0 };
        while hits != 0 && found.length < NICE.min(longest) {
            let distance = distance(at, nth(recent, hits.trailing_zeros()));
            hits &= hits - 1;
            if self.data[at - distance + found.length] == self.data[at + found.length] {
                let length = self.common(at - distance, at, longest);
                if length > found.length {
                    found = Found { length, distance };
                }
            }
        }
        if found.distance == 0 { Found::default() } else { found }
    }

    /// How many bytes are the same at both positions, up to `longest`.
    fn common(&self, earlier: usize, at: usize, longest: usize) -> usize {
        let (a, b) = (&self.data[earlier..earlier + longest], &self.data[at..at + longest]);
        let ((words, rest), (others, other_rest)) = (a.as_chunks::<WORD>(), b.as_chunks::<WORD>());
        let mut length = 0;
        for (x, y) in words.iter().zip(others) {
            let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
            if differ != 0 {
                return length + differ.trailing_zeros() as usize / 8;
            }
            length += WORD;
        }
        length + rest.iter().zip(other_rest).take_while(|(x, y)| x == y).count()
    }

    fn insert_until(&mut self, end: usize) {
        for at in self.next..end.min((self.data.len() + 1).saturating_sub(WORD)) {
            self.insert(at);
        }
        self.next = self.next.max(end);
    }

    /// Puts a position into the tables; returns what was there before.
    #[inline]
    fn insert(&mut self, at: usize) -> (u64, u16) {
        let word = self.four(at);
        let recent = &mut self.recent[hash(word)];
        let before = *recent;
        *recent = before << 16 | at as u64 & 0xffff;
        (before, std::mem::replace(&mut self.short[hash(word << 8)], at as u16))
    }

    /// In which bits the four bytes here and those of an earlier place differ; the first byte is the lowest.
    #[inline]
    fn differ(&self, at: usize, place: u16) -> u32 {
        self.four(at - distance(at, place)) ^ self.four(at)
    }

    #[inline]
    fn four(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.data[at..at + 4].try_into().expect("four bytes"))
    }
}

/// Zeroes, without a way over the stack.
fn table<T: Default + Clone, const N: usize>() -> Box<[T; N]> {
    vec![T::default(); N].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("it has N elements"))
}

/// One of the places kept in a word, the latest first.
#[inline]
fn nth(recent: u64, way: u32) -> u16 {
    (recent >> (16 * way)) as u16
}

/// How far before `at` a place is of which only the lowest bits are known.
#[inline]
fn distance(at: usize, place: u16) -> usize {
    let distance = usize::from((at as u16).wrapping_sub(place).wrapping_sub(1)) % WINDOW + 1;
    distance.min(at)
}

/// Knuth's multiplicative hash.
#[inline]
fn hash(word: u32) -> usize {
    (word.wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS)) as usize
}
