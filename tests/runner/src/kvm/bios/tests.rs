//! The firmware's services, called as a guest would, and as no guest should.

use super::disk::{BAD_BUFFER, BAD_REQUEST, SECTOR_NOT_FOUND, WRITE_PROTECTED};
use super::*;
use crate::kvm::memory::allocate;
use crate::machine::Disk;
use block::tool::Out;
use std::fs;
use std::sync::mpsc;
use tempfile::TempDir;

const MEMORY: u64 = 1 << 20;
const DISK: usize = 2 << 20;

struct Machine {
    bios: Bios,
    memory: Arc<Memory>,
    input: Input,
    dir: TempDir,
}

impl Machine {
    /// With one disk whose byte at `n` is that of its sector's number.
    fn new(read_only: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = Disk::numbered(dir.path(), DISK, read_only);
        let memory = Arc::new(allocate(MEMORY).unwrap());
        install(&memory, 1).unwrap();
        let words = ["runner", "disk"].map(Into::into).to_vec();
        let machine = crate::cli::parse(words, &Out::new(String::new())).unwrap();
        let screen = Screen::new(crate::console::Console::new(&machine).unwrap(), mpsc::channel().0);
        let bios = Bios::new(&memory, &[image], &screen);
        Machine { bios, memory, input: Input::default(), dir }
    }

    /// Calls a service; gives AH and the carry flag.
    fn call(&mut self, vector: u64, call: &mut Registers) -> (u8, bool) {
        call.segments.cs.base = FIRMWARE;
        call.regs.rip = STUBS - FIRMWARE + vector * STUB_LEN;
        call.regs.rsp = 0x7000;
        assert_eq!(self.bios.serve(call, &mut self.input), Flow::Go);
        let flags: u16 = self.memory.read_obj(GuestAddress(0x7004)).unwrap();
        (call.ah(), flags & CARRY != 0)
    }

    /// INT 13h by place.
    fn by_place(&mut self, ax: u64, cx: u64, dx: u64, buffer: u64) -> (u8, bool) {
        let mut call = Registers::default();
        (call.regs.rax, call.regs.rcx, call.regs.rdx) = (ax, cx, dx);
        call.segments.es.base = buffer;
        self.call(0x13, &mut call)
    }

    /// INT 13h, service `ah`, with a packet.
    fn by_number(&mut self, ah: u8, packet: &Packet) -> (u8, bool) {
        let mut bytes = vec![packet.size, 0];
        bytes.extend(packet.count.to_le_bytes());
        bytes.extend(packet.buffer.to_le_bytes());
        bytes.extend(packet.sector.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(0x600)).unwrap();
        let mut call = Registers::default();
        (call.regs.rax, call.regs.rdx, call.regs.rsi) = (u64::from(ah) << 8, 0x80, 0x600);
        self.call(0x13, &mut call)
    }
}

struct Packet {
    size: u8,
    count: u16,
    /// Segment and offset.
    buffer: u32,
    sector: u64,
}

const PACKET: Packet = Packet { size: 16, count: 1, buffer: 0x2000_0000, sector: 7 };

const GOOD: (u8, bool) = (0, false);

#[test]
fn sectors_come_and_go_both_ways() {
    let mut machine = Machine::new(false);
    // Head 1, sector 2 is sector 64.
    assert_eq!(machine.by_place(0x0201, 0x0002, 0x0180, 0x9000), GOOD);
    assert_eq!(machine.memory.read_obj::<u8>(GuestAddress(0x91ff)).unwrap(), 64);
    assert_eq!(machine.by_number(0x42, &PACKET), GOOD);
    assert_eq!(machine.memory.read_obj::<u8>(GuestAddress(0x2_0000)).unwrap(), 7);
    assert_eq!(machine.by_place(0x0301, 0x0003, 0x0080, 0x9000), GOOD);
    assert_eq!(machine.by_number(0x43, &Packet { sector: 4095, ..PACKET }), GOOD);
    let disk = fs::read(machine.dir.path().join("disk")).unwrap();
    assert_eq!((disk[2 * 512], disk[4095 * 512]), (64, 7));
}

#[test]
fn wild_requests_for_sectors_are_answered_with_a_status() {
    let mut machine = Machine::new(false);
    let no = |status| (status, true);
    for (ax, cx, dx, buffer, answer) in [
        (0x0200, 0x0002, 0x0080, 0x9000, no(BAD_REQUEST)),
        (0x0201, 0x0000, 0x0080, 0x9000, no(BAD_REQUEST)),
        (0x0201, 0x0002, 0xff80, 0x9000, no(BAD_REQUEST)),
        (0x0201, 0x0002, 0x0081, 0x9000, no(BAD_REQUEST)),
        (0x0201, 0x0002, 0x0000, 0x9000, no(BAD_REQUEST)),
        (0x7701, 0x0002, 0x0080, 0x9000, no(BAD_REQUEST)),
        (0x0201, 0xffc2, 0x0080, 0x9000, no(SECTOR_NOT_FOUND)),
        (0x0201, 0x0002, 0x0080, MEMORY, no(BAD_BUFFER)),
        (0x02ff, 0x0002, 0x0080, MEMORY - 512, no(BAD_BUFFER)),
        (0x03ff, 0x0002, 0x0080, MEMORY - 512, no(BAD_BUFFER)),
        (0x0201, 0x0002, 0x0080, u64::MAX, no(BAD_BUFFER)),
    ] {
        assert_eq!(machine.by_place(ax, cx, dx, buffer), answer, "{ax:x} {cx:x} {dx:x} {buffer:x}");
    }
    for (packet, answer) in [
        (Packet { size: 15, ..PACKET }, no(BAD_REQUEST)),
        (Packet { sector: u64::MAX, ..PACKET }, no(SECTOR_NOT_FOUND)),
        (Packet { sector: u64::MAX, count: u16::MAX, ..PACKET }, no(SECTOR_NOT_FOUND)),
        (Packet { sector: 4095, count: 2, ..PACKET }, no(SECTOR_NOT_FOUND)),
        (Packet { buffer: u32::MAX, ..PACKET }, no(BAD_BUFFER)),
        (Packet { count: u16::MAX, ..PACKET }, no(BAD_BUFFER)),
    ] {
        for ah in [0x42, 0x43] {
            assert_eq!(machine.by_number(ah, &packet), answer);
        }
    }
    // A packet, and room for parameters, that are not in the memory.
    for ah in [0x42, 0x43, 0x44, 0x48] {
        let mut call = Registers::default();
        (call.regs.rax, call.regs.rdx, call.segments.ds.base) = (ah << 8, 0x80, MEMORY - 1);
        assert_eq!(machine.call(0x13, &mut call), no(BAD_REQUEST));
    }
    let disk = fs::read(machine.dir.path().join("disk")).unwrap();
    assert!(disk.iter().enumerate().all(|(at, byte)| *byte == (at / 512) as u8), "nothing was written");
}

#[test]
fn a_disk_that_may_only_be_read_says_so() {
    let mut machine = Machine::new(true);
    assert_eq!(machine.by_place(0x0301, 0x0002, 0x0080, 0x9000), (WRITE_PROTECTED, true));
    assert_eq!(machine.by_place(0x0201, 0x0002, 0x0080, 0x9000), GOOD);
}

#[test]
fn a_geometry_reaches_all_of_a_disk_that_the_numbers_can_reach() {
    for (sectors, cylinders, heads) in [
        (4096, 4, 16),
        (1, 1, 16),
        (1024 * 16 * 63, 1024, 16),
        (1024 * 16 * 63 + 1, 512, 32),
        (1 << 40, 1024, 255),
    ] {
        assert_eq!(disk::Geometry::new(sectors), disk::Geometry { cylinders, heads }, "{sectors}");
    }
}

#[test]
fn the_memory_map_is_told_entry_by_entry() {
    let mut machine = Machine::new(true);
    let mut call = Registers::default();
    let mut total = 0;
    for _ in 0..3 {
        (call.regs.rax, call.regs.rcx, call.regs.rdx, call.regs.rdi) = (0xe820, 20, 0x534d_4150, 0x5000);
        assert!(!machine.call(0x15, &mut call).1);
        total += machine.memory.read_obj::<u64>(GuestAddress(0x5008)).unwrap();
    }
    assert_eq!((call.regs.rax, call.regs.rbx), (0x534d_4150, 0));
    assert_eq!(total, 0xa_0000 + 0x1_0000);
    (call.regs.rax, call.regs.rbx) = (0xe820, 9);
    assert!(machine.call(0x15, &mut call).1);
}

#[test]
fn a_key_is_waited_for_until_there_can_be_none() {
    let mut machine = Machine::new(true);
    let mut call = Registers::default();
    call.segments.cs.base = STUBS + 0x16 * STUB_LEN;
    assert_eq!(machine.bios.serve(&mut call, &mut machine.input), Flow::Wait);
    machine.input.waiting.push_back(b'\n');
    assert_eq!(machine.bios.serve(&mut call, &mut machine.input), Flow::Go);
    assert_eq!(call.al(), b'\r');
    machine.input.ended = true;
    call.set_ah(0);
    assert_eq!(machine.bios.serve(&mut call, &mut machine.input), Flow::End(Outcome::Ended));
}

#[test]
fn no_registers_whatever_make_a_service_panic() {
    let mut machine = Machine::new(true);
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Small numbers, large ones, and those in between.
        (state >> 20).rotate_right((state >> 58) as u32) & u64::MAX >> (state >> 52 & 63)
    };
    for _ in 0..50_000 {
        let mut call = Registers::default();
        let regs = &mut call.regs;
        for register in
            [&mut regs.rax, &mut regs.rbx, &mut regs.rcx, &mut regs.rdx, &mut regs.rsi, &mut regs.rdi]
        {
            *register = random();
        }
        regs.rsp = random();
        let segments = &mut call.segments;
        for segment in [&mut segments.ds, &mut segments.es, &mut segments.ss] {
            segment.base = random();
        }
        // The disk, more often than chance has it.
        if random() & 1 == 0 {
            call.regs.rdx = call.regs.rdx & !0xff | 0x80;
        }
        let vector =
            [0x11, 0x12, 0x13, 0x15, 0x16, 0x19, 0x1a, 0x40, random() & 0xff][(random() % 9) as usize];
        // Printing would only fill the log of the test.
        if vector != 0x10 {
            call.segments.cs.base = STUBS + vector * STUB_LEN;
            machine.bios.serve(&mut call, &mut machine.input);
        }
    }
}
