//! One block of the stream (RFC 1951, 3.2.3): stored, or in one of two codes, whichever is shortest.

use super::bits::BitWriter;
use super::huffman::Codes;
use super::matches::Item;
use std::sync::LazyLock;

/// Symbols for literals and lengths, and for distances up to the window.
const LITERALS: usize = 288;
const DISTANCES: usize = 30;
const END_OF_BLOCK: usize = 256;
const LONGEST_CODE: usize = 15;
/// The alphabet in which a block's own codes are told, and the order of its lengths (3.2.7).
const TOLD: usize = 19;
const LONGEST_TOLD_CODE: usize = 7;
const TOLD_ORDER: [usize; TOLD] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// Symbols that repeat the last length, or a length of 0 (few or many times): extra bits and the fewest repetitions.
const REPEAT: (usize, u32, usize) = (16, 2, 3);
const FEW_ZEROES: (usize, u32, usize) = (17, 3, 3);
const MANY_ZEROES: (usize, u32, usize) = (18, 7, 11);
/// The longest stored block.
const LONGEST_STORED: usize = 65535;

/// What is known of a run of items: how often each symbol occurs, and the extra bits.
#[derive(Clone)]
pub(super) struct Tally {
    literals: [u32; LITERALS],
    distances: [u32; DISTANCES],
    extra: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self { literals: [0; LITERALS], distances: [0; DISTANCES], extra: 0 }
    }

    pub(super) fn add(&mut self, item: Item) {
        match item {
            Item::Literal(byte) => self.literals[usize::from(byte)] += 1,
            Item::Match { length, distance } => {
                let (length, distance) = (length_symbol(length), distance_symbol(distance));
                self.literals[length.symbol] += 1;
                self.distances[distance.symbol] += 1;
                self.extra += u64::from(length.extra_bits + distance.extra_bits);
            }
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.literals.iter_mut().zip(other.literals).for_each(|(mine, more)| *mine += more);
        self.distances.iter_mut().zip(other.distances).for_each(|(mine, more)| *mine += more);
        self.extra += other.extra;
    }

    /// About how many bits the best code of its own takes, without telling the code.
    pub(super) fn entropy(&self) -> f32 {
        entropy(&self.literals) + entropy(&self.distances) + self.extra as f32
    }

    fn cost(&self, codes: &BlockCodes) -> u64 {
        codes.literals.cost(&self.literals) + codes.distances.cost(&self.distances) + self.extra
    }
}

fn entropy(counts: &[u32]) -> f32 {
    let total: u32 = counts.iter().sum();
    let used = counts.iter().filter(|count| **count > 0);
    let sum: f32 = used.map(|count| *count as f32 * (*count as f32).log2()).sum();
    if total == 0 { 0.0 } else { total as f32 * (total as f32).log2() - sum }
}

/// A symbol with what follows it.
struct Symbol {
    symbol: usize,
    extra_bits: u32,
    extra: u32,
}

/// The table of 3.2.5: after eight lengths of their own, four symbols for each number of extra bits.
fn length_symbol(length: u16) -> Symbol {
    let from = u32::from(length) - 3;
    match from {
        0..=7 => Symbol { symbol: 257 + from as usize, extra_bits: 0, extra: 0 },
        255 => Symbol { symbol: 285, extra_bits: 0, extra: 0 },
        _ => {
            let extra_bits = from.ilog2() - 2;
            let symbol = 257 + 4 * extra_bits as usize + (from >> extra_bits) as usize;
            Symbol { symbol, extra_bits, extra: from & ((1 << extra_bits) - 1) }
        }
    }
}

/// The same for distances: two symbols for each number of extra bits.
fn distance_symbol(distance: u16) -> Symbol {
    let from = u32::from(distance) - 1;
    if from < 4 {
        return Symbol { symbol: from as usize, extra_bits: 0, extra: 0 };
    }
    let extra_bits = from.ilog2() - 1;
    let symbol = 2 * extra_bits as usize + (from >> extra_bits) as usize;
    Symbol { symbol, extra_bits, extra: from & ((1 << extra_bits) - 1) }
}

static FIXED: LazyLock<BlockCodes> = LazyLock::new(BlockCodes::fixed);

struct BlockCodes {
    literals: Codes<LITERALS>,
    distances: Codes<DISTANCES>,
}

impl BlockCodes {
    fn best(tally: &Tally) -> Self {
        Self {
            literals: Codes::best(&tally.literals, LONGEST_CODE),
            distances: Codes::best(&tally.distances, LONGEST_CODE),
        }
    }

    /// The code that needs not be told (3.2.6).
    fn fixed() -> Self {
        let lengths = std::array::from_fn(|symbol| match symbol {
            0..=143 => 8,
            144..=255 => 9,
            256..=279 => 7,
            _ => 8,
        });
        Self { literals: Codes::canonical(lengths), distances: Codes::canonical([5; DISTANCES]) }
    }

    fn write(&self, items: &[Item], out: &mut BitWriter) {
        for item in items {
            match *item {
                Item::Literal(byte) => self.literals.write(usize::from(byte), out),
                Item::Match { length, distance } => {
                    let (length, distance) = (length_symbol(length), distance_symbol(distance));
                    self.literals.write(length.symbol, out);
                    out.put(length.extra, length.extra_bits);
                    self.distances.write(distance.symbol, out);
                    out.put(distance.extra, distance.extra_bits);
                }
            }
        }
        self.literals.write(END_OF_BLOCK, out);
    }
}

impl<const N: usize> Codes<N> {
    fn write(&self, symbol: usize, out: &mut BitWriter) {
        out.put(u32::from(self.bits[symbol]), u32::from(self.lengths[symbol]));
    }
}

/// How a block tells its codes: the lengths of both, with repetitions as symbols of their own.
struct Told {
    literals: usize,
    distances: usize,
    symbols: Vec<(usize, u32, u32)>,
    codes: Codes<TOLD>,
    /// How many lengths of `codes` are sent.
    sent: usize,
    cost: u64,
}

impl Told {
    fn new(codes: &BlockCodes) -> Self {
        let used = |lengths: &[u8], least: usize| {
            lengths.iter().rposition(|length| *length > 0).map_or(least, |last| least.max(last + 1))
        };
        let literals = used(&codes.literals.lengths, 257);
        let distances = used(&codes.distances.lengths, 1);
        let symbols =
            runs(&[&codes.literals.lengths[..literals], &codes.distances.lengths[..distances]].concat());
        let mut counts = [0; TOLD];
        symbols.iter().for_each(|(symbol, ..)| counts[*symbol] += 1);
        let codes = Codes::best(&counts, LONGEST_TOLD_CODE);
        let sent = TOLD_ORDER
            .iter()
            .rposition(|symbol| codes.lengths[*symbol] > 0)
            .map_or(4, |last| (last + 1).max(4));
        let extra: u32 = symbols.iter().map(|(_, bits, _)| bits).sum();
        let cost = 14 + 3 * sent as u64 + codes.cost(&counts) + u64::from(extra);
        Self { literals, distances, symbols, codes, sent, cost }
    }

    fn write(&self, out: &mut BitWriter) {
        out.put(self.literals as u32 - 257, 5);
        out.put(self.distances as u32 - 1, 5);
        out.put(self.sent as u32 - 4, 4);
        for symbol in &TOLD_ORDER[..self.sent] {
            out.put(u32::from(self.codes.lengths[*symbol]), 3);
        }
        for (symbol, bits, extra) in &self.symbols {
            self.codes.write(*symbol, out);
            out.put(*extra, *bits);
        }
    }
}

/// Lengths as symbols, each with its extra bits: their number and value.
fn runs(lengths: &[u8]) -> Vec<(usize, u32, u32)> {
    let mut symbols = Vec::new();
    for run in lengths.chunk_by(|a, b| a == b) {
        let (length, mut left) = (usize::from(run[0]), run.len());
        if length > 0 {
            symbols.push((length, 0, 0));
            left -= 1;
        }
        while left > 0 {
            let kind = match (length, left) {
                (0, 11..) => MANY_ZEROES,
                (0, 3..) => FEW_ZEROES,
                (_, 3..) => REPEAT,
                _ => (length, 0, 1),
            };
            let (symbol, bits, least) = kind;
            let count = left.min(least + (1 << bits) - 1);
            symbols.push((symbol, bits, (count - least) as u32));
            left -= count;
        }
    }
    symbols
}

/// Writes items, which stand for `bytes`, as one block.
pub(super) fn write(items: &[Item], mut tally: Tally, bytes: &[u8], last: bool, out: &mut BitWriter) {
    tally.literals[END_OF_BLOCK] += 1;
    let codes = BlockCodes::best(&tally);
    let told = Told::new(&codes);
    let own = told.cost + tally.cost(&codes);
    let plain = tally.cost(&FIXED);
    // Each stored block has three bits, what is left of the byte, and its length twice.
    let stored = bytes.len().div_ceil(LONGEST_STORED) as u64 * 42 + 8 * bytes.len() as u64;
    if stored < own.min(plain) {
        return store(bytes, last, out);
    }
    out.put(u32::from(last), 1);
    if plain <= own {
        out.put(1, 2);
        FIXED.write(items, out);
    } else {
        out.put(2, 2);
        told.write(out);
        codes.write(items, out);
    }
}

fn store(bytes: &[u8], last: bool, out: &mut BitWriter) {
    let pieces = bytes.len().div_ceil(LONGEST_STORED);
    for (at, piece) in bytes.chunks(LONGEST_STORED).enumerate() {
        out.put(u32::from(last && at + 1 == pieces), 3);
        out.align();
        out.put(piece.len() as u32, 16);
        out.put(!(piece.len() as u32) & 0xffff, 16);
        piece.iter().for_each(|byte| out.put(u32::from(*byte), 8));
    }
}
