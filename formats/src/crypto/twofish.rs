//! The Twofish block cipher (Schneier and others, 1998) with key-dependent tables, made for bulk data.
//!
//! The RustCrypto crate computes every S-box from its definition in each round, 3 MB/s, which is too slow for a disk;
//! it stays the reference in the tests. Here the four key-dependent S-boxes are combined with the MDS matrix into
//! tables of 256 words when the key is set. All names are those of the paper.

use cipher::array::Array;
use cipher::consts::{U2, U16, U32};
use cipher::inout::InOut;
use cipher::{
    BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend,
    BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, InvalidLength, Key, KeyInit, KeySizeUser,
    ParBlocksSizeUser,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

type Block = Array<u8, U16>;

/// Twofish with a key of 16, 24 or 32 bytes.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Twofish {
    /// The subkeys: 4 for input whitening, 4 for output whitening, 2 for each of 16 rounds.
    k: [u32; 40],
    /// `g` of a word is the XOR of one entry per byte.
    g: [[u32; 256]; 4],
}

/// Multiplies in GF(2^8) modulo `poly`.
const fn gf_mul(a: u32, b: u32, poly: u32) -> u32 {
    let (mut product, mut a, mut bit) = (0, a, 0);
    while bit < 8 {
        if b >> bit & 1 == 1 {
            product ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= poly;
        }
        bit += 1;
    }
    product
}

/// The nibble permutations t0 to t3 of q0 and q1 (section 4.3.5).
const NIBBLES: [[[u8; 16]; 4]; 2] = [
    [
        [0x8, 0x1, 0x7, 0xd, 0x6, 0xf, 0x3, 0x2, 0x0, 0xb, 0x5, 0x9, 0xe, 0xc, 0xa, 0x4],
        [0xe, 0xc, 0xb, 0x8, 0x1, 0x2, 0x3, 0x5, 0xf, 0x4, 0xa, 0x6, 0x7, 0x0, 0x9, 0xd],
        [0xb, 0xa, 0x5, 0xe, 0x6, 0xd, 0x9, 0x0, 0xc, 0x8, 0xf, 0x3, 0x2, 0x4, 0x7, 0x1],
        [0xd, 0x7, 0xf, 0x4, 0x1, 0x2, 0x6, 0xe, 0x9, 0xb, 0x3, 0x0, 0x8, 0x5, 0xc, 0xa],
    ],
    [
        [0x2, 0x8, 0xb, 0xd, 0xf, 0x7, 0x6, 0xe, 0x3, 0x1, 0x9, 0x4, 0x0, 0xa, 0xc, 0x5],
        [0x1, 0xe, 0x2, 0xb, 0x4, 0xc, 0x3, 0x7, 0x6, 0xd, 0xa, 0x5, 0xf, 0x9, 0x0, 0x8],
        [0x4, 0xc, 0x7, 0x5, 0x1, 0x6, 0x9, 0xa, 0x0, 0xe, 0xd, 0x8, 0x2, 0xb, 0x3, 0xf],
        [0xb, 0x9, 0x5, 0x1, 0xc, 0x3, 0xd, 0xe, 0x6, 0x4, 0x7, 0xf, 0x2, 0x0, 0x8, 0xa],
    ],
];

/// The fixed permutations q0 and q1.
static Q: [[u8; 256]; 2] = [permutation(&NIBBLES[0]), permutation(&NIBBLES[1])];

const fn permutation(t: &[[u8; 16]; 4]) -> [u8; 256] {
    let mut q = [0; 256];
    let mut x = 0;
    while x < 256 {
        let (mut a, mut b) = (x >> 4, x & 15);
        let mut half = 0;
        while half < 2 {
            // b rotated right by one within its nibble; 8a modulo 16 is a's lowest bit on top.
            let mixed = a ^ (b >> 1 | (b & 1) << 3) ^ ((a & 1) << 3);
            a = t[2 * half][a ^ b] as usize;
            b = t[2 * half + 1][mixed] as usize;
            half += 1;
        }
        q[x] = t_byte(b, a);
        x += 1;
    }
    q
}

#[expect(clippy::cast_possible_truncation, reason = "both are nibbles")]
const fn t_byte(high: usize, low: usize) -> u8 {
    (high << 4 | low) as u8
}

/// Column j of the MDS matrix times each byte.
static MDS: [[u32; 256]; 4] = [
    mds_column([0x01, 0x5b, 0xef, 0xef]),
    mds_column([0xef, 0xef, 0x5b, 0x01]),
    mds_column([0x5b, 0xef, 0x01, 0xef]),
    mds_column([0x5b, 0x01, 0xef, 0x5b]),
];

const fn mds_column(column: [u32; 4]) -> [u32; 256] {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        let mut row = 0;
        while row < 4 {
            #[expect(clippy::cast_possible_truncation, reason = "x is below 256")]
            let product = gf_mul(x as u32, column[row], 0x169);
            table[x] |= product << (8 * row);
            row += 1;
        }
        x += 1;
    }
    table
}

/// The matrix of the Reed-Solomon code that makes the S-box keys (section 4.3).
const RS: [[u32; 8]; 4] = [
    [0x01, 0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e],
    [0xa4, 0x56, 0x82, 0xf3, 0x1e, 0xc6, 0x68, 0xe5],
    [0x02, 0xa1, 0xfc, 0xc1, 0x47, 0xae, 0x3d, 0x19],
    [0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e, 0x03],
];

/// Which of q0 and q1 byte j goes through before it meets word i of the list, and (last entry) after word 0.
const Q_ORDER: [[usize; 5]; 4] = [[1, 0, 0, 1, 1], [0, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 1]];

/// Byte `j` of the function h before the MDS matrix (section 4.3.2), for the list `l` of 2, 3 or 4 words.
fn h_byte(j: usize, x: u8, l: &[[u8; 4]]) -> u8 {
    let through = |x: u8, q: usize| Q[q][usize::from(x)];
    let keyed = l.iter().enumerate().rev().fold(x, |y, (i, word)| through(y, Q_ORDER[j][i + 1]) ^ word[j]);
    through(keyed, Q_ORDER[j][0])
}

/// The function h of a word whose four bytes are `x`.
fn h(x: u8, l: &[[u8; 4]]) -> u32 {
    (0..4).fold(0, |z, j| z ^ MDS[j][usize::from(h_byte(j, x, l))])
}

fn rs_word(eight: &[u8]) -> [u8; 4] {
    RS.map(|row| {
        let sum = row.iter().zip(eight).fold(0, |sum, (m, byte)| sum ^ gf_mul(*m, u32::from(*byte), 0x14d));
        sum.to_le_bytes()[0]
    })
}

impl KeySizeUser for Twofish {
    type KeySize = U32;
}

impl KeyInit for Twofish {
    fn new(key: &Key<Self>) -> Self {
        Self::new_from_slice(key).expect("32 bytes are one of the sizes")
    }

    fn new_from_slice(key: &[u8]) -> Result<Self, InvalidLength> {
        if ![16, 24, 32].contains(&key.len()) {
            return Err(InvalidLength);
        }
        let words: Vec<[u8; 4]> = key.as_chunks().0.to_vec();
        let even: Vec<_> = words.iter().copied().step_by(2).collect();
        let odd: Vec<_> = words.iter().copied().skip(1).step_by(2).collect();
        let s: Vec<_> = key.chunks_exact(8).rev().map(rs_word).collect();
        let mut cipher = Twofish { k: [0; 40], g: [[0; 256]; 4] };
        for (pair, i) in cipher.k.chunks_exact_mut(2).zip((0..40).step_by(2)) {
            let (a, b) = (h(i, &even), h(i + 1, &odd).rotate_left(8));
            pair[0] = a.wrapping_add(b);
            pair[1] = a.wrapping_add(b).wrapping_add(b).rotate_left(9);
        }
        for (j, table) in cipher.g.iter_mut().enumerate() {
            for (entry, x) in table.iter_mut().zip(0..=255) {
                *entry = MDS[j][usize::from(h_byte(j, x, &s))];
            }
        }
        [words, even, odd, s].iter_mut().for_each(Zeroize::zeroize);
        Ok(cipher)
    }
}

impl Twofish {
    #[inline(always)]
    fn g(&self, x: u32) -> u32 {
        let [a, b, c, d] = x.to_le_bytes().map(usize::from);
        self.g[0][a] ^ self.g[1][b] ^ self.g[2][c] ^ self.g[3][d]
    }

    /// The function F of round `r`.
    #[inline(always)]
    fn f(&self, r0: u32, r1: u32, round: usize) -> (u32, u32) {
        let (t0, t1) = (self.g(r0), self.g(r1.rotate_left(8)));
        let sum = t0.wrapping_add(t1);
        let (k0, k1) = (self.k[2 * round + 8], self.k[2 * round + 9]);
        (sum.wrapping_add(k0), sum.wrapping_add(t1).wrapping_add(k1))
    }

    /// XORs the words with four subkeys.
    #[inline(always)]
    fn whiten(&self, words: State, first: usize) -> State {
        std::array::from_fn(|i| words[i] ^ self.k[first + i])
    }
}

/// The four words of a block.
type State = [u32; 4];

impl Twofish {
    /// Encrypts `L` blocks side by side: the rounds of one wait for tables while those of another are worked on.
    #[inline(always)]
    fn encrypt<const L: usize>(&self, plain: [State; L]) -> [State; L] {
        let mut state = plain.map(|words| self.whiten(words, 0));
        for round in 0..16 {
            for [r0, r1, r2, r3] in &mut state {
                let (f0, f1) = self.f(*r0, *r1, round);
                (*r0, *r1, *r2, *r3) = ((*r2 ^ f0).rotate_right(1), r3.rotate_left(1) ^ f1, *r0, *r1);
            }
        }
        // The swap of the last round is undone.
        state.map(|[r0, r1, r2, r3]| self.whiten([r2, r3, r0, r1], 4))
    }

    /// Decrypts `L` blocks side by side.
    #[inline(always)]
    fn decrypt<const L: usize>(&self, encrypted: [State; L]) -> [State; L] {
        let mut state = encrypted.map(|words| self.whiten(words, 4)).map(|[r2, r3, r0, r1]| [r0, r1, r2, r3]);
        for round in (0..16).rev() {
            for [r0, r1, r2, r3] in &mut state {
                let (f0, f1) = self.f(*r2, *r3, round);
                (*r0, *r1, *r2, *r3) = (*r2, *r3, r0.rotate_left(1) ^ f0, (*r1 ^ f1).rotate_right(1));
            }
        }
        state.map(|words| self.whiten(words, 0))
    }
}

fn load(block: &Block) -> State {
    std::array::from_fn(|i| {
        u32::from_le_bytes([block[4 * i], block[4 * i + 1], block[4 * i + 2], block[4 * i + 3]])
    })
}

fn store(state: State, block: &mut Block) {
    for (bytes, word) in block.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

impl BlockSizeUser for Twofish {
    type BlockSize = U16;
}

impl ParBlocksSizeUser for Twofish {
    type ParBlocksSize = U2;
}

impl BlockCipherEncrypt for Twofish {
    fn encrypt_with_backend(&self, f: impl BlockCipherEncClosure<BlockSize = U16>) {
        f.call(self);
    }
}

impl BlockCipherDecrypt for Twofish {
    fn decrypt_with_backend(&self, f: impl BlockCipherDecClosure<BlockSize = U16>) {
        f.call(self);
    }
}

impl BlockCipherEncBackend for Twofish {
    fn encrypt_block(&self, mut block: InOut<'_, '_, Block>) {
        let [state] = self.encrypt([load(block.get_in())]);
        store(state, block.get_out());
    }

    fn encrypt_par_blocks(&self, mut blocks: InOut<'_, '_, Array<Block, U2>>) {
        let states = self.encrypt([load(&blocks.get_in()[0]), load(&blocks.get_in()[1])]);
        states.into_iter().zip(blocks.get_out()).for_each(|(state, block)| store(state, block));
    }
}

impl BlockCipherDecBackend for Twofish {
    fn decrypt_block(&self, mut block: InOut<'_, '_, Block>) {
        let [state] = self.decrypt([load(block.get_in())]);
        store(state, block.get_out());
    }

    fn decrypt_par_blocks(&self, mut blocks: InOut<'_, '_, Array<Block, U2>>) {
        let states = self.decrypt([load(&blocks.get_in()[0]), load(&blocks.get_in()[1])]);
        states.into_iter().zip(blocks.get_out()).for_each(|(state, block)| store(state, block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    /// The table of intermediate values with the paper: each result is the next plaintext and goes in front of the key.
    fn chained(key_bytes: usize) -> Vec<u8> {
        let (mut key, mut plain) = (vec![0; key_bytes], Block::default());
        for _ in 0..49 {
            let mut data = plain;
            BlockCipherEncrypt::encrypt_block(&Twofish::new_from_slice(&key).unwrap(), &mut data);
            key.splice(0..0, plain.iter().copied());
            key.truncate(key_bytes);
            plain = data;
        }
        plain.to_vec()
    }

    #[test]
    fn the_papers_forty_ninth_result_comes_out_for_each_key_size() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02X}")).collect::<String>();
        assert_eq!(hex(chained(16)), "5D9D4EEFFA9151575524F115815A12E0");
        assert_eq!(hex(chained(24)), "E75449212BEEF9F4A390BD860A640941");
        assert_eq!(hex(chained(32)), "37FE26FF1CF66175F5DDF4C33B97A205");
    }

    #[test]
    fn it_agrees_with_the_reference_crate_in_both_directions() {
        let mut rng = SmallRng::seed_from_u64(3);
        for bytes in [16, 24, 32].repeat(30) {
            let key: Vec<u8> = (0..bytes).map(|_| rng.random()).collect();
            let (ours, reference) =
                (Twofish::new_from_slice(&key).unwrap(), ::twofish::Twofish::new_from_slice(&key).unwrap());
            let plain = Block::from(rng.random::<[u8; 16]>());
            let (mut a, mut b) = (plain, plain);
            BlockCipherEncrypt::encrypt_block(&ours, &mut a);
            BlockCipherEncrypt::encrypt_block(&reference, &mut b);
            assert_eq!(a, b);
            BlockCipherDecrypt::decrypt_block(&ours, &mut a);
            assert_eq!(a, plain);
        }
    }

    #[test]
    fn a_key_of_another_size_is_refused() {
        assert!(Twofish::new_from_slice(&[0; 20]).is_err());
    }
}
