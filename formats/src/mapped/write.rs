//! Writing: reserve, copy what surrounds the write, write, commit.

use super::{CRYPT_PIECE, GuestOffset, HostOffset, Lease, Mapped, MappedFormat, Place, Reader, Reservation};
use block::buffer::Buffer;
use block::{Error, IoVec, IoVecMut, Node, Result, SECTOR, Want, WriteFlags, ZeroFlags};
use std::ops::Range;

/// Zeroes around a write that are sent along with it; longer runs are written as zeroes by the file.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// A lease that is given back unless it is committed.
struct Held<'a, F: MappedFormat> {
    format: &'a F,
    lease: Option<Lease<F::Token>>,
}

impl<F: MappedFormat> Drop for Held<'_, F> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.format.abandon(lease);
        }
    }
}

/// What stands before or after a write in its cluster.
enum Around {
    /// Nothing has to be sent.
    Nothing,
    /// Zeroes, short enough to be sent along.
    Zeroes(usize),
    /// Bytes that were there.
    Bytes(Buffer),
}

impl Around {
    fn part(&self) -> &[u8] {
        match self {
            Around::Nothing => &[],
            Around::Zeroes(len) => &ZEROES[..*len],
            Around::Bytes(bytes) => bytes,
        }
    }
}

impl<F: MappedFormat> Mapped<F> {
    /// Writes all of `from` at `at`.
    pub(super) fn write_at(&self, at: GuestOffset, from: &IoVec<'_>) -> Result<()> {
        self.write_placing(at, from, &|| ())
    }

    /// Like [`Mapped::write_at`]; `placed` is called when all that has to be allocated is.
    pub(super) fn write_placing(
        &self,
        mut at: GuestOffset,
        from: &IoVec<'_>,
        placed: &dyn Fn(),
    ) -> Result<()> {
        let (mut done, mut after) = (0, None);
        while done < from.len() {
            let left = (from.len() - done) as u64;
            let reservation = self.format.reserve(at, left, after)?;
            let len = reservation.len;
            if len == left {
                placed();
            }
            after = Some(reservation.host.plus(len));
            let piece = from.slice(done, usize::try_from(len).unwrap_or(usize::MAX));
            let host = reservation.host.0;
            self.fill(at, reservation, |head, tail| {
                let mut whole = IoVec::new();
                whole.push(head);
                piece.parts().for_each(|part| whole.push(part));
                whole.push(tail);
                let lead = head.len() as u64;
                self.send(GuestOffset(at.0 - lead), host - lead, &whole)
            })?;
            done += piece.len();
            at = at.plus(len);
        }
        Ok(())
    }

    /// Copies `len` bytes of a node, from its offset `from_at`, to `at`, without taking them through memory.
    pub(super) fn copy_at(&self, at: GuestOffset, from: &Node, from_at: u64, len: u64) -> Result<()> {
        if self.format.cipher().is_some() {
            return Err(Error::from_errno(nix::libc::ENOTSUP));
        }
        let (mut done, mut after) = (0, None);
        while done < len {
            let here = at.plus(done);
            let reservation = self.format.reserve(here, len - done, after)?;
            let (part, host) = (reservation.len, reservation.host);
            after = Some(host.plus(part));
            self.fill(here, reservation, |head, tail| {
                let lead = head.len() as u64;
                self.send(GuestOffset(here.0 - lead), host.0 - lead, &head.into())?;
                self.format.data().copy_in(host.0, from, from_at + done, part)?;
                self.send(here.plus(part), host.0 + part, &tail.into())
            })?;
            done += part;
        }
        Ok(())
    }

    /// Fills what was reserved for a write at `at`: `put` gets what belongs before and behind the write.
    fn fill(
        &self,
        at: GuestOffset,
        reservation: Reservation<F::Token>,
        put: impl FnOnce(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Reservation { len, host, pin, lease } = reservation;
        let mut held = Held { format: &self.format, lease };
        let Some(lease) = &held.lease else { return put(&[], &[]) };
        let (covers, blank) = (lease.covers.clone(), lease.blank);
        let start = host.0 - (at.0 - covers.start);
        let room = start..start + (covers.end - covers.start);
        let head = self.around(covers.start..at.0, room.start, &room, blank)?;
        let tail = self.around(at.0 + len..covers.end, host.0 + len, &room, blank)?;
        if [&head, &tail].iter().any(|part| matches!(part, Around::Bytes(_))) {
            self.announce("cow_write");
        }
        put(head.part(), tail.part())?;
        let lease = held.lease.take().expect("it was there a moment ago");
        let done = self.format.commit(lease);
        drop(pin);
        done
    }

    /// Gets ready what stands in `guest`, which will be at `host`, a part of the `room` for all of it.
    fn around(&self, guest: Range<u64>, host: u64, room: &Range<u64>, blank: bool) -> Result<Around> {
        let len = guest.end - guest.start;
        if len == 0 {
            return Ok(Around::Nothing);
        }
        // Encrypted, zeroes are as good as any other bytes.
        if self.format.cipher().is_none() && self.reads_zero(guest.clone())? {
            self.announce("cluster_alloc_space");
            // A file that is written in larger units cannot zero it.
            if self.is_whole(room) {
                return self.zeroes(host..host + len, blank);
            }
        }
        let mut bytes = Buffer::zeroed(usize::try_from(len).unwrap_or(usize::MAX));
        self.announce("cow_read");
        self.read_at(GuestOffset(guest.start), &mut IoVecMut::from(&mut *bytes), Reader::LeaseHolder)?;
        Ok(Around::Bytes(bytes))
    }

    /// Whether the file for data can be asked for just this range, also where filters are in front of it.
    fn is_whole(&self, room: &Range<u64>) -> bool {
        let node = self.format.data().node();
        [node.limits(), node.unfiltered().limits()].iter().all(|limits| {
            let unit = u64::from(limits.request_align);
            room.start.is_multiple_of(unit) && room.end.is_multiple_of(unit)
        })
    }

    /// Gets zeroes ready for a part of the file, which is zero already where it is `blank`.
    fn zeroes(&self, host: Range<u64>, blank: bool) -> Result<Around> {
        let len = host.end - host.start;
        let sent = match blank {
            // A file ends with a whole sector.
            true => (host.start.next_multiple_of(SECTOR) - host.start).min(len),
            false => len,
        };
        if sent <= ZEROES.len() as u64 {
            return Ok(Around::Zeroes(usize::try_from(sent).unwrap_or(0)));
        }
        self.format.data().write_zeroes(host, ZeroFlags::empty())?;
        Ok(Around::Nothing)
    }

    /// Whether a range reads as zeroes as far as the tables of the whole chain tell.
    pub(super) fn reads_zero(&self, range: Range<u64>) -> Result<bool> {
        let mut at = range.start;
        while at < range.end {
            let found = self.format.lookup(GuestOffset(at), range.end - at, Reader::LeaseHolder)?;
            let zero = match found.place {
                Place::Zero(_) => true,
                Place::Absent(_) => self.backing_reads_zero(at..at + found.len)?,
                Place::Stored(_) | Place::Compressed(..) => false,
            };
            if !zero {
                return Ok(false);
            }
            at += found.len;
        }
        Ok(true)
    }

    fn backing_reads_zero(&self, range: Range<u64>) -> Result<bool> {
        let Some(backing) = self.format.backing().filter(|_| range.start < self.format.len()) else {
            return Ok(true);
        };
        let range = range.start..range.end.min(backing.len()?);
        if range.is_empty() {
            return Ok(true);
        }
        let mut extents = block::extents::Extents::new(backing.node(), range, Want::Zeroes);
        extents.try_fold(true, |zero, extent| Ok(zero && extent?.zero))
    }

    /// Writes to the file for data, encrypting where the image is.
    fn send(&self, at: GuestOffset, host: u64, from: &IoVec<'_>) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        self.announce("write_aio");
        let Some(cipher) = self.format.cipher() else {
            return self.format.data().write(host, from, WriteFlags::empty());
        };
        let mut bounce = self.pool.take(from.len().min(CRYPT_PIECE));
        for done in (0..from.len()).step_by(CRYPT_PIECE) {
            let piece = from.slice(done, CRYPT_PIECE);
            let bounce = &mut bounce[..piece.len()];
            let (at, host) = (at.plus(done as u64), HostOffset(host + done as u64));
            piece.copy_to_slice(bounce);
            cipher.encrypt(at, host, bounce)?;
            self.format.data().write_all(host.0, bounce)?;
        }
        Ok(())
    }

    /// Writes whole clusters compressed, those that do not become smaller as they are.
    pub(super) fn write_compressed(&self, at: GuestOffset, from: &IoVec<'_>) -> Result<()> {
        let size = self.format.cluster_size();
        let end = at.0 + from.len() as u64;
        if !at.0.is_multiple_of(size) || !end.is_multiple_of(size) && end != self.format.len() {
            return Err(Error::from_errno(nix::libc::EINVAL));
        }
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        let mut cluster = vec![0; len];
        for done in (0..from.len()).step_by(len) {
            let piece = from.slice(done, len);
            piece.copy_to_slice(&mut cluster[..piece.len()]);
            cluster[piece.len()..].fill(0);
            let here = at.plus(done as u64);
            match self.format.compress(&cluster)? {
                Some(bytes) => {
                    self.announce("write_compressed");
                    self.format.store_compressed(here, &bytes)?;
                }
                None => self.write_at(here, &piece)?,
            }
        }
        Ok(())
    }
}
