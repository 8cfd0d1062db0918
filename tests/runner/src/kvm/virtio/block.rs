//! A disk (section 5.2), which is an [`Image`].
//!
//! A request of any length is carried out in pieces through one buffer, so that the guest decides over time but not over
//! memory. What a request asks wrongly is answered with a status; only buffers without room for one are refused.

use super::{Device, broken};
use ::block::tool::notice;
use ::block::{Image, Result, SECTOR, ZeroFlags};
use std::io::{Read, Write};
use std::ops::Range;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{Reader, Writer};

/// The most buffers of a request: the queue's descriptors without those of header and status.
const MAX_SEGMENTS: u32 = super::mmio::QUEUE_SIZE as u32 - 2;
/// The most sectors that a discard or a write of zeroes names.
const MAX_ZEROES: u32 = 1 << 22;
/// Bytes of a request's header, and of what names a range to discard.
const HEADER: usize = 16;
/// Bytes carried at once.
const PIECE: usize = 256 << 10;
/// The length of the configuration.
const CONFIG: usize = 60;

/// See the module documentation.
#[derive(Debug)]
pub(in crate::kvm) struct Block {
    image: Image,
    name: String,
    config: [u8; CONFIG],
    piece: Vec<u8>,
}

/// Why a request was not carried out.
enum Refusal {
    Failed,
    Unsupported,
}

impl From<::block::Error> for Refusal {
    fn from(e: ::block::Error) -> Self {
        notice(&e.to_string());
        Refusal::Failed
    }
}

impl From<std::io::Error> for Refusal {
    fn from(e: std::io::Error) -> Self {
        ::block::Error::from(e).into()
    }
}

impl Block {
    /// The disk with this number.
    ///
    /// # Errors
    /// The length of the image is not known.
    pub(in crate::kvm) fn new(image: Image, number: usize) -> Result<Self> {
        let config = config(image.len()? / SECTOR);
        Ok(Block { image, name: format!("virtio-blk {number}"), config, piece: vec![0; PIECE] })
    }

    /// Carries out the request of `header`; data comes after it in `from` and goes to `to`.
    fn execute(
        &mut self,
        header: [u8; HEADER],
        from: &mut Reader<'_>,
        to: &mut Writer<'_>,
    ) -> Result<(), Refusal> {
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([a, b, c, d]) {
            VIRTIO_BLK_T_IN => self.read(sector, to),
            VIRTIO_BLK_T_OUT => self.write(sector, from),
            VIRTIO_BLK_T_FLUSH => Ok(self.image.flush()?),
            VIRTIO_BLK_T_GET_ID => self.identify(to),
            VIRTIO_BLK_T_DISCARD => {
                let (range, flags) = segment(from)?;
                if flags == 0 { Ok(self.image.discard(range)?) } else { Err(Refusal::Unsupported) }
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let (range, flags) = segment(from)?;
                let known = flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP == 0;
                let unmap = if flags == 0 { ZeroFlags::empty() } else { ZeroFlags::MAY_UNMAP };
                if known { Ok(self.image.write_zeroes(range, unmap)?) } else { Err(Refusal::Unsupported) }
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    fn read(&mut self, sector: u64, to: &mut Writer<'_>) -> Result<(), Refusal> {
        let Range { mut start, end } = bytes(sector, to.available_bytes())?;
        while start < end {
            let piece = piece(&mut self.piece, end - start);
            self.image.read(start, piece)?;
            to.write_all(piece)?;
            start += piece.len() as u64;
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, from: &mut Reader<'_>) -> Result<(), Refusal> {
        let Range { mut start, end } = bytes(sector, from.available_bytes())?;
        while start < end {
            let piece = piece(&mut self.piece, end - start);
            from.read_exact(piece)?;
            self.image.write(start, piece)?;
            start += piece.len() as u64;
        }
        Ok(())
    }

    fn identify(&self, to: &mut Writer<'_>) -> Result<(), Refusal> {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        let room = to.available_bytes().min(id.len());
        id.iter_mut().zip(self.name.bytes()).for_each(|(to, from)| *to = from);
        Ok(to.write_all(&id[..room])?)
    }
}

impl Device for Block {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let always = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH];
        let writable = [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES];
        let by_right = if self.image.is_read_only() { &[VIRTIO_BLK_F_RO][..] } else { &writable };
        always.iter().chain(by_right).fold(0, |features, bit| features | 1 << bit)
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn serve(&mut self, mut from: Reader<'_>, mut to: Writer<'_>) -> Result<u32> {
        let mut header = [0; HEADER];
        from.read_exact(&mut header).map_err(|_| broken("a request has no header"))?;
        let data = to.available_bytes().checked_sub(1);
        let data = data.ok_or_else(|| broken("a request has no room for its status"))?;
        let mut status_at = to.split_at(data).map_err(broken)?;
        let status = match self.execute(header, &mut from, &mut to) {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(Refusal::Failed) => VIRTIO_BLK_S_IOERR,
            Err(Refusal::Unsupported) => VIRTIO_BLK_S_UNSUPP,
        };
        status_at.write_all(&[status.to_le_bytes()[0]])?;
        u32::try_from(to.bytes_written() + 1).map_err(|_| broken("a request is too long"))
    }
}

/// The bytes of a request for `len` of them, which must be whole sectors.
fn bytes(sector: u64, len: usize) -> Result<Range<u64>, Refusal> {
    let start = sector.checked_mul(SECTOR).ok_or(Refusal::Failed)?;
    let end = start.checked_add(len as u64).ok_or(Refusal::Failed)?;
    if end.is_multiple_of(SECTOR) { Ok(start..end) } else { Err(Refusal::Failed) }
}

/// The part of `buffer` for the next of `left` bytes.
fn piece(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let len = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
    &mut buffer[..len]
}

/// The range that a discard or a write of zeroes names, and its flags. There is room for one.
fn segment(from: &mut Reader<'_>) -> Result<(Range<u64>, u32), Refusal> {
    if from.available_bytes() != HEADER {
        return Err(Refusal::Unsupported);
    }
    let mut segment = [0; HEADER];
    from.read_exact(&mut segment)?;
    let [sector @ .., a, b, c, d, e, f, g, h] = segment;
    let (sectors, flags) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if sectors > MAX_ZEROES {
        return Err(Refusal::Failed);
    }
    let start = u64::from_le_bytes(sector).checked_mul(SECTOR).ok_or(Refusal::Failed)?;
    let end = start.checked_add(u64::from(sectors) * SECTOR).ok_or(Refusal::Failed)?;
    Ok((start..end, flags))
}

/// The configuration of a disk with so many sectors (section 5.2.4).
fn config(sectors: u64) -> [u8; CONFIG] {
    let mut config = [0; CONFIG];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(20, &512_u32.to_le_bytes());
    for at in [36, 48] {
        // The most sectors, then the most ranges of a request: one.
        put(at, &MAX_ZEROES.to_le_bytes());
        put(at + 4, &1_u32.to_le_bytes());
    }
    // Discards are best aligned to a sector; writes of zeroes may give space back.
    put(44, &1_u32.to_le_bytes());
    put(56, &[1]);
    config
}
