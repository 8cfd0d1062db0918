//! Prefix codes of bounded length (RFC 1951, 3.2.2).

/// Code of each symbol, in the order of sending, and its length in bits; symbols that do not occur have length 0.
#[derive(Clone)]
pub(super) struct Codes<const N: usize> {
    pub(super) bits: [u16; N],
    pub(super) lengths: [u8; N],
}

impl<const N: usize> Codes<N> {
    /// The best code for these frequencies whose codes have at most `longest` bits. There are always two symbols at least: decoders
    /// refuse a code that leaves room.
    pub(super) fn best(frequencies: &[u32; N], longest: usize) -> Self {
        let mut used: Vec<u64> =
            (0u64..).zip(frequencies).filter(|(_, count)| **count > 0).map(keyed).collect();
        let missing = 2usize.saturating_sub(used.len());
        let unused = (0u64..).zip(frequencies).filter(|(_, count)| **count == 0);
        used.extend(unused.take(missing).map(keyed));
        used.sort_unstable();
        let mut counts = counts(&mut depths(&used), longest);
        let mut lengths = [0; N];
        let mut length = longest;
        for key in used {
            while counts[length] == 0 {
                length -= 1;
            }
            counts[length] -= 1;
            lengths[(key & SYMBOL) as usize] = length as u8;
        }
        Self::canonical(lengths)
    }

    /// The code that these lengths stand for.
    pub(super) fn canonical(lengths: [u8; N]) -> Self {
        let mut next = [0u16; 16];
        let mut code = 0;
        for (length, first) in next.iter_mut().enumerate().skip(1) {
            *first = code;
            code = (code + lengths.iter().filter(|l| usize::from(**l) == length).count() as u16) << 1;
        }
        let bits = lengths.map(|length| {
            let code = next[usize::from(length)];
            next[usize::from(length)] += 1;
            if length == 0 { 0 } else { code.reverse_bits() >> (16 - length) }
        });
        Self { bits, lengths }
    }

    /// Bits that symbols of these frequencies take.
    pub(super) fn cost(&self, frequencies: &[u32; N]) -> u64 {
        self.lengths
            .iter()
            .zip(frequencies)
            .map(|(length, count)| u64::from(*length) * u64::from(*count))
            .sum()
    }
}

/// Frequency and symbol in one number, in the order of frequencies.
fn keyed((symbol, count): (u64, &u32)) -> u64 {
    u64::from(*count) << 16 | symbol
}

const SYMBOL: u64 = 0xffff;

/// How deep each symbol is in a tree of the least cost; the rarest first. Moffat and Katajainen's method: of two queues, symbols and
/// joined nodes, both sorted, the two lightest are joined.
fn depths(used: &[u64]) -> Vec<usize> {
    let count = used.len();
    let weight = |at: usize| used[at] >> 16;
    let mut joined: Vec<u64> = Vec::with_capacity(count - 1);
    // The node each symbol, and behind them each joined node, hangs from.
    let mut above = vec![0; 2 * count - 1];
    let (mut leaf, mut node) = (0, 0);
    for made in 0..count - 1 {
        let mut sum = 0;
        for _ in 0..2 {
            if leaf < count && (node == joined.len() || weight(leaf) <= joined[node]) {
                sum += weight(leaf);
                above[leaf] = made;
                leaf += 1;
            } else {
                sum += joined[node];
                above[count + node] = made;
                node += 1;
            }
        }
        joined.push(sum);
    }
    let mut depth = vec![0; 2 * count - 1];
    for at in (0..2 * count - 2).rev() {
        depth[at] = depth[count + above[at]] + 1;
    }
    depth.truncate(count);
    depth
}

/// How many symbols have each length, none above `longest`: what was deeper is pulled up, and for each unit of code space that takes
/// too much, a pair is made of a shallower symbol and a deepest one.
fn counts(depths: &mut [usize], longest: usize) -> [usize; 16] {
    let mut counts = [0; 16];
    for depth in depths {
        counts[(*depth).min(longest)] += 1;
    }
    let space: usize = (1..=longest).map(|length| counts[length] << (longest - length)).sum();
    for _ in 1 << longest..space {
        let length =
            (1..longest).rev().find(|length| counts[*length] > 0).expect("the code has room for all symbols");
        counts[length] -= 1;
        counts[length + 1] += 2;
        counts[longest] -= 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kraft's sum in units of the longest code.
    fn space<const N: usize>(codes: &Codes<N>) -> u32 {
        codes.lengths.iter().filter(|length| **length > 0).map(|length| 1 << (15 - length)).sum()
    }

    #[test]
    fn every_code_is_complete_and_within_the_limit() {
        let fibonacci: [u32; 30] = std::array::from_fn(|i| (0..i).fold((1, 1), |(a, b), _| (b, a + b)).0);
        for longest in [5, 7, 15] {
            let codes = Codes::best(&fibonacci, longest);
            assert!(codes.lengths.iter().all(|length| (1..=longest).contains(&usize::from(*length))));
            assert_eq!(space(&codes), 1 << 15);
        }
    }

    #[test]
    fn fewer_than_two_symbols_still_make_a_complete_code() {
        assert_eq!(Codes::best(&[0; 19], 7).lengths[..3], [1, 1, 0]);
        let mut one = [0; 19];
        one[5] = 9;
        let codes = Codes::best(&one, 7);
        assert_eq!((codes.lengths[0], codes.lengths[5]), (1, 1));
    }

    #[test]
    fn codes_are_those_of_the_example_in_the_specification() {
        let codes = Codes::canonical([3, 3, 3, 3, 3, 2, 4, 4]);
        let sent: Vec<u16> = codes
            .bits
            .iter()
            .zip(codes.lengths)
            .map(|(bits, len)| bits.reverse_bits() >> (16 - len))
            .collect();
        assert_eq!(sent, [0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111]);
    }
}
