//! Whether the passphrase is the right one.
//!
//! The format has no check: a wrong passphrase gives noise. So what it gives is looked at: signatures of partition
//! tables, file systems and the like, sectors of zeroes, sectors with less entropy than noise. Only sectors that the
//! image stores encrypted count. A sector whose 16-byte blocks are all the same, but not zero, says nothing: it is what
//! zeroes that were stored without encryption become under any key.

use block::extents::Extents;
use block::{Image, Result, SECTOR, Want};
use std::fmt;
use std::ops::Range;

/// The most sectors that are looked at.
const SAMPLES: u64 = 2048;

/// Fewer sectors of noise than this say little.
const FEW: u32 = 8;

/// Bits of entropy in a byte of a sector below which it is not noise: noise has 7.6, with a deviation of 0.03.
const ORDERED: f64 = 7.0;

/// How sure the judgement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    /// The image stores nothing encrypted: any passphrase will do.
    Nothing,
    /// The passphrase is right.
    Certain,
    /// Something was found that noise has once in thousands of images.
    Likely,
    /// Too little is stored to say.
    Unknown,
    /// All is noise.
    Wrong,
}

/// The judgement, and what it rests on.
#[derive(Debug, Clone)]
pub(super) struct Judgement {
    pub(super) certainty: Certainty,
    /// What was recognised, and where.
    pub(super) signs: Vec<String>,
    /// Sectors that were looked at.
    pub(super) sampled: u32,
    /// Those of them that are not noise.
    pub(super) ordered: u32,
}

impl Judgement {
    /// Whether it is good enough to go on.
    pub(super) fn accepts(&self) -> bool {
        !matches!(self.certainty, Certainty::Unknown | Certainty::Wrong)
    }

    /// How sure, in a word.
    pub(super) fn word(&self) -> &'static str {
        match self.certainty {
            Certainty::Nothing => "empty",
            Certainty::Certain => "certain",
            Certainty::Likely => "likely",
            Certainty::Unknown => "unknown",
            Certainty::Wrong => "wrong",
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.certainty == Certainty::Nothing {
            return f.write_str("nothing is stored encrypted");
        }
        let Judgement { signs, sampled, ordered, .. } = self;
        write!(f, "{ordered} of {sampled} sectors looked at are not noise")?;
        if signs.is_empty() { Ok(()) } else { write!(f, "; found: {}", signs.join(", ")) }
    }
}

/// Something that file systems and the like begin with.
struct Signature {
    name: &'static str,
    /// Where, from the beginning of the disk or partition.
    at: u64,
    bytes: &'static [u8],
}

const fn signature(name: &'static str, at: u64, bytes: &'static [u8]) -> Signature {
    Signature { name, at, bytes }
}

/// Those that are long enough to be sure of.
const SIGNATURES: [Signature; 15] = [
    signature("GPT", 512, b"EFI PART"),
    signature("XFS", 0, b"XFSB\0\0"),
    signature("NTFS", 3, b"NTFS    "),
    signature("FAT", 54, b"FAT12   "),
    signature("FAT", 54, b"FAT16   "),
    signature("FAT", 82, b"FAT32   "),
    signature("exFAT", 3, b"EXFAT   "),
    signature("btrfs", 0x1_0040, b"_BHRfS_M"),
    signature("LVM", 512, b"LABELONE"),
    signature("LVM", 0, b"LABELONE"),
    signature("LUKS", 0, b"LUKS\xba\xbe"),
    signature("swap", 4086, b"SWAPSPACE2"),
    signature("swap", 4086, b"SWAP-SPACE"),
    signature("ISO 9660", 0x8001, b"CD001"),
    signature("qcow2", 0, b"QFI\xfb\0\0\0\x03"),
];

/// Where a disk or its first partition begins: nothing, a track, a mebibyte.
const STARTS: [u64; 3] = [0, 63 * SECTOR, 1 << 20];

/// Judges by the contents of `image`, one layer of a chain.
///
/// # Errors
/// It cannot be read.
pub(super) fn judge(image: &Image) -> Result<Judgement> {
    let stored = stored(image)?;
    let mut signs = Vec::new();
    let sure = strong_signs(image, &stored, &mut signs)?;
    let likely = weak_signs(image, &stored, &mut signs)?;
    let (sampled, ordered) = sample(image, &stored)?;
    let certainty = if stored.is_empty() {
        Certainty::Nothing
    } else if sure || ordered > 0 {
        Certainty::Certain
    } else if likely {
        Certainty::Likely
    } else if sampled == 0 {
        Certainty::Nothing
    } else if sampled < FEW {
        Certainty::Unknown
    } else {
        Certainty::Wrong
    };
    Ok(Judgement { certainty, signs, sampled, ordered })
}

/// The ranges that the layer stores encrypted; compressed clusters are not.
fn stored(image: &Image) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    for extent in Extents::new(image.node(), 0..image.len()?, Want::Exact) {
        let extent = extent?;
        if extent.data && !extent.compressed && extent.depth == 0 {
            ranges.push(extent.start..extent.start + extent.len);
        }
    }
    Ok(ranges)
}

/// The bytes at `at`, if all of them are stored.
fn bytes(image: &Image, stored: &[Range<u64>], at: u64, len: usize) -> Result<Option<Vec<u8>>> {
    let end = at + len as u64;
    let next = stored.partition_point(|range| range.end <= at);
    if stored.get(next).is_none_or(|range| range.start > at || range.end < end) {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    image.read(at, &mut bytes)?;
    Ok(Some(bytes))
}

fn strong_signs(image: &Image, stored: &[Range<u64>], signs: &mut Vec<String>) -> Result<bool> {
    for start in STARTS {
        for Signature { name, at, bytes: expected } in SIGNATURES {
            let at = start + at;
            if bytes(image, stored, at, expected.len())?.is_some_and(|found| found == expected) {
                signs.push(format!("{name} at {at}"));
            }
        }
    }
    Ok(!signs.is_empty())
}

/// Signs of a few bytes that are looked at more closely.
fn weak_signs(image: &Image, stored: &[Range<u64>], signs: &mut Vec<String>) -> Result<bool> {
    let before = signs.len();
    if bytes(image, stored, 0, 512)?.is_some_and(|sector| is_mbr(&sector)) {
        signs.push("DOS partition table".to_owned());
    }
    for start in STARTS {
        if bytes(image, stored, start + 1024, 128)?.is_some_and(|block| is_ext(&block)) {
            signs.push(format!("ext2/3/4 at {}", start + 1024));
        }
    }
    Ok(signs.len() > before)
}

/// The mark at the end, and entries that make sense.
fn is_mbr(sector: &[u8]) -> bool {
    let entries = || sector[446..510].chunks_exact(16);
    let used = |entry: &&[u8]| entry[4] != 0 && entry[12..16] != [0; 4];
    sector[510..] == [0x55, 0xaa]
        && entries().all(|entry| entry[0] & 0x7f == 0)
        && entries().any(|entry| used(&entry))
}

/// The mark of a superblock, and fields that have few values.
fn is_ext(block: &[u8]) -> bool {
    let le16 = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let le32 = |at: usize| u32::from(le16(at)) | u32::from(le16(at + 2)) << 16;
    le16(56) == 0xef53 && le32(24) <= 6 && (1..=3).contains(&le16(60)) && le32(76) <= 1
}

/// How many sectors were looked at, and how many of them are not noise.
fn sample(image: &Image, stored: &[Range<u64>]) -> Result<(u32, u32)> {
    let sectors: u64 = stored.iter().map(|range| (range.end - range.start) / SECTOR).sum();
    let step = sectors.div_ceil(SAMPLES).max(1);
    let (mut sampled, mut ordered) = (0, 0);
    let mut skip = 0;
    for range in stored {
        let here = (range.end - range.start) / SECTOR;
        while skip < here {
            let mut sector = [0; SECTOR as usize];
            image.read(range.start + skip * SECTOR, &mut sector)?;
            match kind(&sector) {
                Some(true) => (sampled, ordered) = (sampled + 1, ordered + 1),
                Some(false) => sampled += 1,
                None => {}
            }
            skip += step;
        }
        skip -= here;
    }
    Ok((sampled, ordered))
}

/// Whether a sector is something else than noise; `None` for one that says nothing.
fn kind(sector: &[u8]) -> Option<bool> {
    if block::buffer::is_zero(sector) {
        return Some(true);
    }
    let blocks = sector[16..].chunks_exact(16);
    // The first block has another IV.
    if blocks.clone().all(|block| block == &sector[16..32]) && sector[16..32] != [0; 16] {
        return None;
    }
    Some(entropy(sector) < ORDERED)
}

/// Bits of entropy in a byte, from how often each value occurs.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let total = bytes.len() as f64;
    let shares = counts.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / total);
    shares.map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64) -> [u8; 512] {
        let mut x = seed | 1;
        std::array::from_fn(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_be_bytes()[3]
        })
    }

    #[test]
    fn noise_is_told_from_order_and_stored_zeroes_say_nothing() {
        assert!((1..200).all(|seed| kind(&noise(seed)) == Some(false)));
        assert_eq!(kind(&[0; 512]), Some(true));
        let text: Vec<u8> = b"The quick brown fox. ".iter().copied().cycle().take(512).collect();
        assert_eq!(kind(&text), Some(true));
        let mut repeated = [0x5a; 512];
        repeated[..16].copy_from_slice(&noise(1)[..16]);
        assert_eq!(kind(&repeated), None);
    }

    #[test]
    fn a_partition_table_needs_more_than_its_mark() {
        let mut sector = [0; 512];
        (sector[510], sector[511]) = (0x55, 0xaa);
        assert!(!is_mbr(&sector));
        (sector[446], sector[450], sector[458]) = (0x80, 0x83, 1);
        assert!(is_mbr(&sector));
        sector[462] = 7;
        assert!(!is_mbr(&sector));
    }
}
