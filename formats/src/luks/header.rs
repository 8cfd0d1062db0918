//! The LUKS1 header: 592 bytes to a validated model and back.
//!
//! Lives here: the on-disk layout, every check that needs nothing but the header's bytes, and where a new image's parts
//! go. Not here: what the fields are used for (keys: [`keyslot`](super::keyslot); payload:
//! [`payload`](super::payload)), and LUKS2, whose header has nothing in common with this one but the first eight bytes.
//!
//! Invariant: of a [`Header`] every key slot's material lies behind the header, before the payload (if that is in the
//! same file) and apart from the others, no iteration count is zero, and all algorithms are ones we have.

use crate::crypto::{CipherSpec, HashAlg, af};
use secret::{Error, Result};
use std::mem::offset_of;
use std::num::NonZeroU32;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the header.
pub(super) const BYTES: usize = size_of::<Disk>();

/// Key slots of every image.
pub(super) const SLOTS: usize = 8;

/// Bytes of the master key digest.
pub(super) const DIGEST_BYTES: usize = 20;

/// Bytes of a salt.
pub(super) const SALT_BYTES: usize = 32;

/// What both versions begin with.
const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";

const ACTIVE: u32 = 0x00AC_71F3;
const DISABLED: u32 = 0x0000_DEAD;

/// Where key material may begin: the header and what it is rounded up to.
const FIRST_MATERIAL: Sectors = Sectors(8);

/// Key material begins at multiples of this many sectors (4 KiB) in images that are created.
const MATERIAL_ALIGN: u64 = 8;

/// The header as it is stored, big-endian (LUKS1 On-Disk Format Specification 1.2.3, figure 1).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Disk {
    magic: [u8; 6],
    version: U16,
    cipher_name: [u8; 32],
    cipher_mode: [u8; 32],
    hash_spec: [u8; 32],
    payload_offset: U32,
    key_bytes: U32,
    digest: [u8; DIGEST_BYTES],
    digest_salt: [u8; SALT_BYTES],
    digest_iterations: U32,
    uuid: [u8; 40],
    slots: [DiskSlot; SLOTS],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskSlot {
    state: U32,
    iterations: U32,
    salt: [u8; SALT_BYTES],
    material_offset: U32,
    stripes: U32,
}

const _: () = {
    assert!(size_of::<Disk>() == 592);
    assert!(offset_of!(Disk, version) == 6);
    assert!(offset_of!(Disk, cipher_name) == 8);
    assert!(offset_of!(Disk, cipher_mode) == 40);
    assert!(offset_of!(Disk, hash_spec) == 72);
    assert!(offset_of!(Disk, payload_offset) == 104);
    assert!(offset_of!(Disk, key_bytes) == 108);
    assert!(offset_of!(Disk, digest) == 112);
    assert!(offset_of!(Disk, digest_salt) == 132);
    assert!(offset_of!(Disk, digest_iterations) == 164);
    assert!(offset_of!(Disk, uuid) == 168);
    assert!(offset_of!(Disk, slots) == 208);
    assert!(size_of::<DiskSlot>() == 48);
    assert!(offset_of!(DiskSlot, iterations) == 4);
    assert!(offset_of!(DiskSlot, salt) == 8);
    assert!(offset_of!(DiskSlot, material_offset) == 40);
    assert!(offset_of!(DiskSlot, stripes) == 44);
};

/// A place in the file, counted in sectors of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sectors(pub(super) u32);

impl Sectors {
    /// The same in bytes.
    pub(super) fn bytes(self) -> u64 {
        u64::from(self.0) * block::SECTOR
    }
}

/// Where the payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Behind the header, in the same file.
    Attached,
    /// In a file of its own.
    Detached,
}

/// Parameters of one key derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pbkdf2 {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: [u8; SALT_BYTES],
}

/// What tells the right volume key from a wrong one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) pbkdf2: Pbkdf2,
    pub(super) value: [u8; DIGEST_BYTES],
}

/// A key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// How a passphrase becomes the slot's key; `None` in a slot that is not in use.
    pub(super) pbkdf2: Option<Pbkdf2>,
    /// Where the key material is.
    pub(super) material: Sectors,
}

/// A valid header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(super) cipher: CipherSpec,
    /// For key derivation and the anti-forensic splitter.
    pub(super) hash: HashAlg,
    pub(super) payload: Sectors,
    pub(super) digest: Digest,
    pub(super) uuid: String,
    pub(super) slots: [Slot; SLOTS],
}

/// The version a file claims, if it is LUKS at all. Needs the first eight bytes.
pub(super) fn version(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(&MAGIC)?;
    rest.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

impl Header {
    /// Parses and checks the beginning of a header file.
    ///
    /// # Errors
    /// QEMU's sentence about the first thing that is wrong; the hint says where it stands.
    pub(super) fn parse(bytes: &[u8], placement: Placement) -> Result<Self> {
        check_version(bytes)?;
        let Ok((disk, _)) = Disk::ref_from_prefix(bytes) else {
            return Err(Error::corrupt("LUKS header is truncated")
                .with_hint(format!("A LUKS1 header has {BYTES} bytes, here are {}.", bytes.len())));
        };
        let cipher_name = text(&disk.cipher_name, "cipher name", offset_of!(Disk, cipher_name))?;
        let cipher_mode = text(&disk.cipher_mode, "cipher mode", offset_of!(Disk, cipher_mode))?;
        let hash_spec = text(&disk.hash_spec, "hash spec", offset_of!(Disk, hash_spec))?;
        if placement == Placement::Attached && disk.payload_offset.get() < FIRST_MATERIAL.0 {
            return Err(payload_overlaps(disk.payload_offset.get()));
        }
        let digest = disk.digest()?;
        let extents = disk.material_extents();
        for index in 0..SLOTS {
            disk.check_slot(index, &extents, placement)?;
        }
        let cipher = cipher(&cipher_name, &cipher_mode, disk.key_bytes.get())?;
        let slot = |slot: &DiskSlot| Slot {
            pbkdf2: NonZeroU32::new(slot.iterations.get())
                .filter(|_| slot.state.get() == ACTIVE)
                .map(|iterations| Pbkdf2 { iterations, salt: slot.salt }),
            material: Sectors(slot.material_offset.get()),
        };
        Ok(Header {
            cipher,
            hash: HashAlg::from_header(&hash_spec)?,
            payload: Sectors(disk.payload_offset.get()),
            digest,
            uuid: lossy(until_nul(&disk.uuid)),
            slots: disk.slots.each_ref().map(slot),
        })
    }

    /// The header's bytes.
    pub(super) fn to_bytes(&self) -> [u8; BYTES] {
        let mut disk = Disk::new_zeroed();
        disk.magic = MAGIC;
        disk.version = 1.into();
        put(&mut disk.cipher_name, self.cipher.cipher().family());
        put(&mut disk.cipher_mode, &self.cipher.mode_string());
        put(&mut disk.hash_spec, self.hash.name());
        disk.payload_offset = self.payload.0.into();
        disk.key_bytes = u32::try_from(self.cipher.key_bytes()).expect("keys have at most 64 bytes").into();
        disk.digest = self.digest.value;
        disk.digest_salt = self.digest.pbkdf2.salt;
        disk.digest_iterations = self.digest.pbkdf2.iterations.get().into();
        put(&mut disk.uuid, &self.uuid);
        disk.slots = self.slots.map(Slot::to_disk);
        zerocopy::transmute!(disk)
    }

    /// The slots in use, with their numbers.
    pub(super) fn active(&self) -> impl Iterator<Item = (usize, Pbkdf2, Sectors)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(index, slot)| Some((index, slot.pbkdf2?, slot.material)))
    }
}

/// Sets the fields of one slot that change in its life, in the bytes of a header; `None` is for a slot that is free.
pub(super) fn put_slot(bytes: &mut [u8; BYTES], number: usize, pbkdf2: Option<&Pbkdf2>) {
    let field = |offset| offset_of!(Disk, slots) + number * size_of::<DiskSlot>() + offset;
    let iterations = pbkdf2.map_or(0, |p| p.iterations.get());
    let salt = pbkdf2.map_or([0; SALT_BYTES], |p| p.salt);
    bytes[field(offset_of!(DiskSlot, iterations))..][..4].copy_from_slice(&iterations.to_be_bytes());
    bytes[field(offset_of!(DiskSlot, salt))..][..SALT_BYTES].copy_from_slice(&salt);
    set_active(bytes, number, pbkdf2.is_some());
}

/// Sets whether a slot is in use, in the bytes of a header.
pub(super) fn set_active(bytes: &mut [u8; BYTES], number: usize, active: bool) {
    let at = offset_of!(Disk, slots) + number * size_of::<DiskSlot>() + offset_of!(DiskSlot, state);
    let state = if active { ACTIVE } else { DISABLED };
    bytes[at..at + 4].copy_from_slice(&state.to_be_bytes());
}

impl Slot {
    fn to_disk(self) -> DiskSlot {
        let none = Pbkdf2 { iterations: NonZeroU32::MIN, salt: [0; SALT_BYTES] };
        let used = self.pbkdf2.unwrap_or(none);
        DiskSlot {
            state: if self.pbkdf2.is_some() { ACTIVE } else { DISABLED }.into(),
            iterations: self.pbkdf2.map_or(0, |p| p.iterations.get()).into(),
            salt: used.salt,
            material_offset: self.material.0.into(),
            stripes: STRIPES.into(),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4000 stripes")]
const STRIPES: u32 = af::STRIPES as u32;

/// Where the parts of a new image go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Sectors from one slot's material to the next.
    stride: u32,
}

impl Layout {
    /// For volume keys of this many bytes.
    pub(super) fn new(key_bytes: usize) -> Self {
        let sectors = material_sectors(key_bytes as u64).next_multiple_of(MATERIAL_ALIGN);
        Layout { stride: u32::try_from(sectors).expect("keys have at most 64 bytes") }
    }

    /// Where a slot's material goes.
    pub(super) fn material(self, slot: usize) -> Sectors {
        let slot = u32::try_from(slot).expect("there are eight slots");
        Sectors(FIRST_MATERIAL.0 + slot * self.stride)
    }

    /// Where the last slot's material ends: the payload of an image with attached header.
    pub(super) fn end(self) -> Sectors {
        self.material(SLOTS)
    }
}

/// Sectors of the material for a volume key of this many bytes; the last one may be partly used.
pub(super) fn material_sectors(key_bytes: u64) -> u64 {
    (key_bytes * af::STRIPES as u64).div_ceil(block::SECTOR)
}

fn check_version(bytes: &[u8]) -> Result<()> {
    match version(bytes) {
        Some(1) => Ok(()),
        Some(other) => Err(Error::unsupported(format!("LUKS version {other} is not supported"))
            .with_hint(at("version", offset_of!(Disk, version)))),
        None => Err(Error::invalid("Volume is not in LUKS format")),
    }
}

/// What is said when the payload would begin inside the header.
pub(super) fn payload_overlaps(offset: u32) -> Error {
    let error = Error::corrupt("LUKS payload is overlapping with the header");
    if offset == 0 {
        return error.with_hint(
            "This is a detached header, without payload. Name both: driver=luks,header.filename=THIS,file.filename=PAYLOAD",
        );
    }
    error.with_hint(at("payload offset", offset_of!(Disk, payload_offset)))
}

impl Disk {
    fn digest(&self) -> Result<Digest> {
        let iterations = NonZeroU32::new(self.digest_iterations.get()).ok_or_else(|| {
            Error::corrupt("LUKS key iteration count is zero")
                .with_hint(at("master key digest iterations", offset_of!(Disk, digest_iterations)))
        })?;
        Ok(Digest { pbkdf2: Pbkdf2 { iterations, salt: self.digest_salt }, value: self.digest })
    }

    /// First sector of each slot's material, and the one after its last.
    fn material_extents(&self) -> [(u64, u64); SLOTS] {
        let sectors = material_sectors(self.key_bytes.get().into());
        self.slots.each_ref().map(|slot| {
            let start = u64::from(slot.material_offset.get());
            (start, start + sectors)
        })
    }

    /// Checks one slot, in QEMU's order.
    fn check_slot(&self, index: usize, extents: &[(u64, u64); SLOTS], placement: Placement) -> Result<()> {
        let slot = &self.slots[index];
        let wrong = |text: String, field: &str, offset: usize| {
            let offset = offset_of!(Disk, slots) + index * size_of::<DiskSlot>() + offset;
            Err(Error::corrupt(text).with_hint(at(&format!("key slot {index}, {field}"), offset)))
        };
        let overlaps = |what: &str| {
            let text = format!("Keyslot {index} is overlapping with the {what}");
            wrong(text, "material offset", offset_of!(DiskSlot, material_offset))
        };
        let stripes = slot.stripes.get();
        if stripes != STRIPES {
            let text = format!("Keyslot {index} is corrupted (stripes {stripes} != {STRIPES})");
            return wrong(text, "stripes", offset_of!(DiskSlot, stripes));
        }
        let state = slot.state.get();
        if state != ACTIVE && state != DISABLED {
            let text = format!("Keyslot {index} state (active/disable) is corrupted");
            return wrong(text, "state", offset_of!(DiskSlot, state));
        }
        if state == ACTIVE && slot.iterations.get() == 0 {
            let text = format!("Keyslot {index} iteration count is zero");
            return wrong(text, "iterations", offset_of!(DiskSlot, iterations));
        }
        let (start, end) = extents[index];
        if start < u64::from(FIRST_MATERIAL.0) {
            return overlaps("LUKS header");
        }
        if placement == Placement::Attached && end > u64::from(self.payload_offset.get()) {
            return overlaps("encrypted payload");
        }
        let others = extents.iter().enumerate().skip(index + 1);
        match others.into_iter().find(|(_, other)| start < other.1 && other.0 < end) {
            None => Ok(()),
            Some((other, _)) => {
                let text = format!("Keyslots {index} and {other} are overlapping in the header");
                wrong(text, "material offset", offset_of!(DiskSlot, material_offset))
            }
        }
    }
}

fn cipher(name: &str, mode: &str, key_bytes: u32) -> Result<CipherSpec> {
    let cipher = CipherSpec::parse(name, mode, key_bytes as usize)?;
    if cipher.key_bytes() != key_bytes as usize {
        let text = format!("Algorithm '{name}' with key size {key_bytes} bytes not supported");
        let hint = format!("{cipher} takes keys of {} bytes", cipher.key_bytes());
        return Err(Error::corrupt(text).with_hint(hint));
    }
    Ok(cipher)
}

/// What a hint says about the place of a wrong field.
fn at(field: &str, offset: usize) -> String {
    format!("The field at byte {offset} of the header is wrong ({field}).")
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn text(field: &[u8], name: &str, offset: usize) -> Result<String> {
    if !field.contains(&0) {
        return Err(
            Error::corrupt(format!("LUKS header {name} is not NUL terminated")).with_hint(at(name, offset))
        );
    }
    Ok(lossy(until_nul(field)))
}

/// Stores text in a field that is all zeroes.
fn put(field: &mut [u8], text: &str) {
    field[..text.len()].copy_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::tests::header as sample;
    use super::*;

    fn bytes() -> [u8; BYTES] {
        sample("aes-xts-plain64", 64, &[0, 5]).to_bytes()
    }

    fn refusal(bytes: &[u8]) -> Error {
        Header::parse(bytes, Placement::Attached).unwrap_err()
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (cipher, key_bytes) in
            [("aes-xts-plain64", 64), ("serpent-cbc-essiv:sha256", 24), ("aes-ecb", 16)]
        {
            let header = sample(cipher, key_bytes, &[0, 7]);
            assert_eq!(Header::parse(&header.to_bytes(), Placement::Attached).unwrap(), header);
        }
    }

    #[test]
    fn parts_are_laid_out_as_by_qemu_and_cryptsetup() {
        let layout = Layout::new(64);
        assert_eq!([0, 1, 7].map(|slot| layout.material(slot).0), [8, 512, 3536]);
        assert_eq!(layout.end(), Sectors(4040));
        assert_eq!(layout.end().bytes(), 2_068_480);
        // 24 * 4000 bytes are not whole sectors.
        assert_eq!(material_sectors(24), 188);
        assert_eq!(Layout::new(24).material(1), Sectors(200));
    }

    /// Patches for one wrong field each: offset, value, what is said about it.
    fn illegal() -> Vec<(usize, Vec<u8>, String)> {
        let u32 = |offset: usize, value: u32| (offset, value.to_be_bytes().to_vec());
        let field = |(offset, value): (usize, Vec<u8>), text: &str| (offset, value, text.to_owned());
        let text = |offset: usize, value: &str| (offset, [value.as_bytes(), b"\0"].concat());
        let mut list = vec![
            field((0, b"SKUL".to_vec()), "Volume is not in LUKS format"),
            field((6, vec![0, 0]), "LUKS version 0 is not supported"),
            field((6, vec![0, 3]), "LUKS version 3 is not supported"),
            field((8, vec![b'a'; 32]), "LUKS header cipher name is not NUL terminated"),
            field((40, vec![b'a'; 32]), "LUKS header cipher mode is not NUL terminated"),
            field((72, vec![b'a'; 32]), "LUKS header hash spec is not NUL terminated"),
            field(text(8, "foo"), "Algorithm 'foo' with key size 32 bytes not supported"),
            field(text(40, "foo"), "Unexpected cipher mode string format 'foo'"),
            field(text(40, "foo-plain64"), "Cipher mode 'foo' not supported"),
            field(text(40, "xts-foo"), "IV generator 'foo' not supported"),
            field(text(40, "xts-plain64:foo"), "Hash algorithm 'foo' not supported"),
            field(text(72, "foo"), "Hash algorithm 'foo' not supported"),
            field(u32(104, 0), "LUKS payload is overlapping with the header"),
            field(u32(104, 7), "LUKS payload is overlapping with the header"),
            field(u32(104, 8), "Keyslot 0 is overlapping with the encrypted payload"),
            field(u32(108, 0), "Algorithm 'aes' with key size 0 bytes not supported"),
            field(u32(108, 63), "Algorithm 'aes' with key size 31 bytes not supported"),
            field(u32(108, 65), "Keyslots 0 and 1 are overlapping in the header"),
            field(u32(108, u32::MAX), "Keyslot 0 is overlapping with the encrypted payload"),
            field(u32(164, 0), "LUKS key iteration count is zero"),
        ];
        for slot in 0..SLOTS {
            let at = 208 + 48 * slot;
            let mut slot_field = |offset, value, text: &str| {
                list.push(field(u32(at + offset, value), &text.replace('#', &slot.to_string())));
            };
            slot_field(0, 1, "Keyslot # state (active/disable) is corrupted");
            slot_field(44, 3999, "Keyslot # is corrupted (stripes 3999 != 4000)");
            slot_field(44, 0, "Keyslot # is corrupted (stripes 0 != 4000)");
            slot_field(40, 4039, "Keyslot # is overlapping with the encrypted payload");
            slot_field(40, u32::MAX, "Keyslot # is overlapping with the encrypted payload");
            match slot {
                0 => slot_field(40, 7, "Keyslot 0 is overlapping with the LUKS header"),
                _ => slot_field(40, 8, "Keyslots 0 and # are overlapping in the header"),
            }
        }
        list.extend([0, 5].map(|slot| {
            field(u32(208 + 48 * slot + 4, 0), &format!("Keyslot {slot} iteration count is zero"))
        }));
        list
    }

    #[test]
    fn every_illegal_field_is_refused_in_qemus_words_with_a_hint() {
        for (offset, value, want) in illegal() {
            let mut bytes = bytes();
            bytes[offset..offset + value.len()].copy_from_slice(&value);
            let error = refusal(&bytes);
            assert_eq!(error.to_string(), want, "{value:?} at {offset}");
            assert!(error.hint().is_some() || offset == 0, "{want}");
        }
    }

    #[test]
    fn a_hint_says_where_the_wrong_field_is() {
        let mut bytes = bytes();
        bytes[208 + 3 * 48 + 44] = 1;
        assert_eq!(
            refusal(&bytes).hint(),
            Some("The field at byte 396 of the header is wrong (key slot 3, stripes).")
        );
    }

    #[test]
    fn a_disabled_slot_needs_no_iterations_but_a_place() {
        let header = Header::parse(&bytes(), Placement::Attached).unwrap();
        assert_eq!(header.active().map(|(index, ..)| index).collect::<Vec<_>>(), [0, 5]);
        assert_eq!(header.slots[1].pbkdf2, None);
        assert_eq!(header.slots[1].material, Sectors(512));
    }

    #[test]
    fn without_a_payload_in_the_file_material_may_lie_anywhere() {
        let mut bytes = bytes();
        bytes[104..108].fill(0);
        let header = Header::parse(&bytes, Placement::Detached).unwrap();
        assert_eq!(header.payload, Sectors(0));
    }

    #[test]
    fn a_header_cut_short_anywhere_is_refused() {
        let bytes = bytes();
        for len in 0..BYTES {
            let want = if len < 8 { "Volume is not in LUKS format" } else { "LUKS header is truncated" };
            assert_eq!(refusal(&bytes[..len]).to_string(), want, "{len}");
        }
    }

    #[test]
    fn any_byte_may_have_any_value_without_harm() {
        for offset in 0..BYTES {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes();
                bytes[offset] = value;
                let Ok(header) = Header::parse(&bytes, Placement::Attached) else { continue };
                let end = |slot: &Slot| {
                    u64::from(slot.material.0) + material_sectors(header.cipher.key_bytes() as u64)
                };
                let inside =
                    header.slots.iter().all(|s| s.material.0 >= 8 && end(s) <= header.payload.0.into());
                assert!(inside, "{value:#x} at {offset}");
            }
        }
    }
}
