//! What the processors reach: ports, device registers and firmware services.

use super::bios::{Bios, Registers};
use super::input::Input;
use super::memory::Memory;
use super::screen::Screen;
use super::virtio::{Block, Device, Mmio, Rng};
use crate::machine::Outcome;
use block::{Context, Error, Image, Result};
use std::sync::Arc;
use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Where the registers of virtio devices begin.
pub(super) const VIRTIO: u64 = 0xd000_0000;
/// Bytes from one virtio device to the next.
pub(super) const VIRTIO_SIZE: u64 = 0x1000;
/// The interrupt of the first virtio device; the next ones follow.
pub(super) const FIRST_IRQ: u8 = 5;
/// The most disks.
const MAX_DISKS: usize = 8;
/// The serial port's interrupt.
pub(super) const SERIAL_IRQ: u8 = 4;
/// Where a firmware stub says that it was called. No PC has a device there.
pub(super) const SERVICE_PORT: u16 = 0xe0;

/// The ports of the serial port.
pub(super) const SERIAL: std::ops::RangeInclusive<u16> = 0x3f8..=0x3ff;
/// Port A of the chip set: bit 0 restarts the machine, bit 1 is the gate of address line 20.
const PORT_A: u16 = 0x92;
const KEYBOARD_COMMAND: u16 = 0x64;
/// The keyboard controller's command that pulls the processor's reset line.
const PULSE_RESET: u8 = 0xfe;
/// The chip set's port that restarts the machine, by bit 2.
pub(super) const RESET_CONTROL: u16 = 0xcf9;
/// The port that switches the machine off, by bit 5; what it did can be read from the next.
pub(super) const SLEEP_CONTROL: u16 = 0x600;

/// What a processor does after an access.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Goes on.
    Go,
    /// Makes the same access again a little later.
    Wait,
    /// Stops, and the run ends.
    End(Outcome),
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Board {
    /// What the user typed.
    pub(super) input: Input,
    serial: Serial<Line, NoEvents, Screen>,
    virtio: Vec<Mmio>,
    /// The firmware, for guests that come by the boot sector; they alone are given what the user types by it.
    bios: Option<Bios>,
}

/// An interrupt line.
#[derive(Debug)]
pub(super) struct Line(EventFd);

impl Trigger for Line {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

impl Board {
    /// A board with these disks, a source of random numbers, a serial port and, unless a kernel does without, firmware.
    ///
    /// # Errors
    /// More disks than there may be, or a resource is missing.
    pub(super) fn new(
        memory: &Arc<Memory>,
        disks: &[Image],
        screen: &Screen,
        bios: Option<Bios>,
    ) -> Result<Self> {
        if disks.len() > MAX_DISKS {
            return Err(Error::invalid(format!("there is room for {MAX_DISKS} disks")));
        }
        let mut virtio = Vec::new();
        for (number, image) in disks.iter().enumerate() {
            let block: Box<dyn Device> = Box::new(Block::new(image.clone(), number)?);
            virtio.push(Mmio::new(block, Arc::clone(memory), event()?)?);
        }
        virtio.push(Mmio::new(Box::new(Rng::new()?), Arc::clone(memory), event()?)?);
        let serial = Serial::new(Line(event()?), screen.clone());
        Ok(Board { input: Input::default(), serial, virtio, bios })
    }

    /// The serial port's interrupt line.
    pub(super) fn serial_interrupt(&self) -> &EventFd {
        &self.serial.interrupt_evt().0
    }

    /// The interrupt lines of the virtio devices, in order.
    pub(super) fn virtio_interrupts(&self) -> impl Iterator<Item = &EventFd> {
        self.virtio.iter().map(Mmio::interrupt)
    }

    /// Takes a byte from the user.
    pub(super) fn receive(&mut self, byte: u8) {
        self.input.waiting.push_back(byte);
        self.feed_serial();
    }

    /// Gives the serial port what is waiting, as far as it has room.
    fn feed_serial(&mut self) {
        while let Some(byte) = self.input.waiting.front().filter(|_| self.bios.is_none()) {
            match self.serial.enqueue_raw_bytes(&[*byte]) {
                Ok(1) => drop(self.input.waiting.pop_front()),
                _ => return,
            }
        }
    }

    /// A write of `data` to a port.
    pub(super) fn write_port(&mut self, port: u16, data: &[u8]) -> Flow {
        let first = data.first().copied().unwrap_or_default();
        match port {
            port if SERIAL.contains(&port) => self.write_serial(port - SERIAL.start(), data),
            KEYBOARD_COMMAND if first == PULSE_RESET => Flow::End(Outcome::Ended),
            RESET_CONTROL if first & 4 != 0 => Flow::End(Outcome::Ended),
            SLEEP_CONTROL if first & 1 << 5 != 0 => Flow::End(Outcome::Ended),
            PORT_A if first & 1 != 0 => Flow::End(Outcome::Ended),
            _ => Flow::Go,
        }
    }

    fn write_serial(&mut self, register: u16, data: &[u8]) -> Flow {
        let register = register.to_le_bytes()[0];
        let written = data.iter().try_for_each(|byte| self.serial.write(register, *byte));
        match written {
            // A full buffer of input in loop-back mode is the guest's affair.
            Ok(()) | Err(vm_superio::serial::Error::FullFifo) => Flow::Go,
            Err(e) => Flow::End(Outcome::Crashed(format!("its console is gone: {e}"))),
        }
    }

    /// A read from a port.
    pub(super) fn read_port(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(first) = data.first_mut() else { return };
        match port {
            port if SERIAL.contains(&port) => {
                *first = self.serial.read((port - SERIAL.start()).to_le_bytes()[0]);
                self.feed_serial();
            }
            KEYBOARD_COMMAND => *first = 0,
            // Awake, and never woken up.
            port if port == SLEEP_CONTROL || port == SLEEP_CONTROL + 1 => *first = 0,
            PORT_A => *first = 2,
            _ => {}
        }
    }

    /// A write to an address without memory.
    pub(super) fn write_register(&mut self, address: u64, data: &[u8]) -> Flow {
        let Some((device, register)) = self.virtio_at(address) else { return Flow::Go };
        match device.write(register, data) {
            Ok(()) => Flow::Go,
            Err(e) => Flow::End(Outcome::Crashed(e.to_string())),
        }
    }

    /// A read from an address without memory.
    pub(super) fn read_register(&mut self, address: u64, data: &mut [u8]) {
        match self.virtio_at(address) {
            Some((device, register)) => device.read(register, data),
            None => data.fill(0xff),
        }
    }

    /// The virtio device at an address, and the register.
    fn virtio_at(&mut self, address: u64) -> Option<(&mut Mmio, u64)> {
        let offset = address.checked_sub(VIRTIO)?;
        let device = self.virtio.get_mut(usize::try_from(offset / VIRTIO_SIZE).ok()?)?;
        Some((device, offset % VIRTIO_SIZE))
    }

    /// A call of a firmware service.
    pub(super) fn serve(&mut self, registers: &mut Registers) -> Flow {
        match &mut self.bios {
            Some(bios) => bios.serve(registers, &mut self.input),
            None => Flow::Go,
        }
    }
}

fn event() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK).context(|| "Could not make an event")
}
