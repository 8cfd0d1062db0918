//! What processors and interrupts there are (MultiProcessor Specification, version 1.4), for a kernel without ACPI.

use super::memory::{FIRMWARE, Memory};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
const APIC_VERSION: u8 = 0x14;
/// Interrupt lines of a PC's first bus.
const LINES: u8 = 16;
/// Destination of what goes to every processor.
const ALL: u8 = 0xff;
/// Bytes of the header of the table.
const HEADER: u16 = 44;

/// Writes the table for so many processors, and what points at it where kernels look.
///
/// # Errors
/// The memory ends before it.
pub(super) fn write(memory: &Memory, cpus: u8) -> Result<(), GuestMemoryError> {
    let pointer_len = 16;
    let table_at = FIRMWARE as u32 + pointer_len;
    let mut pointer = Vec::from(*b"_MP_");
    pointer.extend(table_at.to_le_bytes());
    // Its length in 16 bytes, the version, the checksum, and that there is a table.
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut pointer, 10);
    memory.write_slice(&pointer, GuestAddress(FIRMWARE))?;
    memory.write_slice(&table(cpus), GuestAddress(table_at.into()))
}

fn table(cpus: u8) -> Vec<u8> {
    let entries = entries(cpus);
    let len = HEADER + entries.iter().map(|entry| entry.len() as u16).sum::<u16>();
    let mut table = Vec::from(*b"PCMP");
    table.extend(len.to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"BLOCKIMGKVM-RUNNER  ");
    table.extend([0; 6]);
    table.extend((entries.len() as u16).to_le_bytes());
    table.extend(LOCAL_APIC.to_le_bytes());
    table.extend([0; 4]);
    entries.iter().for_each(|entry| table.extend(entry));
    set_checksum(&mut table, 7);
    table
}

/// Processors, the bus, the I/O APIC, its lines one to one, and the two local ones.
fn entries(cpus: u8) -> Vec<Vec<u8>> {
    let io_apic = cpus;
    let mut entries: Vec<Vec<u8>> = (0..cpus).map(processor).collect();
    entries.push([&[1, 0][..], b"ISA   "].concat());
    entries.push([&[2, io_apic, APIC_VERSION, 1][..], &IO_APIC.to_le_bytes()].concat());
    // Type, how it arrives, polarity and trigger of the bus, its line, the destination and its line.
    entries.extend((0..LINES).map(|line| vec![3, 0, 0, 0, 0, line, io_apic, line]));
    entries.push(vec![4, 3, 0, 0, 0, 0, 0, 0]);
    entries.push(vec![4, 1, 0, 0, 0, 0, ALL, 1]);
    entries
}

fn processor(id: u8) -> Vec<u8> {
    const ENABLED: u8 = 1;
    const FIRST: u8 = 2;
    let flags = if id == 0 { ENABLED | FIRST } else { ENABLED };
    // A processor of family 6 with an APIC and a floating-point unit.
    let signature: [u32; 4] = [0x600, 0x201, 0, 0];
    [&[0, id, APIC_VERSION, flags][..], &signature.map(u32::to_le_bytes).concat()].concat()
}

/// Makes the sum of all bytes zero.
fn set_checksum(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_and_table_are_as_long_as_they_say_and_sum_to_zero() {
        let memory = crate::kvm::memory::allocate(1 << 20).unwrap();
        write(&memory, 4).unwrap();
        let sum = |at, len: usize| {
            let mut bytes = vec![0; len];
            memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
        };
        assert_eq!(sum(FIRMWARE, 16), 0);
        // Four processors of 20 bytes; a bus, an APIC and 18 interrupts of 8.
        let len: u16 = memory.read_obj(GuestAddress(FIRMWARE + 16 + 4)).unwrap();
        assert_eq!(len, HEADER + 4 * 20 + 20 * 8);
        assert_eq!(sum(FIRMWARE + 16, len.into()), 0);
    }
}
