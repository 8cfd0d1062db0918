//! The payload: requests on sectors that are encrypted on their way down and decrypted on their way up.
//!
//! Reads decrypt in the caller's buffers; writes encrypt into a bounce buffer, because what the caller gave is not ours
//! to change. Both go in pieces that stay in the processor's cache between the cipher and the copy to or from the file.
//!
//! Invariant: sector 0 of the cipher is the first sector of the payload, wherever that is in the file. A hole in the file
//! decrypts to garbage, so everything is data, zeroes are written like other data, and nothing is discarded.

use super::header::Header;
use super::info;
use crate::crypto::SectorCipher;
use block::buffer::Pool;
use block::{
    Child, Driver, Error, Event, FormatInfo, IoVec, IoVecMut, Level, Limits, Mapping, Quiesced, Resize,
    Result, SECTOR, Want, WriteFlags,
};
use std::sync::Arc;

/// Bytes that are decrypted or encrypted at once: well below the size of a second-level cache.
const PIECE: usize = 256 << 10;

/// Bytes that a write which must be on stable storage goes out in: each piece waits for the disk.
const FUA_PIECE: usize = 1 << 20;

/// The driver of an open image.
#[derive(Debug)]
pub(super) struct Payload {
    file: Child,
    children: Arc<[Child]>,
    header: Header,
    /// `None`: opened without the key, for reports only.
    cipher: Option<Box<dyn SectorCipher>>,
    pool: Pool,
}

impl Payload {
    /// The payload in `file` that `header` describes.
    pub(super) fn new(
        file: Child,
        detached: Option<Child>,
        header: Header,
        cipher: Option<Box<dyn SectorCipher>>,
    ) -> Self {
        let children = std::iter::once(file.clone()).chain(detached).collect();
        Payload { file, children, header, cipher, pool: Pool::new() }
    }

    fn start(&self) -> u64 {
        self.header.payload.bytes()
    }

    fn place(&self, at: u64) -> Result<u64> {
        at.checked_add(self.start()).ok_or_else(|| Error::from_errno(nix::libc::EFBIG))
    }

    fn cipher(&self) -> Result<&dyn SectorCipher> {
        let no_key = || Error::invalid("The image was opened without its key");
        self.cipher.as_deref().ok_or_else(no_key)
    }

    /// Decrypts buffers of which some end in the middle of a sector.
    fn decrypt_scattered(&self, cipher: &dyn SectorCipher, at: u64, to: &mut IoVecMut<'_>) -> Result<()> {
        let mut whole = self.pool.take(to.len());
        self.file.read_exact(self.place(at)?, &mut whole)?;
        cipher.decrypt(at / SECTOR, &mut whole);
        to.copy_from_slice(&whole);
        Ok(())
    }
}

fn whole_sectors(len: usize) -> bool {
    (len as u64).is_multiple_of(SECTOR)
}

impl Driver for Payload {
    fn len(&self) -> Result<u64> {
        Ok(self.file.len()?.saturating_sub(self.start()))
    }

    fn limits(&self) -> Limits {
        Limits {
            request_align: SECTOR as u32,
            memory_align: self.file.node().limits().memory_align,
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
            if piece.parts_mut().all(|part| whole_sectors(part.len())) {
                self.file.read(self.place(at)?, &mut piece.reborrow())?;
                let mut sector = at / SECTOR;
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
            encrypt(cipher, at / SECTOR, &piece, bounce);
            self.file.write(self.place(at)?, &IoVec::from(&*bounce), flags)?;
            done += piece.len();
        }
        Ok(())
    }

    fn flush(&self, level: Level) -> Result<()> {
        self.file.flush(level)
    }

    fn truncate(&self, _q: &Quiesced<'_>, to: Resize) -> Result<()> {
        self.file.truncate(Resize { size: self.place(to.size)?, ..to })
    }

    fn event(&self, event: Event) {
        self.file.node().event(event);
    }

    fn info(&self) -> FormatInfo {
        FormatInfo {
            encrypted: true,
            specific: Some(("luks", info::luks1(&self.header))),
            ..FormatInfo::default()
        }
    }
}

/// Encrypts `from`, whole sectors, to `to`, which is as long.
fn encrypt(cipher: &dyn SectorCipher, mut sector: u64, from: &IoVec<'_>, to: &mut [u8]) {
    if !from.parts().all(|part| whole_sectors(part.len())) {
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
