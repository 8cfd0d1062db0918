//! Sector ciphers against references and against themselves. Published vectors of one mode are with the mode.

use cipher::KeyInit;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;

mod published;

/// Every combination of a cipher, a mode and an IV generator that is not refused.
fn all_specs() -> Vec<CipherSpec> {
    let ivgens = || IvGen::all().map(|ivgen| (Some(ivgen), None)).chain([(None, None)]);
    let essivs = || HashAlg::all().map(|hash| (Some(IvGen::Essiv), Some(hash)));
    let modes = || Mode::all().flat_map(move |mode| ivgens().chain(essivs()).map(move |iv| (mode, iv)));
    Cipher::all()
        .flat_map(|cipher| {
            modes().map(move |(mode, (ivgen, hash))| CipherSpec::new(cipher, mode, ivgen, hash))
        })
        .filter_map(Result::ok)
        .collect()
}

fn random(rng: &mut SmallRng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.random()).collect()
}

fn sized(bytes: u64) -> SectorSize {
    SectorSize::new(bytes).unwrap()
}

#[test]
fn decrypting_undoes_encrypting_in_every_combination_and_sector_size() {
    let mut rng = SmallRng::seed_from_u64(1);
    let specs = all_specs();
    assert!(specs.len() > 300, "{}", specs.len());
    for spec in specs {
        let key = random(&mut rng, spec.key_bytes());
        for size in [512, 4096] {
            let cipher = new(&spec, &key, sized(size)).unwrap();
            let plain = random(&mut rng, 12288);
            let mut data = plain.clone();
            cipher.encrypt(u64::MAX - 3, &mut data);
            assert_ne!(data, plain, "{spec}");
            cipher.decrypt(u64::MAX - 3, &mut data);
            assert_eq!(data, plain, "{spec}");
        }
    }
}

#[test]
fn a_run_gives_the_same_bytes_whole_or_sector_by_sector_in_place_or_copied() {
    let mut rng = SmallRng::seed_from_u64(2);
    for spec in all_specs() {
        let key = random(&mut rng, spec.key_bytes());
        let cipher = new(&spec, &key, SectorSize::B512).unwrap();
        let sectors = rng.random_range(1..150);
        let plain = random(&mut rng, 512 * sectors);
        let mut whole = plain.clone();
        cipher.encrypt(7, &mut whole);
        let mut copied = vec![0; plain.len()];
        cipher.encrypt_to(7, &plain, &mut copied);
        assert!(whole == copied, "{spec}");
        let mut single = plain.clone();
        for (sector, data) in (7..).zip(single.chunks_mut(512)) {
            cipher.encrypt(sector, data);
        }
        assert!(whole == single, "{spec}");
        cipher.decrypt_to(7, &whole, &mut copied);
        assert!(plain == copied, "{spec}");
        for (sector, data) in (7..).zip(single.chunks_mut(512)) {
            cipher.decrypt(sector, data);
        }
        assert!(plain == single, "{spec}");
    }
}

#[test]
fn xts_is_that_of_the_reference_crate() {
    let mut rng = SmallRng::seed_from_u64(4);
    for (size, sectors) in [(512, 1), (512, 100), (1024, 9), (2048, 3), (4096, 5)] {
        let key: [u8; 64] = rng.random();
        let spec = CipherSpec::parse("aes", "xts-plain64", key.len()).unwrap();
        let half = |half: &[u8]| aes::Aes256::new_from_slice(half).unwrap();
        let reference = xts_mode::Xts128::new(half(&key[..32]), half(&key[32..]));
        let first = rng.random::<u64>() >> 8;
        let mut ours = random(&mut rng, size * sectors);
        let mut theirs = ours.clone();
        new(&spec, &key, sized(size as u64)).unwrap().encrypt(first, &mut ours);
        for (sector, data) in (first..).step_by(size / 512).zip(theirs.chunks_mut(size)) {
            reference.encrypt_sector(data, xts_mode::get_tweak_default(sector.into()));
        }
        assert!(ours == theirs, "{sectors} sectors of {size}");
    }
}

#[test]
fn large_sectors_count_their_numbers_in_512_byte_units() {
    let spec = CipherSpec::parse("aes", "xts-plain64", 64).unwrap();
    let cipher = new(&spec, &[3; 64], sized(4096)).unwrap();
    let mut two = vec![0; 8192];
    cipher.encrypt(16, &mut two);
    let mut second = vec![0; 4096];
    cipher.encrypt(24, &mut second);
    assert_eq!(two[4096..], second);
}

#[test]
fn a_key_of_another_length_is_refused() {
    let spec = CipherSpec::parse("aes", "xts-plain64", 64).unwrap();
    let error = new(&spec, &[0; 32], SectorSize::B512).unwrap_err();
    assert_eq!(error.to_string(), "Volume key has 32 bytes, aes-xts-plain64 needs 64");
}

#[test]
fn a_sector_cipher_prints_no_key() {
    let spec = CipherSpec::parse("aes", "cbc-essiv:sha256", 16).unwrap();
    let cipher = new(&spec, &[0x41; 16], SectorSize::B512).unwrap();
    assert_eq!(format!("{cipher:?}"), "SectorCipher(aes-cbc-essiv:sha256, 512 bytes)");
}
