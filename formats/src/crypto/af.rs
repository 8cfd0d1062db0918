//! The anti-forensic splitter of the LUKS1 on-disk format (AFsplit, AFmerge), which LUKS2 uses too.
//!
//! A key becomes many stripes of its own length, all of which are needed to get it back. Every stripe but the last is
//! random; the last is the key XORed with the diffused sum of the others.

use secret::{Error, Result};
use zeroize::Zeroizing;

use super::HashAlg;

/// Stripes of every LUKS key slot.
pub const STRIPES: usize = 4000;

/// Splits `key` into `stripes` stripes; `random` fills a buffer with random bytes.
///
/// # Errors
/// `stripes` is zero, or `random` fails.
pub fn split(
    hash: HashAlg,
    key: &[u8],
    stripes: usize,
    random: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<Zeroizing<Vec<u8>>> {
    let before_last =
        stripes.checked_sub(1).ok_or_else(|| Error::invalid("A key cannot be split into no stripes"))?;
    let mut material = Zeroizing::new(vec![0; key.len() * stripes]);
    let (stripes, last) = material.split_at_mut(key.len() * before_last);
    random(stripes)?;
    let sum = diffused_sum(hash, stripes, key.len());
    last.copy_from_slice(key);
    xor(last, &sum);
    Ok(material)
}

/// Puts the key back together from all of its stripes; `key` says how long a stripe is.
///
/// # Errors
/// `material` is not a whole number of stripes, at least one.
pub fn merge(hash: HashAlg, material: &[u8], key: &mut [u8]) -> Result<()> {
    if key.is_empty() || material.is_empty() || !material.len().is_multiple_of(key.len()) {
        let text =
            format!("Key material of {} bytes is not made of {}-byte stripes", material.len(), key.len());
        return Err(Error::corrupt(text));
    }
    let (stripes, last) = material.split_at(material.len() - key.len());
    let sum = diffused_sum(hash, stripes, key.len());
    key.copy_from_slice(last);
    xor(key, &sum);
    Ok(())
}

/// XORs each stripe to the sum so far, and diffuses the sum after each.
fn diffused_sum(hash: HashAlg, stripes: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut sum = Zeroizing::new(vec![0; len]);
    let mut digest = Zeroizing::new(vec![0; hash.digest_bytes()]);
    for stripe in stripes.chunks_exact(len.max(1)) {
        xor(&mut sum, stripe);
        diffuse(hash, &mut sum, &mut digest);
    }
    sum
}

/// Replaces each digest-sized piece of `sum` by the hash of its index and itself; the last piece may be shorter.
fn diffuse(hash: HashAlg, sum: &mut [u8], digest: &mut [u8]) {
    for (index, piece) in (0_u32..).zip(sum.chunks_mut(digest.len())) {
        hash.digest_into(&[&index.to_be_bytes(), piece], digest);
        piece.copy_from_slice(&digest[..piece.len()]);
    }
}

fn xor(to: &mut [u8], with: &[u8]) {
    to.iter_mut().zip(with).for_each(|(a, b)| *a ^= b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    fn random(to: &mut [u8]) -> Result<()> {
        SmallRng::seed_from_u64(9).fill_bytes(to);
        Ok(())
    }

    #[test]
    fn merging_gives_back_the_key_for_every_hash_and_length() {
        for hash in HashAlg::all() {
            for len in [1, 16, 24, 32, 48, 64, 100] {
                let key: Vec<u8> = (0..len).collect();
                let material = split(hash, &key, 7, random).unwrap();
                assert_eq!(material.len(), key.len() * 7);
                let mut merged = vec![0; key.len()];
                merge(hash, &material, &mut merged).unwrap();
                assert_eq!(merged, key);
            }
        }
    }

    #[test]
    fn one_wrong_bit_in_any_stripe_spoils_the_key() {
        let key = [0x5a; 32];
        let material = split(HashAlg::Sha256, &key, 4, random).unwrap();
        for at in [0, 31, 32, 70, 127] {
            let mut spoiled = material.to_vec();
            spoiled[at] ^= 1;
            let mut merged = [0; 32];
            merge(HashAlg::Sha256, &spoiled, &mut merged).unwrap();
            assert_ne!(merged, key);
        }
    }

    #[test]
    fn a_single_stripe_is_the_key_itself() {
        assert_eq!(*split(HashAlg::Sha1, &[1, 2, 3], 1, random).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn material_that_is_no_whole_number_of_stripes_is_refused() {
        assert!(merge(HashAlg::Sha1, &[0; 33], &mut [0; 16]).is_err());
        assert!(merge(HashAlg::Sha1, &[], &mut [0; 16]).is_err());
        assert!(merge(HashAlg::Sha1, &[0; 16], &mut []).is_err());
        assert!(split(HashAlg::Sha1, &[0; 16], 0, random).is_err());
    }

    #[test]
    fn a_failing_random_source_is_reported() {
        let failing = |_: &mut [u8]| Err(Error::invalid("no entropy"));
        assert_eq!(split(HashAlg::Sha1, &[0; 16], 2, failing).unwrap_err().to_string(), "no entropy");
    }
}
