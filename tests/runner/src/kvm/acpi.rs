//! What a kernel is told of the machine (Advanced Configuration and Power Interface, version 6.5): processors, interrupt
//! controller, serial port and virtio devices, and the ports by which it restarts and switches off.
//!
//! The machine has none of the registers of older ones ("hardware-reduced ACPI", section 4.1).

use super::board::{FIRST_IRQ, RESET_CONTROL, SERIAL, SERIAL_IRQ, SLEEP_CONTROL, VIRTIO, VIRTIO_SIZE};
use super::memory::{FIRMWARE, Memory};
use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// Where a kernel finds the first table.
pub(super) const ROOT: u64 = FIRMWARE;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
const OEM: [u8; 6] = *b"BLKIMG";
const TABLE: [u8; 8] = *b"RUNNER  ";
/// What a PC may have and this one has not: screen, clock with battery (`IAPC_BOOT_ARCH`).
const WITHOUT: u16 = 1 << 2 | 1 << 5;
/// What makes the chip set restart the machine.
const RESET: u8 = 6;
/// The sleep state of a machine that is off, in `\_S5`.
const OFF: u8 = 5;

/// Writes the tables for so many processors and virtio devices.
///
/// # Errors
/// The memory ends before them.
pub(super) fn write(memory: &Memory, cpus: u8, devices: usize) -> Result<(), GuestMemoryError> {
    let mut at = ROOT + 64;
    let mut place = |table: &dyn Aml| {
        let here = at;
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        at += (bytes.len() as u64).next_multiple_of(16);
        memory.write_slice(&bytes, GuestAddress(here)).map(|()| here)
    };
    let description = place(&description(devices))?;
    let mut root = XSDT::new(OEM, TABLE, 1);
    root.add_entry(place(&fixed(description))?);
    root.add_entry(place(&interrupts(cpus))?);
    let root = place(&root)?;
    let mut pointer = Vec::new();
    Rsdp::new(OEM, root).to_aml_bytes(&mut pointer);
    memory.write_slice(&pointer, GuestAddress(ROOT))
}

/// The fixed description.
fn fixed(description: u64) -> impl Aml {
    let port = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut table = FADTBuilder::new(OEM, TABLE, 1).dsdt_64(description);
    for flag in [Flags::HwReducedAcpi, Flags::PwrButton, Flags::SlpButton, Flags::ResetRegSup] {
        table = table.flag(flag);
    }
    table.iapc_boot_arch = WITHOUT.into();
    (table.reset_reg, table.reset_value) = (port(RESET_CONTROL), RESET);
    (table.sleep_control_reg, table.sleep_status_reg) = (port(SLEEP_CONTROL), port(SLEEP_CONTROL + 1));
    table.finalize()
}

/// Processors, and the controller of the devices' interrupts.
fn interrupts(cpus: u8) -> impl Aml {
    let mut table = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(LOCAL_APIC));
    (0..cpus).for_each(|id| table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled)));
    table.add_structure(IoApic::new(0, IO_APIC, 0));
    table
}

/// The devices.
fn description(devices: usize) -> Sdt {
    let mut bytes = Vec::new();
    Name::new("_S5_".into(), &Package::new(vec![&OFF])).to_aml_bytes(&mut bytes);
    let ports = IO::new(*SERIAL.start(), *SERIAL.start(), 1, 8);
    device("COM1", &EISAName::new("PNP0501"), 0, &ports, SERIAL_IRQ.into(), &mut bytes);
    for number in 0..devices as u32 {
        let registers =
            Memory32Fixed::new(true, VIRTIO as u32 + number * VIRTIO_SIZE as u32, VIRTIO_SIZE as u32);
        device(
            &format!("VR{number:02}"),
            &"LNRO0005",
            number,
            &registers,
            u32::from(FIRST_IRQ) + number,
            &mut bytes,
        );
    }
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    table.append_slice(&bytes);
    table
}

/// A device with registers and an interrupt.
fn device(name: &str, kind: &dyn Aml, number: u32, registers: &dyn Aml, irq: u32, bytes: &mut Vec<u8>) {
    let interrupt = Interrupt::new(true, true, false, false, irq);
    let resources = ResourceTemplate::new(vec![registers, &interrupt]);
    let kind = Name::new("_HID".into(), kind);
    let number = Name::new("_UID".into(), &number);
    let resources = Name::new("_CRS".into(), &resources);
    let device = Device::new(name.into(), vec![&kind, &number, &resources]);
    Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table at an address, which must be as long as it says and sum to zero.
    fn table(memory: &Memory, at: u64) -> Vec<u8> {
        let len: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        let mut bytes = vec![0; len as usize];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        assert_eq!(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{:?}", &bytes[..4]);
        bytes
    }

    #[test]
    fn every_table_is_found_from_the_first_and_sums_to_zero() {
        let memory = crate::kvm::memory::allocate(1 << 20).unwrap();
        write(&memory, 4, 9).unwrap();
        assert_eq!(&memory.read_obj::<[u8; 8]>(GuestAddress(ROOT)).unwrap(), b"RSD PTR ");
        let root = table(&memory, memory.read_obj(GuestAddress(ROOT + 24)).unwrap());
        let address = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let [fixed, interrupts] = [36, 44].map(|at| table(&memory, address(&root[at..at + 8])));
        assert_eq!((&fixed[..4], &interrupts[..4]), (&b"FACP"[..], &b"APIC"[..]));
        // Four processors of 8 bytes and a controller of 12 after 44.
        assert_eq!(interrupts.len(), 44 + 4 * 8 + 12);
        let description = table(&memory, address(&fixed[140..148]));
        let devices = description.windows(8).filter(|window| *window == b"LNRO0005").count();
        assert_eq!((&description[..4], devices), (&b"DSDT"[..], 9));
    }
}
