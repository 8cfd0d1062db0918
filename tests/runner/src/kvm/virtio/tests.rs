//! Disks behind their registers, driven as a driver does, and as none should.

use super::*;
use crate::kvm::memory::{Memory, allocate};
use crate::machine::Disk;
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const MEMORY: u64 = 4 << 20;
const DISK: usize = 1 << 20;
/// Where the parts of the queue, the header, the data and the status are.
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x3000;
const USED: u64 = 0x4000;
const HEADER: u64 = 0x6000;
const STATUS: u64 = 0x6100;
const DATA: u64 = 0x10_0000;

const NEXT: u16 = 1;
const WRITABLE: u16 = 2;
const INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, next.
type Descriptor = (u64, u32, u16, u16);

struct Machine {
    device: Mmio,
    memory: Arc<Memory>,
    given: u16,
    dir: TempDir,
}

impl Machine {
    fn new(read_only: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = Disk::numbered(dir.path(), DISK, read_only);
        let memory = Arc::new(allocate(MEMORY).unwrap());
        let device = Box::new(Block::new(image, 0).unwrap());
        let device = Mmio::new(device, Arc::clone(&memory), EventFd::new(0).unwrap()).unwrap();
        let mut machine = Machine { device, memory, given: 0, dir };
        machine.start();
        machine
    }

    fn set(&mut self, register: u32, value: u32) -> Result<()> {
        self.device.write(register.into(), &value.to_le_bytes())
    }

    fn get(&self, register: u32) -> u32 {
        let mut bytes = [0; 4];
        self.device.read(register.into(), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn start(&mut self) {
        for (register, value) in [
            (VIRTIO_MMIO_STATUS, 0),
            (VIRTIO_MMIO_STATUS, 3),
            (VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1),
            (VIRTIO_MMIO_DRIVER_FEATURES, 1),
            (VIRTIO_MMIO_STATUS, 11),
            (VIRTIO_MMIO_QUEUE_NUM, 16),
            (VIRTIO_MMIO_QUEUE_DESC_LOW, TABLE as u32),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE as u32),
            (VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32),
            (VIRTIO_MMIO_QUEUE_READY, 1),
            (VIRTIO_MMIO_STATUS, 15),
        ] {
            self.set(register, value).unwrap();
        }
        assert_eq!(self.get(VIRTIO_MMIO_STATUS), 15);
    }

    fn put(&self, index: u64, (address, len, flags, next): Descriptor) {
        let at = |offset| GuestAddress(TABLE + index * 16 + offset);
        self.memory.write_obj(address, at(0)).unwrap();
        self.memory.write_obj(len, at(8)).unwrap();
        self.memory.write_obj(flags, at(12)).unwrap();
        self.memory.write_obj(next, at(14)).unwrap();
    }

    /// Gives the device what is at descriptor `head`.
    fn give(&mut self, head: u16) -> Result<()> {
        let slot = GuestAddress(AVAILABLE + 4 + u64::from(self.given % 16) * 2);
        self.memory.write_obj(head, slot).unwrap();
        self.given = self.given.wrapping_add(1);
        self.memory.write_obj(self.given, GuestAddress(AVAILABLE + 2)).unwrap();
        self.set(VIRTIO_MMIO_QUEUE_NOTIFY, 0)
    }

    /// A chain of exactly these.
    fn chain(&mut self, descriptors: &[Descriptor]) -> Result<()> {
        (0..).zip(descriptors).for_each(|(index, descriptor)| self.put(index, *descriptor));
        self.give(0)
    }

    /// A request as drivers make it; gives its status and the length used.
    fn request(&mut self, kind: u32, sector: u64, data: (u64, u32, u16)) -> (u32, u32) {
        self.memory.write_obj(u64::from(kind), GuestAddress(HEADER)).unwrap();
        self.memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        self.memory.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
        let (address, len, flags) = data;
        let header = (HEADER, 16, NEXT, 1);
        let status = (STATUS, 1, WRITABLE, 0);
        match len {
            0 => self.chain(&[header, status]).unwrap(),
            _ => self.chain(&[header, (address, len, flags | NEXT, 2), status]).unwrap(),
        }
        let used = GuestAddress(USED + 4 + u64::from(self.given.wrapping_sub(1) % 16) * 8 + 4);
        let status: u8 = self.memory.read_obj(GuestAddress(STATUS)).unwrap();
        (status.into(), self.memory.read_obj(used).unwrap())
    }

    fn disk(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("disk")).unwrap()
    }
}

const NOTHING: (u64, u32, u16) = (0, 0, 0);
const READABLE: u16 = 0;

#[test]
fn every_kind_of_request_does_what_it_says() {
    let mut machine = Machine::new(false);
    assert_eq!(machine.get(VIRTIO_MMIO_CONFIG), (DISK / 512) as u32);
    assert_eq!(machine.request(VIRTIO_BLK_T_IN, 100, (DATA, 1024, WRITABLE)), (VIRTIO_BLK_S_OK, 1025));
    assert_eq!(machine.memory.read_obj::<u16>(GuestAddress(DATA + 511)).unwrap(), 101 << 8 | 100);
    assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 200, (DATA, 1024, READABLE)), (VIRTIO_BLK_S_OK, 1));
    assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, NOTHING), (VIRTIO_BLK_S_OK, 1));
    assert_eq!(machine.disk()[200 * 512..202 * 512], machine.disk()[100 * 512..102 * 512]);
    let len = VIRTIO_BLK_ID_BYTES;
    assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, (DATA, len, WRITABLE)), (VIRTIO_BLK_S_OK, len + 1));
    assert_eq!(&machine.memory.read_obj::<[u8; 10]>(GuestAddress(DATA)).unwrap(), b"virtio-blk");
    for (kind, sector) in [(VIRTIO_BLK_T_WRITE_ZEROES, 8_u64), (VIRTIO_BLK_T_DISCARD, 16)] {
        machine.memory.write_obj(sector, GuestAddress(DATA)).unwrap();
        machine.memory.write_obj(8_u64, GuestAddress(DATA + 8)).unwrap();
        assert_eq!(machine.request(kind, 0, (DATA, 16, READABLE)), (VIRTIO_BLK_S_OK, 1));
    }
    let disk = machine.disk();
    assert!(
        disk[8 * 512..16 * 512].iter().all(|byte| *byte == 0) && disk[7 * 512] == 7 && disk[24 * 512] == 24
    );
    assert_eq!(machine.get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
    machine.set(VIRTIO_MMIO_INTERRUPT_ACK, 1).unwrap();
    assert_eq!(machine.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn what_a_request_asks_wrongly_is_its_status() {
    let mut machine = Machine::new(false);
    let end = (DISK / 512) as u64;
    for (kind, sector, len, flags, status) in [
        (VIRTIO_BLK_T_IN, end, 512, WRITABLE, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_IN, end - 1, 1024, WRITABLE, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_IN, u64::MAX, 512, WRITABLE, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_IN, u64::MAX / 512, 512, WRITABLE, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_IN, 0, 513, WRITABLE, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_OUT, end, 512, READABLE, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_OUT, 0, 100, READABLE, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_DISCARD, 0, 32, READABLE, VIRTIO_BLK_S_UNSUPP),
        (VIRTIO_BLK_T_DISCARD, 0, 15, READABLE, VIRTIO_BLK_S_UNSUPP),
        (VIRTIO_BLK_T_SECURE_ERASE, 0, 16, READABLE, VIRTIO_BLK_S_UNSUPP),
        (77, 0, 512, READABLE, VIRTIO_BLK_S_UNSUPP),
    ] {
        let answer = machine.request(kind, sector, (DATA, len, flags)).0;
        assert_eq!(answer, status, "{kind} {sector} {len}");
    }
    // Ranges that end nowhere, are too long, or have flags nobody knows.
    for (sector, rest, status) in [
        (u64::MAX, 1, VIRTIO_BLK_S_IOERR),
        (end, 1, VIRTIO_BLK_S_IOERR),
        (0, 0xffff_ffff, VIRTIO_BLK_S_IOERR),
        (0, 8 | 2 << 32, VIRTIO_BLK_S_UNSUPP),
    ] {
        machine.memory.write_obj::<u64>(sector, GuestAddress(DATA)).unwrap();
        machine.memory.write_obj::<u64>(rest, GuestAddress(DATA + 8)).unwrap();
        for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
            assert_eq!(machine.request(kind, 0, (DATA, 16, READABLE)).0, status, "{kind} {sector} {rest}");
        }
    }
    assert!(machine.disk().iter().enumerate().all(|(at, byte)| *byte == (at / 512) as u8));
}

#[test]
fn a_disk_that_may_only_be_read_refuses_everything_else() {
    let mut machine = Machine::new(true);
    machine.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0).unwrap();
    let offered = machine.get(VIRTIO_MMIO_DEVICE_FEATURES);
    assert_eq!(offered >> VIRTIO_BLK_F_RO & 1, 1);
    assert_eq!(offered >> VIRTIO_BLK_F_DISCARD & 3, 0);
    machine.memory.write_obj(8_u64 << 32, GuestAddress(DATA + 4)).unwrap();
    for kind in [VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let len = if kind == VIRTIO_BLK_T_OUT { 512 } else { 16 };
        assert_eq!(machine.request(kind, 0, (DATA, len, READABLE)).0, VIRTIO_BLK_S_IOERR, "{kind}");
    }
}

/// What a guest is told that gave the device `descriptors`.
fn refusal(descriptors: &[Descriptor]) -> String {
    let mut machine = Machine::new(false);
    machine.chain(descriptors).unwrap_err().to_string()
}

#[test]
fn buffers_that_no_driver_makes_end_the_run() {
    let header = (HEADER, 16, NEXT, 1);
    let status = (STATUS, 1, WRITABLE, 0);
    for (descriptors, why) in [
        // Loops: of one, of three, and through a table of its own.
        (vec![(HEADER, 16, NEXT, 0)], "the buffers of a request loop or are too long"),
        (
            vec![header, (DATA, 512, NEXT, 2), (DATA, 512, NEXT | WRITABLE, 0)],
            "the buffers of a request loop or are too long",
        ),
        (vec![header, (TABLE, 16 * 16, INDIRECT, 0)], "the buffers of a request loop or are too long"),
        (vec![(TABLE, 15, INDIRECT, 0)], "a request has no buffers"),
        (vec![(MEMORY, 16, INDIRECT, 0)], "a request has no buffers"),
        // Where there is no memory.
        (vec![header, (MEMORY, 512, NEXT | WRITABLE, 2), status], "a buffer is not inside the memory"),
        (vec![header, (u64::MAX - 1, 512, NEXT, 2), status], "a buffer is not inside the memory"),
        (vec![header, (DATA, u32::MAX - 17, NEXT, 2), status], "a buffer is not inside the memory"),
        (vec![header, (DATA, u32::MAX, NEXT, 2), status], "the buffers of a request loop or are too long"),
        (vec![(HEADER, 16, NEXT, 77)], "the buffers of a request loop or are too long"),
        (vec![(MEMORY - 8, 16, NEXT, 1), status], "a buffer is not inside the memory"),
        // Parts that are missing.
        (vec![(HEADER, 16, 0, 0)], "a request has no room for its status"),
        (vec![(HEADER, 15, NEXT, 1), status], "a request has no header"),
        (vec![status], "a request has no header"),
    ] {
        assert_eq!(refusal(&descriptors), format!("virtio-blk 0: {why}"), "{descriptors:?}");
    }
}

#[test]
fn rings_that_no_driver_makes_end_the_run() {
    let outside = |register| {
        let mut machine = Machine::new(false);
        machine.set(VIRTIO_MMIO_QUEUE_READY, 0).unwrap();
        machine.set(register, 0x7fff_fff0).unwrap();
        machine.set(VIRTIO_MMIO_QUEUE_READY, 1).unwrap();
        machine.give(0).unwrap_err().to_string()
    };
    for register in [VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_USED_HIGH] {
        assert_eq!(outside(register), "virtio-blk 0: its queue is not inside the memory", "{register:x}");
    }
    // A head, and a number of heads, that the queue does not have.
    let mut machine = Machine::new(false);
    assert_eq!(machine.give(16).unwrap_err().to_string(), "virtio-blk 0: a request has no buffers");
    let mut machine = Machine::new(false);
    machine.memory.write_obj(300_u16, GuestAddress(AVAILABLE + 2)).unwrap();
    let e = machine.set(VIRTIO_MMIO_QUEUE_NOTIFY, 0).unwrap_err().to_string();
    assert!(e.starts_with("virtio-blk 0: invalid available ring index"), "{e}");
}

#[test]
fn a_driver_that_does_not_know_version_1_gets_no_further() {
    let mut machine = Machine::new(false);
    for (half, features, status) in [(1, 0, 3), (1, 3, 3), (1, 1, 11)] {
        machine.set(VIRTIO_MMIO_STATUS, 0).unwrap();
        machine.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half).unwrap();
        machine.set(VIRTIO_MMIO_DRIVER_FEATURES, features).unwrap();
        machine.set(VIRTIO_MMIO_STATUS, 11).unwrap();
        assert_eq!(machine.get(VIRTIO_MMIO_STATUS), status, "{features:x}");
    }
}

#[test]
fn no_registers_and_no_rings_whatever_make_the_device_panic() {
    let mut machine = Machine::new(true);
    let mut state = 3_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let registers = [
        VIRTIO_MMIO_QUEUE_NUM,
        VIRTIO_MMIO_QUEUE_READY,
        VIRTIO_MMIO_QUEUE_DESC_LOW,
        VIRTIO_MMIO_QUEUE_AVAIL_LOW,
        VIRTIO_MMIO_QUEUE_USED_LOW,
        VIRTIO_MMIO_QUEUE_USED_HIGH,
        VIRTIO_MMIO_STATUS,
        VIRTIO_MMIO_QUEUE_SEL,
    ];
    for round in 0..20_000 {
        if round % 8 == 0 {
            machine.start();
            machine.given = 0;
            machine.memory.write_obj(0_u16, GuestAddress(AVAILABLE + 2)).unwrap();
        }
        let descriptor =
            (random() << 12 & 0x7f_ffff, random() as u32 & 0xffff, random() as u16 & 7, random() as u16 & 15);
        machine.put(random() & 15, descriptor);
        if random() & 7 == 0 {
            let register = registers[(random() & 7) as usize];
            let _ = machine.set(register, random() as u32 & 0xffff);
        }
        let _ = machine.give(random() as u16 & 15);
        let mut bytes = vec![0; (random() & 15) as usize];
        machine.device.read(random() & 0xfff, &mut bytes);
    }
}
