//! The binary header of LUKS2: 4096 bytes in front of each copy of the metadata, and the checksum over both.
//!
//! Invariant: of a [`Binary`] the sizes are ones the format knows and the header is where it says it is.

use crate::crypto::HashAlg;
use block::{Error, Result};
use std::mem::offset_of;
use subtle::ConstantTimeEq;
use zerocopy::big_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the binary header.
pub(super) const BYTES: usize = size_of::<Disk>();

/// Bytes of each copy, binary header and JSON together; the second copy begins where the first ends.
pub(super) const SIZES: [u64; 9] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

/// Bytes of the checksum's field.
const CHECKSUM: usize = 64;

/// The header as it is stored, big-endian (LUKS2 On-Disk Format Specification, 2.1).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct Disk {
    magic: [u8; 6],
    version: U16,
    size: U64,
    seqid: U64,
    label: [u8; 48],
    checksum_alg: [u8; 32],
    salt: [u8; 64],
    uuid: [u8; 40],
    subsystem: [u8; 48],
    offset: U64,
    padding: [u8; 184],
    checksum: [u8; CHECKSUM],
    padding4096: [u8; 7 * 512],
}

const _: () = {
    assert!(size_of::<Disk>() == 4096);
    assert!(offset_of!(Disk, size) == 8);
    assert!(offset_of!(Disk, label) == 24);
    assert!(offset_of!(Disk, checksum_alg) == 72);
    assert!(offset_of!(Disk, salt) == 104);
    assert!(offset_of!(Disk, uuid) == 168);
    assert!(offset_of!(Disk, subsystem) == 208);
    assert!(offset_of!(Disk, offset) == 256);
    assert!(offset_of!(Disk, checksum) == 448);
};

/// Which of the two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// At the start.
    Primary,
    /// Behind the first.
    Secondary,
}

impl Which {
    /// The word for sentences.
    pub(super) fn name(self) -> &'static str {
        match self {
            Which::Primary => "primary",
            Which::Secondary => "secondary",
        }
    }

    fn magic(self) -> [u8; 6] {
        match self {
            Which::Primary => *b"LUKS\xba\xbe",
            Which::Secondary => *b"SKUL\xba\xbe",
        }
    }
}

/// What the binary header says, but for its place and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binary {
    /// Bytes of one copy.
    pub(super) size: u64,
    /// Counts changes: the copy with the higher number is the newer.
    pub(super) seqid: u64,
    label: [u8; 48],
    uuid: [u8; 40],
    subsystem: [u8; 48],
    hash: HashAlg,
}

/// The names of a container.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Names<'a> {
    pub(super) uuid: &'a str,
    pub(super) label: &'a str,
    pub(super) subsystem: &'a str,
}

impl Binary {
    /// A new header of `size` bytes.
    ///
    /// # Errors
    /// A name is longer than its field.
    pub(super) fn new(size: u64, seqid: u64, names: &Names<'_>) -> Result<Self> {
        Ok(Binary {
            size,
            seqid,
            label: field(names.label, "label")?,
            uuid: field(names.uuid, "uuid")?,
            subsystem: field(names.subsystem, "subsystem")?,
            hash: HashAlg::Sha256,
        })
    }

    /// Parses the copy that begins at `at` bytes; without looking at the checksum.
    ///
    /// # Errors
    /// It is none, or a field is wrong.
    pub(super) fn parse(bytes: &[u8; BYTES], which: Which, at: u64) -> Result<Self> {
        let disk = Disk::ref_from_bytes(bytes).expect("the array has the size of the header");
        let wrong = |text: String| Err(Error::corrupt(text));
        if disk.magic != which.magic() {
            return wrong("there is no LUKS2 header".into());
        }
        if disk.version.get() != 2 {
            return wrong(format!("the version is {}, not 2", disk.version));
        }
        let size = disk.size.get();
        if !SIZES.contains(&size) || (which == Which::Secondary && size != at) {
            return wrong(format!("a header size of {size} bytes is not possible"));
        }
        if disk.offset.get() != at {
            return wrong(format!("the header says that it is at byte {}, but it is at {at}", disk.offset));
        }
        let name = text(&disk.checksum_alg);
        let hash = HashAlg::from_header(&name)
            .map_err(|_| Error::corrupt(format!("the checksum algorithm '{name}' is not known")))?;
        if hash.digest_bytes() > CHECKSUM {
            return wrong(format!("a checksum of {name} does not fit"));
        }
        let Disk { seqid, label, uuid, subsystem, .. } = *disk;
        Ok(Binary { size, seqid: seqid.get(), label, uuid, subsystem, hash })
    }

    /// Whether the checksum in `bytes` is that of header and `json`.
    pub(super) fn verify(&self, bytes: &[u8; BYTES], json: &[u8]) -> bool {
        let disk = Disk::ref_from_bytes(bytes).expect("the array has the size of the header");
        let mut bare = disk.clone();
        bare.checksum = [0; CHECKSUM];
        checksum(self.hash, &bare, json).ct_eq(&disk.checksum).into()
    }

    /// The bytes of one copy in front of `json`, with fresh salt.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn to_bytes(self, which: Which, json: &[u8]) -> Result<Vec<u8>> {
        let mut disk = Disk::new_zeroed();
        disk.magic = which.magic();
        disk.version = 2.into();
        disk.size = self.size.into();
        disk.seqid = self.seqid.into();
        disk.label = self.label;
        disk.checksum_alg = field(self.hash.name(), "checksum algorithm")?;
        crate::luks::random(&mut disk.salt)?;
        disk.uuid = self.uuid;
        disk.subsystem = self.subsystem;
        disk.offset = if which == Which::Primary { 0 } else { self.size }.into();
        disk.checksum = checksum(self.hash, &disk, json);
        Ok(disk.as_bytes().to_vec())
    }

    /// Bytes of the JSON area.
    pub(super) fn json_bytes(&self) -> u64 {
        self.size - BYTES as u64
    }

    /// The container's UUID.
    pub(super) fn uuid(&self) -> String {
        text(&self.uuid)
    }

    /// Its label, which may be empty.
    pub(super) fn label(&self) -> String {
        text(&self.label)
    }

    /// Its subsystem, which may be empty.
    pub(super) fn subsystem(&self) -> String {
        text(&self.subsystem)
    }
}

/// `disk` has no checksum yet.
fn checksum(hash: HashAlg, disk: &Disk, json: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    hash.digest_into(&[disk.as_bytes(), json], &mut sum[..hash.digest_bytes()]);
    sum
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// A field that ends in at least one NUL.
fn field<const N: usize>(text: &str, name: &str) -> Result<[u8; N]> {
    if text.len() >= N || text.contains('\0') {
        return Err(Error::invalid(format!("The {name} '{text}' is longer than {} bytes", N - 1)));
    }
    let mut field = [0; N];
    field[..text.len()].copy_from_slice(text.as_bytes());
    Ok(field)
}
