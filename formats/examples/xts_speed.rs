//! Prints how fast one core encrypts and decrypts sectors, in GB/s, beside the `xts-mode` crate.
//!
//! `cargo run --release -p formats --example xts_speed [WORD KEYBYTES]…`, such as `aes-xts-plain64 64`.

#![expect(clippy::print_stdout, reason = "this program only prints")]

use std::time::{Duration, Instant};

use aes::Aes256;
use aes::cipher::KeyInit;
use formats::crypto::{CipherSpec, SectorSize, new};
use xts_mode::{Xts128, get_tweak_default};

/// Best of many passes over a buffer of 64 KiB, the size of a request that stays in the second-level cache.
fn speed(mut pass: impl FnMut(&mut [u8])) -> f64 {
    let mut data = vec![0x5a; 64 << 10];
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_millis(400) {
        let pass_start = Instant::now();
        (0..16).for_each(|_| pass(&mut data));
        best = best.min(pass_start.elapsed() / 16);
    }
    data.len() as f64 / best.as_secs_f64() / 1e9
}

fn report(word: &str, key_bytes: usize) {
    let spec = CipherSpec::parse_dm(word, key_bytes).expect("a cipher specification");
    let key: Vec<u8> = (0..key_bytes).map(|i| u8::try_from(i).expect("keys are short")).collect();
    for sector in [512, 4096] {
        let cipher =
            new(&spec, &key, SectorSize::new(sector).expect("a sector size")).expect("a key that fits");
        let (encrypt, decrypt) =
            (speed(|data| cipher.encrypt(0, data)), speed(|data| cipher.decrypt(0, data)));
        let small = speed(|data| data.chunks_mut(4096).for_each(|request| cipher.encrypt(0, request)));
        println!(
            "{word:24} {:3} bits, {sector:4}-byte sectors: encrypt {encrypt:6.3}, decrypt {decrypt:6.3}, \
             encrypt in 4 KiB requests {small:6.3} GB/s",
            key_bytes * 8
        );
    }
}

fn reference() {
    let key = |byte| Aes256::new(&[byte; 32].into());
    let xts = Xts128::new(key(1), key(2));
    let encrypt = speed(|data| xts.encrypt_area(data, 512, 0, get_tweak_default));
    println!("xts-mode crate           512 bits,  512-byte sectors: encrypt {encrypt:6.3} GB/s");
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    for pair in args.chunks_exact(2) {
        report(&pair[0], pair[1].parse().expect("a number of bytes"));
    }
    if args.is_empty() {
        reference();
        for (word, key_bytes) in [
            ("aes-xts-plain64", 64),
            ("aes-xts-plain64", 32),
            ("aes-xts-essiv:sha256", 64),
            ("aes-cbc-essiv:sha256", 32),
            ("aes-ctr-plain64", 32),
            ("aes-ecb", 32),
            ("aes-lrw-benbi", 48),
            ("serpent-xts-plain64", 64),
            ("twofish-xts-plain64", 64),
            ("cast5-cbc-plain64", 16),
        ] {
            report(word, key_bytes);
        }
    }
}
