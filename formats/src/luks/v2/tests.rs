//! Tests of LUKS2 headers: which copy counts, what is mended, and that no bytes do harm.

use super::load::{Header, State};
use crate::luks::area::Area;
use crate::luks::tests::luks2;
use block::protocol::memory::{Memory, Op};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const COPY: usize = 16384;

fn read(image: &[u8]) -> block::Result<Header> {
    Header::read(&Area::new(Memory::child(image.to_vec()), 0))
}

#[test]
fn a_new_header_has_two_good_copies() {
    let header = read(&luks2(&[b"pw"])).unwrap();
    assert!(header.is_whole());
    assert_eq!((header.binary.size, header.binary.seqid), (COPY as u64, 3));
    assert_eq!(header.place().start, 6 << 20);
    assert_eq!(header.key_slots().len(), 1);
}

#[test]
fn one_damaged_copy_is_told_and_mended_and_two_are_refused() {
    let image = luks2(&[b"pw"]);
    for (at, index) in [(0, 0), (300, 0), (4096, 0), (COPY, 1), (COPY + 12_000, 1)] {
        let mut bad = image.clone();
        bad[at] ^= 0x40;
        let (child, journal) = Memory::recorded(bad.clone());
        let area = Area::new(child.clone(), 0);
        let mut header = Header::read(&area).unwrap();
        assert!(matches!(&header.copies[index], State::Damaged(_)), "{at}");
        assert_eq!(header.copies[1 - index], State::Good, "{at}");
        header.repair(&area).unwrap();
        let writes = journal.take();
        assert!(matches!(&writes[..], [Op::Write { at, .. }, Op::Flush] if *at == (index * COPY) as u64));
        assert!(Header::read(&area).unwrap().is_whole());
        bad[at ^ COPY] ^= 0x40;
        let error = read(&bad).unwrap_err();
        assert!(error.to_string().starts_with("The LUKS2 header cannot be used: "), "{error}");
        assert!(error.hint().unwrap().contains("secondary"), "{error}");
    }
}

#[test]
fn a_file_cut_off_in_the_header_is_refused_unless_a_copy_is_whole() {
    let image = luks2(&[b"pw"]);
    for len in [0, 6, 512, 4096, COPY - 512, COPY, COPY + 4096, 2 * COPY - 512, 2 * COPY] {
        let header = read(&image[..len]);
        assert_eq!(header.is_ok(), len >= COPY, "{len}");
        assert_eq!(header.is_ok_and(|header| header.is_whole()), len >= 2 * COPY, "{len}");
    }
}

/// Both copies with JSON of our choice, and right checksums.
fn with_json(image: &[u8], json: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    for (at, which) in [(0, super::binary::Which::Primary), (COPY, super::binary::Which::Secondary)] {
        let head: &[u8; super::binary::BYTES] = image[at..at + 4096].try_into().unwrap();
        let binary = super::binary::Binary::parse(head, which, at as u64).unwrap();
        let mut area = json.to_vec();
        area.resize(COPY - 4096, 0);
        let head = binary.to_bytes(which, &area).unwrap();
        image[at..at + 4096].copy_from_slice(&head);
        image[at + 4096..at + COPY].copy_from_slice(&area);
    }
    image
}

#[test]
fn no_change_of_the_metadata_does_harm() {
    let image = luks2(&[b"pw", b"other"]);
    let text = image[4096..COPY].split(|byte| *byte == 0).next().unwrap().to_vec();
    assert!(read(&with_json(&image, &text)).unwrap().is_whole());
    let mut rng = SmallRng::seed_from_u64(6);
    let digits = b"0123456789-\"{}[],:.eE";
    let mut refused = 0;
    for _ in 0..2000 {
        let mut bad = text.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bad.len());
            match rng.random_range(0..3) {
                0 => bad[at] = digits[rng.random_range(0..digits.len())],
                1 => {
                    bad.remove(at);
                }
                _ => bad.insert(at, digits[rng.random_range(0..digits.len())]),
            }
        }
        match read(&with_json(&image, &bad)) {
            Ok(header) => {
                let _ = (header.info(false), header.complaints(), header.cipher(), header.place());
                for slot in header.key_slots() {
                    assert!(slot.at + slot.wrapping.material_bytes() as u64 <= header.header_bytes());
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn a_header_that_is_full_takes_no_more_and_stays_as_it_is() {
    let image = luks2(&[b"pw"]);
    let (child, journal) = Memory::recorded(image);
    let area = Area::new(child, 0);
    let mut header = Header::read(&area).unwrap();
    let mut document = header.document.clone();
    document.set("filler", &"x".repeat(12_000).into()).unwrap();
    let error = header.commit(&area, document).unwrap_err();
    assert_eq!(error.to_string(), "The LUKS2 header has no room for more metadata");
    let mut document = header.document.clone();
    document.remove("config");
    assert!(header.commit(&area, document).is_err());
    assert!(journal.take().is_empty());
    assert_eq!(header.binary.seqid, 3);
}
