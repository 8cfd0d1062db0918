//! INT 13h: disks, by cylinder, head and sector, and by number (Enhanced Disk Drive Specification, version 1.1).

use super::{Done, FIRST_DISK, Registers, address, set_word, word};
use crate::kvm::memory::Memory;
use block::tool::notice;
use block::{Image, SECTOR};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Sectors of a track: as many as the six bits of a sector number allow.
const TRACK: u64 = 63;
/// The most cylinders that ten bits can number.
const CYLINDERS: u64 = 1024;
/// Sectors carried at once.
const PIECE: u64 = 128;

/// A status, as AH has it.
type Status = u8;
/// A service, a disk or a place that there is none of.
pub(super) const BAD_REQUEST: Status = 0x01;
/// The disk may only be read.
pub(super) const WRITE_PROTECTED: Status = 0x03;
/// The sectors are beyond the end.
pub(super) const SECTOR_NOT_FOUND: Status = 0x04;
/// The buffer is not in the memory.
pub(super) const BAD_BUFFER: Status = 0x09;
/// The image could not do it.
const FAILED: Status = 0x20;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Disks {
    images: Vec<Image>,
    memory: Arc<Memory>,
    piece: Vec<u8>,
}

/// How a disk's sectors are counted by cylinder, head and sector.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) cylinders: u64,
    pub(super) heads: u64,
}

impl Geometry {
    /// That of a disk with so many sectors: the fewest heads (16, 32, … 128, 255) that can reach all of it.
    pub(super) fn new(sectors: u64) -> Self {
        let heads =
            [16, 32, 64, 128].into_iter().find(|heads| sectors <= heads * TRACK * CYLINDERS).unwrap_or(255);
        let cylinders = (sectors / (heads * TRACK)).clamp(1, CYLINDERS);
        Geometry { cylinders, heads }
    }
}

/// Which way sectors go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
    /// Nowhere: they are only looked for.
    Verify,
}

/// Sectors, and where in memory they come from or go to.
#[derive(Debug)]
struct Transfer {
    way: Way,
    sector: u64,
    count: u64,
    buffer: u64,
}

impl Disks {
    /// Disks of a machine with this memory.
    pub(super) fn new(images: Vec<Image>, memory: Arc<Memory>) -> Self {
        let bytes = PIECE * SECTOR;
        Disks { images, memory, piece: vec![0; usize::try_from(bytes).unwrap_or(0)] }
    }

    /// Serves a call: AH says of what, DL for which disk; AH then has the status and carry says that it is none.
    pub(super) fn serve(&mut self, call: &mut Registers) -> Done {
        // The services whose answer is not a status.
        let done = match call.ah() {
            0x15 => self.kind(call),
            _ => self.execute(call),
        };
        if let Err(status) = done {
            call.set_ah(status);
        }
        Done::Carry(done.is_err())
    }

    fn execute(&mut self, call: &mut Registers) -> Result<(), Status> {
        let image = self.image(call)?.clone();
        match call.ah() {
            // Reset.
            0x00 => {}
            0x02 => self.by_place(call, &image, Way::Read)?,
            0x03 => self.by_place(call, &image, Way::Write)?,
            0x04 => self.by_place(call, &image, Way::Verify)?,
            0x08 => self.parameters(call, &image)?,
            0x41 => return extensions(call),
            0x42 => self.by_number(call, &image, Way::Read)?,
            0x43 => self.by_number(call, &image, Way::Write)?,
            0x44 => self.by_number(call, &image, Way::Verify)?,
            0x48 => self.extended_parameters(call, &image)?,
            _ => return Err(BAD_REQUEST),
        }
        call.set_ah(0);
        Ok(())
    }

    fn image(&self, call: &Registers) -> Result<&Image, Status> {
        let number = call.regs.rdx.to_le_bytes()[0].checked_sub(FIRST_DISK);
        number.and_then(|number| self.images.get(usize::from(number))).ok_or(BAD_REQUEST)
    }

    /// 02h, 03h, 04h: CH, CL and DH say where, AL how many, ES:BX the buffer; AL says how many were done.
    fn by_place(&mut self, call: &mut Registers, image: &Image, way: Way) -> Result<(), Status> {
        let [low, cylinder, ..] = call.regs.rcx.to_le_bytes();
        let [_, head, ..] = call.regs.rdx.to_le_bytes();
        let cylinder = u64::from(cylinder) | u64::from(low & 0xc0) << 2;
        let (sector, head, count) = (u64::from(low & 0x3f), u64::from(head), u64::from(call.al()));
        let heads = Geometry::new(sectors(image)?).heads;
        if count == 0 || sector == 0 || head >= heads {
            return Err(BAD_REQUEST);
        }
        let sector = (cylinder * heads + head) * TRACK + sector - 1;
        let buffer = address(&call.segments.es, word(call.regs.rbx).into()).0;
        let (done, result) = self.transfer(image, &Transfer { way, sector, count, buffer });
        call.set_al(done.to_le_bytes()[0]);
        result
    }

    /// 42h, 43h, 44h: DS:SI has a packet that says it all.
    fn by_number(&mut self, call: &Registers, image: &Image, way: Way) -> Result<(), Status> {
        let packet_at = address(&call.segments.ds, word(call.regs.rsi).into());
        let packet: [u8; 16] = self.memory.read_obj(packet_at).map_err(|_| BAD_REQUEST)?;
        let [size, _, count_low, count_high, o, p, s, t, sector @ ..] = packet;
        if size < 16 {
            return Err(BAD_REQUEST);
        }
        let (offset, segment) = (u16::from_le_bytes([o, p]), u16::from_le_bytes([s, t]));
        let transfer = Transfer {
            way,
            sector: u64::from_le_bytes(sector),
            count: u16::from_le_bytes([count_low, count_high]).into(),
            buffer: (u64::from(segment) << 4) + u64::from(offset),
        };
        let (done, result) = self.transfer(image, &transfer);
        let count_at = GuestAddress(packet_at.0.wrapping_add(2));
        self.memory.write_obj(u16::try_from(done).unwrap_or(u16::MAX), count_at).map_err(|_| BAD_REQUEST)?;
        result
    }

    /// Carries sectors, and says how many it did.
    fn transfer(&mut self, image: &Image, transfer: &Transfer) -> (u64, Result<(), Status>) {
        let mut done = 0;
        while done < transfer.count {
            let count = PIECE.min(transfer.count - done);
            if let Err(status) = self.carry(image, transfer, done, count) {
                return (done, Err(status));
            }
            done += count;
        }
        (done, Ok(()))
    }

    fn carry(&mut self, image: &Image, transfer: &Transfer, done: u64, count: u64) -> Result<(), Status> {
        let first = transfer.sector.checked_add(done).ok_or(SECTOR_NOT_FOUND)?;
        if first.checked_add(count).is_none_or(|end| sectors(image).is_ok_and(|sectors| end > sectors)) {
            return Err(SECTOR_NOT_FOUND);
        }
        let len = usize::try_from(count * SECTOR).unwrap_or(0);
        let piece = &mut self.piece[..len];
        let buffer = GuestAddress(transfer.buffer.wrapping_add(done * SECTOR));
        match transfer.way {
            Way::Read => {
                image.read(first * SECTOR, piece).map_err(failed)?;
                self.memory.write_slice(piece, buffer).map_err(|_| BAD_BUFFER)
            }
            Way::Write if image.is_read_only() => Err(WRITE_PROTECTED),
            Way::Write => {
                self.memory.read_slice(piece, buffer).map_err(|_| BAD_BUFFER)?;
                image.write(first * SECTOR, piece).map_err(failed)
            }
            Way::Verify => Ok(()),
        }
    }

    /// 08h: the highest cylinder, head and sector in CH, CL and DH, the number of disks in DL.
    fn parameters(&self, call: &mut Registers, image: &Image) -> Result<(), Status> {
        let Geometry { cylinders, heads } = Geometry::new(sectors(image)?);
        let last = cylinders - 1;
        set_word(&mut call.regs.rcx, (last << 8 | last >> 2 & 0xc0 | TRACK) as u16);
        set_word(&mut call.regs.rdx, ((heads - 1) << 8) as u16 | self.images.len() as u16);
        call.regs.rbx &= !0xff;
        call.set_al(0);
        Ok(())
    }

    /// 15h: what kind of disk it is: 3 for one that stays, with the number of sectors in CX:DX; 0 for none.
    fn kind(&self, call: &mut Registers) -> Result<(), Status> {
        let count = self.image(call).map_err(|_| 0).and_then(sectors)?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        set_word(&mut call.regs.rcx, (count >> 16) as u16);
        set_word(&mut call.regs.rdx, count as u16);
        call.set_ah(3);
        Ok(())
    }

    /// 48h: the same and more, at DS:SI.
    fn extended_parameters(&self, call: &Registers, image: &Image) -> Result<(), Status> {
        const SIZE: u16 = 26;
        let at = address(&call.segments.ds, word(call.regs.rsi).into());
        let room: u16 = self.memory.read_obj(at).map_err(|_| BAD_REQUEST)?;
        if room < SIZE {
            return Err(BAD_REQUEST);
        }
        let sectors = sectors(image)?;
        let Geometry { cylinders, heads } = Geometry::new(sectors);
        let mut answer = Vec::with_capacity(SIZE.into());
        // The geometry that follows is valid.
        [SIZE, 2].iter().for_each(|word| answer.extend(word.to_le_bytes()));
        [cylinders, heads, TRACK].iter().for_each(|dword| answer.extend((*dword as u32).to_le_bytes()));
        answer.extend(sectors.to_le_bytes());
        answer.extend((SECTOR as u16).to_le_bytes());
        self.memory.write_slice(&answer, at).map_err(|_| BAD_BUFFER)
    }
}

/// 41h: that there are 42h to 44h and 48h.
fn extensions(call: &mut Registers) -> Result<(), Status> {
    if word(call.regs.rbx) != 0x55aa {
        return Err(BAD_REQUEST);
    }
    set_word(&mut call.regs.rbx, 0xaa55);
    set_word(&mut call.regs.rcx, 1);
    call.set_ah(0x21);
    Ok(())
}

fn sectors(image: &Image) -> Result<u64, Status> {
    Ok(image.len().map_err(failed)? / SECTOR)
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function that maps errors")]
fn failed(e: block::Error) -> Status {
    notice(&format!("INT 13h: {e}"));
    FAILED
}
