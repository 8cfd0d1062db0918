//! Reading: from the file, the backing chain, or a compressed cluster.

use super::{
    CRYPT_PIECE, Found, GuestOffset, HostOffset, Mapped, MappedFormat, PayloadCipher, Place, Reader,
};
use block::{IoVecMut, Result, SECTOR};

impl<F: MappedFormat> Mapped<F> {
    /// Reads all of `to` from `at`.
    pub(super) fn read_at(&self, mut at: GuestOffset, to: &mut IoVecMut<'_>, who: Reader) -> Result<()> {
        let mut rest = to.reborrow();
        while !rest.is_empty() {
            let found = self.format.lookup(at, rest.len() as u64, who)?;
            let len = usize::try_from(found.len).unwrap_or(usize::MAX);
            let mut piece = rest.split_to(len);
            let n = piece.len() as u64;
            self.read_run(at, &found, &mut piece)?;
            at = at.plus(n);
        }
        Ok(())
    }

    fn read_run(&self, at: GuestOffset, found: &Found, to: &mut IoVecMut<'_>) -> Result<()> {
        match found.place {
            Place::Zero(_) => to.fill(0),
            Place::Absent(_) => return self.read_backing(at, to),
            Place::Stored(host) => return self.read_stored(at, host, to),
            Place::Compressed(host, len) => return self.read_compressed(at, host, len, to),
        }
        Ok(())
    }

    /// A shorter backing file is followed by zeroes.
    fn read_backing(&self, at: GuestOffset, to: &mut IoVecMut<'_>) -> Result<()> {
        match self.format.backing() {
            // The state of a machine, behind the disk, is not in the backing file.
            Some(backing) if at.0 < self.format.len() => {
                self.announce("read_backing_aio");
                backing.read(at.0, to)
            }
            _ => {
                to.fill(0);
                Ok(())
            }
        }
    }

    fn read_stored(&self, at: GuestOffset, host: HostOffset, to: &mut IoVecMut<'_>) -> Result<()> {
        self.announce("read_aio");
        let Some(cipher) = self.format.cipher() else { return self.format.data().read(host.0, to) };
        let (mut at, mut host) = (at, host);
        let mut rest = to.reborrow();
        while !rest.is_empty() {
            let mut piece = rest.split_to(CRYPT_PIECE);
            let len = piece.len() as u64;
            self.read_encrypted(cipher, at, host, &mut piece)?;
            (at, host) = (at.plus(len), host.plus(len));
        }
        Ok(())
    }

    /// Reads and decrypts in the caller's buffers, or beside them where one ends in the middle of a sector.
    fn read_encrypted(
        &self,
        cipher: &dyn PayloadCipher,
        mut at: GuestOffset,
        mut host: HostOffset,
        to: &mut IoVecMut<'_>,
    ) -> Result<()> {
        if !to.parts_mut().all(|part| (part.len() as u64).is_multiple_of(SECTOR)) {
            let mut whole = self.pool.take(to.len());
            self.format.data().read_exact(host.0, &mut whole)?;
            cipher.decrypt(at, host, &mut whole)?;
            to.copy_from_slice(&whole);
            return Ok(());
        }
        self.format.data().read(host.0, &mut to.reborrow())?;
        for part in to.parts_mut() {
            cipher.decrypt(at, host, part)?;
            (at, host) = (at.plus(part.len() as u64), host.plus(part.len() as u64));
        }
        Ok(())
    }

    fn read_compressed(
        &self,
        at: GuestOffset,
        host: HostOffset,
        len: u64,
        to: &mut IoVecMut<'_>,
    ) -> Result<()> {
        let size = self.format.cluster_size();
        let mut cluster = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.announce("read_compressed");
        self.format.file().read_exact(host.0, &mut bytes)?;
        self.format.decompress(&bytes, &mut cluster)?;
        let skip = usize::try_from(at.0 % size).unwrap_or(usize::MAX);
        to.copy_from_slice(&cluster[skip..skip + to.len()]);
        Ok(())
    }
}
