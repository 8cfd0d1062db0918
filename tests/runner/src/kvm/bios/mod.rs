//! The firmware: what a boot sector of a PC finds, and the services it calls by software interrupts.
//!
//! Each of the 256 interrupt vectors points at a stub of four bytes, `out SERVICE_PORT, al; iret`. The `out` takes the
//! processor here; which stub it was is told by its address. A service works on the caller's registers, and its success is
//! the carry flag that `iret` takes from the stack. All of that is real mode; a guest that leaves it has virtio.
//!
//! Addresses and counts come from the guest: every access to its memory goes through `vm_memory` and may be refused.

mod disk;
mod system;
#[cfg(test)]
mod tests;

use super::board::{Flow, SERVICE_PORT};
use super::input::Input;
use super::memory::{self, FIRMWARE, LOW_END, Memory};
use super::screen::Screen;
use super::vcpu::kvm_error;
use crate::machine::Outcome;
use block::{Context, Error, Image, Result};
use disk::Disks;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{VcpuFd, VmFd};
use std::io::Write;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// Where a boot sector is put and started.
const BOOT: u64 = 0x7c00;
/// Where the stubs are.
const STUBS: u64 = FIRMWARE + 0x1000;
const STUB_LEN: u64 = 4;
/// The number of the first hard disk.
const FIRST_DISK: u8 = 0x80;
/// The firmware's data area: address of COM1, kilobytes of low memory (the number of disks is added).
const DATA: [(u64, u16); 2] = [(0x400, 0x3f8), (0x413, LOW_KIB)];
/// Memory below 1 MiB that guests may use.
const LOW_KIB: u16 = (LOW_END >> 10) as u16;
/// The carry flag.
const CARRY: u16 = 1;
/// The zero flag.
const ZERO: u16 = 1 << 6;

/// Puts firmware and boot sector into the memory.
///
/// # Errors
/// The disk does not boot, or cannot be read.
pub(super) fn load(disk: &Image, memory: &Memory, disks: usize) -> Result<()> {
    let mut sector = [0; 512];
    disk.read(0, &mut sector).context(|| "Could not read the boot sector")?;
    if !sector.ends_with(&[0x55, 0xaa]) {
        let text = "the first disk has no boot sector: the signature 55 aa is missing";
        return Err(Error::invalid(text).with_hint("A kernel is started with --kernel"));
    }
    install(memory, disks)
        .and_then(|()| memory.write_slice(&sector, GuestAddress(BOOT)))
        .map_err(memory::error)
}

/// Puts the vectors, the stubs and the data area into the memory.
fn install(memory: &Memory, disks: usize) -> Result<(), GuestMemoryError> {
    let port = SERVICE_PORT.to_le_bytes()[0];
    for vector in 0..256 {
        let stub = STUBS + vector * STUB_LEN;
        memory.write_slice(&[0xe6, port, 0xcf, 0x90], GuestAddress(stub))?;
        let (segment, offset) = (FIRMWARE >> 4, stub - FIRMWARE);
        memory.write_obj(u32::try_from(segment << 16 | offset).unwrap_or(0), GuestAddress(vector * 4))?;
    }
    for (address, value) in DATA {
        memory.write_obj(value, GuestAddress(address))?;
    }
    memory.write_obj(u8::try_from(disks).unwrap_or(u8::MAX), GuestAddress(0x475))
}

/// A processor in real mode at the boot sector.
///
/// # Errors
/// KVM's.
pub(super) fn vcpu(vm: &VmFd) -> Result<VcpuFd> {
    let fd = vm.create_vcpu(0).map_err(|e| kvm_error("Could not make a processor", e))?;
    let mut segments = fd.get_sregs().map_err(|e| kvm_error("Could not read its registers", e))?;
    let flat = |segment: kvm_segment| kvm_segment { base: 0, selector: 0, ..segment };
    segments.cs = flat(segments.cs);
    segments.ss = flat(segments.ss);
    let regs = kvm_regs { rip: BOOT, rsp: BOOT, rdx: FIRST_DISK.into(), rflags: 2, ..Default::default() };
    fd.set_sregs(&segments)
        .and_then(|()| fd.set_regs(&regs))
        .map_err(|e| kvm_error("Could not set its registers", e))?;
    Ok(fd)
}

/// The registers of a caller.
#[derive(Debug, Clone, Default)]
pub(super) struct Registers {
    /// General registers.
    pub(super) regs: kvm_regs,
    /// Segments.
    pub(super) segments: kvm_sregs,
}

impl Registers {
    /// Which service is called; `None` when not by a stub in real mode.
    fn vector(&self) -> Option<u8> {
        // Whether the processor stands at the `out` or after it depends on how KVM works here.
        let at = address(&self.segments.cs, self.regs.rip).0;
        let vector = at.checked_sub(STUBS)? / STUB_LEN;
        if self.segments.cr0 & 1 == 0 { vector.try_into().ok() } else { None }
    }

    fn ah(&self) -> u8 {
        self.regs.rax.to_le_bytes()[1]
    }

    fn al(&self) -> u8 {
        self.regs.rax.to_le_bytes()[0]
    }

    fn set_ah(&mut self, value: u8) {
        self.regs.rax = self.regs.rax & !0xff00 | u64::from(value) << 8;
    }

    fn set_al(&mut self, value: u8) {
        self.regs.rax = self.regs.rax & !0xff | u64::from(value);
    }

    /// Where the caller's flags are on the stack, above its address.
    fn flags(&self) -> GuestAddress {
        address(&self.segments.ss, self.regs.rsp.wrapping_add(4) & 0xffff)
    }
}

/// Where an offset in a segment is.
fn address(segment: &kvm_segment, offset: u64) -> GuestAddress {
    GuestAddress(segment.base.wrapping_add(offset))
}

/// The low 16 bits of a register.
fn word(register: u64) -> u16 {
    let [low, high, ..] = register.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Sets the low 16 bits of a register.
fn set_word(register: &mut u64, value: u16) {
    *register = *register & !0xffff | u64::from(value);
}

/// What a service says by the caller's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// Nothing.
    Quietly,
    /// That it succeeded or failed: the carry flag.
    Carry(bool),
    /// That there is nothing: the zero flag.
    Zero(bool),
    /// Nothing yet: it is to be called again.
    Later,
    /// That it does not return.
    Never,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Bios {
    memory: Arc<Memory>,
    disks: Disks,
    screen: Screen,
}

impl Bios {
    /// The firmware of a machine with these disks.
    pub(super) fn new(memory: &Arc<Memory>, disks: &[Image], screen: &Screen) -> Self {
        let disks = Disks::new(disks.to_vec(), Arc::clone(memory));
        Bios { memory: Arc::clone(memory), disks, screen: screen.clone() }
    }

    /// Serves a call.
    pub(super) fn serve(&mut self, call: &mut Registers, input: &mut Input) -> Flow {
        let crash = |why: String| Flow::End(Outcome::Crashed(why));
        let done = match call.vector() {
            None => return Flow::Go,
            Some(vector @ (0 | 5..=0x0f)) => return crash(format!("exception {vector}")),
            Some(0x10) => self.print(call),
            Some(0x13) => Ok(self.disks.serve(call)),
            Some(0x16) => Ok(system::keyboard(call, input)),
            Some(0x18) => return crash("the boot sector gave up (INT 18h)".to_owned()),
            Some(vector) => Ok(system::serve(vector, call, &self.memory)),
        };
        match done.and_then(|done| self.leave(call, done)) {
            Ok(flow) => flow,
            Err(e) => crash(e.to_string()),
        }
    }

    /// INT 10h: prints, and describes a text screen to who asks.
    fn print(&mut self, call: &mut Registers) -> Result<Done> {
        match call.ah() {
            0x0e => self.screen.write_all(&[call.al()])?,
            // At the cursor, which stays; who draws lines so moves it itself. At most a screen full.
            0x09 | 0x0a => {
                let count = usize::from(word(call.regs.rcx)).min(80 * 25);
                self.screen.write_all(&vec![call.al(); count])?;
            }
            // The cursor: two lines high, nobody knows where.
            0x03 => {
                set_word(&mut call.regs.rcx, 0x0607);
                set_word(&mut call.regs.rdx, 0);
            }
            // Mode 3: 80 columns, page 0.
            0x0f => {
                set_word(&mut call.regs.rax, 0x5003);
                call.regs.rbx &= !0xff00;
            }
            _ => {}
        }
        Ok(Done::Quietly)
    }

    /// Returns to the caller with what `done` says.
    fn leave(&self, call: &Registers, done: Done) -> Result<Flow> {
        let (flag, on) = match done {
            Done::Quietly => return Ok(Flow::Go),
            Done::Later => return Ok(Flow::Wait),
            Done::Never => return Ok(Flow::End(Outcome::Ended)),
            Done::Carry(on) => (CARRY, on),
            Done::Zero(on) => (ZERO, on),
        };
        let outside = |_| Error::invalid("its stack is not inside the memory");
        let flags: u16 = self.memory.read_obj(call.flags()).map_err(outside)?;
        let flags = if on { flags | flag } else { flags & !flag };
        self.memory.write_obj(flags, call.flags()).map_err(outside)?;
        Ok(Flow::Go)
    }
}
