//! The machine on KVM: memory, processors and the board they share.
//!
//! Every port, register and firmware service of the machine is reached through one lock on the [`Board`]. Whoever holds
//! it alone touches the disks, so that ending a run is: take the lock, close the disks, keep it.

mod acpi;
mod bios;
mod board;
mod input;
mod linux;
mod memory;
mod screen;
mod vcpu;
mod virtio;

use crate::console::Console;
use crate::machine::{Machine, Outcome};
use bios::Bios;
use block::{Context, Error, Image, Result};
use board::{Board, FIRST_IRQ};
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use memory::Memory;
use screen::Screen;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vcpu::{Vcpu, kvm_error};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

/// Where KVM keeps three pages of its own in the guest's address space, above all memory and devices.
const TSS: usize = 0xfffb_d000;

/// Runs the machine to its end and closes its disks.
///
/// # Errors
/// It cannot be started, or a disk cannot be closed.
pub(crate) fn run(machine: &Machine, disks: Vec<Image>, console: Console) -> Result<Outcome> {
    let kvm = Kvm::new().map_err(|e| kvm_error("Could not open /dev/kvm", e))?;
    let memory = Arc::new(memory::allocate(machine.memory)?);
    let vm = create(&kvm, &memory)?;
    let (end, ended) = mpsc::channel();
    let screen = Screen::new(console, end.clone());
    let bios = machine.kernel.is_none().then(|| Bios::new(&memory, &disks, &screen));
    let board = Arc::new(Mutex::new(Board::new(&memory, &disks, &screen, bios)?));
    let vcpus = match &machine.kernel {
        Some(kernel) => {
            interrupts(&vm, &board)?;
            let start = linux::load(kernel, &memory)?;
            acpi::write(&memory, machine.cpus, disks.len() + 1).map_err(memory::error)?;
            linux::vcpus(&kvm, &vm, machine.cpus, &start)?
        }
        None if machine.cpus > 1 => {
            return Err(Error::invalid("a boot sector runs on one processor").with_hint("Leave --cpus out"));
        }
        None => {
            let first = disks.first().ok_or_else(|| Error::invalid("there is no disk to boot from"))?;
            bios::load(first, &memory, disks.len())?;
            vec![bios::vcpu(&vm)?]
        }
    };
    input::start(&board);
    for (id, fd) in vcpus.into_iter().enumerate() {
        spawn(Vcpu::new(fd, Arc::clone(&board)), id, end.clone())?;
    }
    let outcome = wait(&ended, machine.timeout);
    finish(&board, disks)?;
    Ok(outcome)
}

/// A virtual machine with this memory.
fn create(kvm: &Kvm, memory: &Memory) -> Result<VmFd> {
    let vm = kvm.create_vm().map_err(|e| kvm_error("Could not make a virtual machine", e))?;
    vm.set_tss_address(TSS).map_err(|e| kvm_error("Could not place KVM's own pages", e))?;
    for (slot, region) in (0..).zip(memory.iter()) {
        map(&vm, slot, region)?;
    }
    Ok(vm)
}

#[expect(unsafe_code, reason = "KVM is told where the guest's memory is")]
fn map(vm: &VmFd, slot: u32, region: &vm_memory::GuestRegionMmap) -> Result<()> {
    let slot = kvm_userspace_memory_region {
        slot,
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr().addr() as u64,
        flags: 0,
    };
    // SAFETY: the region is a private mapping of exactly `memory_size` bytes at `userspace_addr`, used by nothing but the
    // guest and accesses of `vm_memory`, which expect that the guest changes it. It outlives the virtual machine: the
    // board, which every processor's thread holds, has a reference to it and is never dropped while one runs.
    let done = unsafe { vm.set_user_memory_region(slot) };
    done.map_err(|e| kvm_error("Could not give the machine its memory", e))
}

/// Interrupt controllers and timer, and the lines from the devices to them.
fn interrupts(vm: &VmFd, board: &Mutex<Board>) -> Result<()> {
    vm.create_irq_chip().map_err(|e| kvm_error("Could not make interrupt controllers", e))?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(|e| kvm_error("Could not make a timer", e))?;
    let board = lock(board);
    let connect = |line: &EventFd, irq: u8| {
        vm.register_irqfd(line, irq.into()).map_err(|e| kvm_error("Could not connect an interrupt", e))
    };
    connect(board.serial_interrupt(), board::SERIAL_IRQ)?;
    board.virtio_interrupts().zip(FIRST_IRQ..).try_for_each(|(line, irq)| connect(line, irq))
}

fn spawn(vcpu: Vcpu, id: usize, end: Sender<Outcome>) -> Result<()> {
    let thread = std::thread::Builder::new().name(format!("vcpu{id}"));
    // The receiver is gone when another processor or the time ended the run.
    let run = move || drop(end.send(vcpu.run()));
    thread.spawn(run).map(drop).context(|| "Could not start a thread")
}

/// How the run ended: what the first to end says, or that the time is over.
fn wait(ended: &Receiver<Outcome>, timeout: Option<Duration>) -> Outcome {
    let gone = || Outcome::Crashed("its processors are gone".to_owned());
    match timeout {
        Some(timeout) => ended.recv_timeout(timeout).unwrap_or_else(|e| match e {
            mpsc::RecvTimeoutError::Timeout => Outcome::Silent,
            mpsc::RecvTimeoutError::Disconnected => gone(),
        }),
        None => ended.recv().unwrap_or_else(|_| gone()),
    }
}

/// Closes the disks. The lock is never given back: processors that still run stop at their next access.
fn finish(board: &Mutex<Board>, disks: Vec<Image>) -> Result<()> {
    std::mem::forget(lock(board));
    disks.into_iter().map(Image::close).fold(Ok(()), Result::and)
}

/// The board, whatever became of others who held it.
fn lock(board: &Mutex<Board>) -> std::sync::MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}
