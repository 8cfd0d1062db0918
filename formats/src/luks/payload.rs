//! The payload: requests on sectors that are encrypted on their way down and decrypted on their way up.
//!
//! Reads decrypt in the caller's buffers; writes encrypt into a bounce buffer, because what the caller gave is not ours
//! to change. Both go in pieces that stay in the processor's cache between the cipher and the copy to or from the file.
//!
//! Invariant: sector 0 of the cipher is the first sector of the payload, wherever that is in the file. A hole in the file
//! decrypts to garbage, so everything is data, zeroes are written like other data, and nothing is discarded.

use super::area::Area;
use super::container::Place;
use super::head::Head;
use super::options::OpenOptions;
use crate::crypto::SectorCipher;
use block::amend::AmendCtx;
use block::buffer::Pool;
use block::graph::{CreateOptions, ReopenCtx};
use block::{
    Child, Driver, Error, FormatInfo, IoVec, IoVecMut, Level, Limits, Mapping, Quiesced, Resize, Result,
    SECTOR, Want, WriteFlags,
};
use std::sync::Arc;

/// Bytes that are decrypted or encrypted at once: below the size of a second-level cache.
const PIECE: usize = 256 << 10;

/// Bytes that a write which must be on stable storage goes out in: each piece waits for the disk.
const FUA_PIECE: usize = 1 << 20;

/// The driver of an open image.
#[derive(Debug)]
pub(super) struct Payload {
    file: Child,
    detached: Option<Child>,
    children: Arc<[Child]>,
    head: Head,
    place: Place,
    /// `None`: opened without the key, for reports only.
    cipher: Option<Arc<dyn SectorCipher>>,
    pool: Pool,
}

impl Payload {
    /// The payload in `file` that `head` describes.
    pub(super) fn new(
        file: Child,
        detached: Option<Child>,
        head: Head,
        cipher: Option<Arc<dyn SectorCipher>>,
    ) -> Self {
        // In the order in which QEMU reports them.
        let children = detached.iter().chain([&file]).cloned().collect();
        let place = head.place();
        Payload { file, detached, children, head, place, cipher, pool: Pool::new() }
    }

    /// Bytes of what has an IV.
    fn unit(&self) -> usize {
        self.place.sector.bytes()
    }

    /// The number of the sector at `at`, in units of 512 bytes.
    fn sector(&self, at: u64) -> u64 {
        self.place.first.wrapping_add(at / SECTOR)
    }

    fn place(&self, at: u64) -> Result<u64> {
        at.checked_add(self.place.start).ok_or_else(|| Error::from_errno(nix::libc::EFBIG))
    }

    fn cipher(&self) -> Result<&dyn SectorCipher> {
        let no_key = || Error::invalid("The image was opened without its key");
        self.cipher.as_deref().ok_or_else(no_key)
    }

    /// Decrypts buffers of which some end in the middle of a sector.
    fn decrypt_scattered(&self, cipher: &dyn SectorCipher, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let mut whole = self.pool.take(to.len());
        self.file.read_exact(self.place(at)?, &mut whole)?;
        cipher.decrypt(self.sector(at), &mut whole);
        to.copy_from_slice(&whole);
        Ok(())
    }
}

impl Driver for Payload {
    fn len(&self) -> Result<u64> {
        let rest = self.file.len()?.saturating_sub(self.place.start);
        let unit = self.place.sector.bytes() as u64;
        Ok(self.place.len.unwrap_or(rest - rest % unit))
    }

    fn limits(&self) -> Limits {
        let below = self.file.node().limits();
        Limits {
            request_align: self.unit() as u32,
            memory_align: below.memory_align,
            write_flags: WriteFlags::FUA,
            ..Limits::default()
        }
    }

    fn children(&self) -> Arc<[Child]> {
        Arc::clone(&self.children)
    }

    fn map(&self, _at: u64, max: u64, _want: Want) -> Result<Mapping> {
        Ok(Mapping::data(max))
    }

    fn read(&self, mut at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let cipher = self.cipher()?;
        while !to.is_empty() {
            let mut piece = to.split_to(PIECE);
            let len = piece.len() as u64;
            if piece.parts_mut().all(|part| part.len().is_multiple_of(self.unit())) {
                self.file.read(self.place(at)?, &mut piece.reborrow())?;
                let mut sector = self.sector(at);
                for part in piece.parts_mut() {
                    cipher.decrypt(sector, part);
                    sector += part.len() as u64 / SECTOR;
                }
            } else {
                self.decrypt_scattered(cipher, at, &mut piece)?;
            }
            at += len;
        }
        Ok(())
    }

    fn write(&self, at: u64, from: &IoVec<'_>, flags: WriteFlags) -> Result<()> {
        if flags.contains(WriteFlags::COMPRESSED) {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        let cipher = self.cipher()?;
        let max = if flags.contains(WriteFlags::FUA) { FUA_PIECE } else { PIECE };
        let mut bounce = self.pool.take(from.len().min(max));
        let mut done = 0;
        while done < from.len() {
            let piece = from.slice(done, max);
            let bounce = &mut bounce[..piece.len()];
            let at = at + done as u64;
            encrypt(cipher, self.sector(at), &piece, bounce);
            self.file.write(self.place(at)?, &IoVec::from(&*bounce), flags)?;
            done += piece.len();
        }
        Ok(())
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.file.flush(level)
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        if self.place.len.is_some() {
            return Err(Error::unsupported("The LUKS payload has a fixed size"));
        }
        let unit = self.unit() as u64;
        if unit > SECTOR && !to.size.is_multiple_of(unit) {
            let text = format!("The new size is no multiple of the sector size, {unit} bytes");
            return Err(Error::invalid(text));
        }
        self.file.node().truncate(Resize { size: self.place(to.size)?, ..to })
    }

    fn reopen(&self, ctx: &mut ReopenCtx<'_>) -> Result<Box<dyn Driver>> {
        let _: OpenOptions = ctx.options(&[])?;
        let file = ctx.child("file", ctx.perms)?;
        let (detached, cipher) = (self.detached.clone(), self.cipher.clone());
        let head = self.head.reopened(Area::new(detached.as_ref().unwrap_or(&file).clone(), 0));
        Ok(Box::new(Payload::new(file, detached, head, cipher)))
    }

    fn keys(&self) -> Option<&dyn block::keys::Keys> {
        Some(&self.head)
    }

    fn amend(&self) -> Option<&dyn block::amend::Amend> {
        Some(self)
    }

    fn info(&self) -> FormatInfo {
        FormatInfo { encrypted: true, specific: Some(("luks", self.head.info())), ..FormatInfo::default() }
    }
}

impl block::amend::Amend for Payload {
    fn amend(&self, _q: &Quiesced<'_>, options: &CreateOptions, ctx: &mut AmendCtx<'_>) -> Result<()> {
        self.head.amend(options, ctx)
    }
}

/// Encrypts `from`, whole sectors, to `to`, which is as long.
fn encrypt(cipher: &dyn SectorCipher, mut sector: u64, from: &IoVec<'_>, to: &mut [u8]) {
    let unit = cipher.sector_size().bytes();
    if !from.parts().all(|part| part.len().is_multiple_of(unit)) {
        from.copy_to_slice(to);
        return cipher.encrypt(sector, to);
    }
    let mut rest = to;
    for part in from.parts() {
        let (head, tail) = rest.split_at_mut(part.len());
        cipher.encrypt_to(sector, part, head);
        sector += part.len() as u64 / SECTOR;
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Slots;
    use super::*;
    use block::protocol::memory::Memory;
    use block::{Image, Kind, Node, NodeFlags, NodeName, WriteCache, ZeroFlags};
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    /// An image over a file in memory, and the node of that file.
    fn image(cipher: &str, key_bytes: usize, len: usize) -> (Image, Child) {
        let mut slots = Slots::new(cipher, key_bytes, &[]);
        slots.file.resize(slots.file.len() + len, 0);
        let (cipher, file) = (slots.cipher(), Memory::child(slots.file));
        let head = Head::open(Area::new(file.clone(), 0), super::super::tests::opened()).unwrap();
        let driver = Payload::new(file.clone(), None, head, Some(cipher.into()));
        let node = Node::new(Box::new(driver), NodeName::default(), NodeFlags::default());
        (Image::new(node, WriteCache::Back), file)
    }

    /// A request cut into parts at random places.
    fn scatter_mut<'a>(mut bytes: &'a mut [u8], rng: &mut SmallRng) -> IoVecMut<'a> {
        let mut v = IoVecMut::new();
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at_mut(rng.random_range(1..=bytes.len()));
            v.push(part);
            bytes = rest;
        }
        v
    }

    fn scatter<'a>(mut bytes: &'a [u8], rng: &mut SmallRng) -> IoVec<'a> {
        let mut v = IoVec::new();
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(rng.random_range(1..=bytes.len()));
            v.push(part);
            bytes = rest;
        }
        v
    }

    #[test]
    fn reads_give_what_was_written_at_any_offset_in_any_pieces() {
        for (cipher, key_bytes) in
            [("aes-xts-plain64", 64), ("aes-cbc-essiv:sha256", 32), ("cast5-ctr-plain", 16)]
        {
            let len = 3 * PIECE + 4 * SECTOR as usize;
            let (image, _) = image(cipher, key_bytes, len);
            let mut model = vec![0; len];
            image.write(0, &model).unwrap();
            let mut rng = SmallRng::seed_from_u64(1);
            for round in 0..60 {
                let start = rng.random_range(0..len);
                let end = len.min(start + rng.random_range(1..=[600, 5000, len][round % 3]));
                rng.fill(&mut model[start..end]);
                let flags = WriteFlags::FUA & WriteFlags::from_bits_truncate(round as u8);
                image.writev(start as u64, &scatter(&model[start..end], &mut rng), flags).unwrap();
                let (from, to) = (rng.random_range(0..=start), rng.random_range(end..=len));
                let mut back = vec![0; to - from];
                image.readv(from as u64, &mut scatter_mut(&mut back, &mut rng)).unwrap();
                assert!(back == model[from..to], "{cipher} round {round}");
            }
        }
    }

    #[test]
    fn sectors_are_numbered_from_the_payload() {
        let (image, file) = image("aes-xts-plain64", 64, 4096);
        image.write(512, &[9; 512]).unwrap();
        let mut stored = [0; 1024];
        file.read_exact(2_068_480, &mut stored).unwrap();
        assert_eq!(stored[..512], [0; 512]);
        assert_ne!(stored[512..], [9; 512]);
    }

    #[test]
    fn zeroes_are_written_encrypted() {
        let (image, file) = image("aes-xts-plain64", 64, 4096);
        image.write_zeroes(0..4096, ZeroFlags::MAY_UNMAP).unwrap();
        let mut bytes = [1; 4096];
        image.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4096]);
        file.read_exact(2_068_480, &mut bytes).unwrap();
        assert!(!block::buffer::is_zero(&bytes[..512]));
        let refused = image.write_zeroes(0..4096, ZeroFlags::NO_FALLBACK).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
    }

    #[test]
    fn everything_is_data_without_a_place_and_nothing_is_known_to_be_zero() {
        let (image, _) = image("aes-xts-plain64", 64, 1 << 20);
        let mapping = image.map(512, 1 << 20, Want::Exact).unwrap();
        assert_eq!((mapping.kind, mapping.len), (block::MapKind::Data, (1 << 20) - 512));
        assert!(mapping.host.is_none() && !mapping.plain);
        assert!(!image.limits().zero_init);
    }

    #[test]
    fn a_discard_leaves_the_data_alone() {
        let (image, _) = image("aes-xts-plain64", 64, 4096);
        image.write(0, &[5; 4096]).unwrap();
        image.discard(0..4096).unwrap();
        let mut bytes = [0; 4096];
        image.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [5; 4096]);
    }

    #[test]
    fn the_length_is_the_files_without_the_header() {
        let (image, file) = image("aes-xts-plain64", 64, 1000);
        assert_eq!(image.len().unwrap(), 1024);
        image.write(512, &[3; 512]).unwrap();
        image.truncate(Resize::to(5000)).unwrap();
        assert_eq!((image.len().unwrap(), file.len().unwrap()), (5120, 2_068_480 + 5120));
        let mut bytes = [0; 512];
        image.read(512, &mut bytes).unwrap();
        assert_eq!(bytes, [3; 512]);
        image.truncate(Resize::to(0)).unwrap();
        assert_eq!(image.len().unwrap(), 0);
        assert!(image.truncate(Resize::to(u64::MAX)).is_err());
    }
}
