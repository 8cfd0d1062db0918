//! The guest's memory: where things are in it, and the map of it that guests are told.
//!
//! Memory is one piece from address 0. All accesses go through `vm_memory`, which refuses what is outside.

use block::{Error, Kind, Result};
use vm_memory::{GuestAddress, GuestMemoryError, GuestMemoryMmap};

/// The guest's memory.
pub(super) type Memory = GuestMemoryMmap<()>;

/// End of the memory below 1 MiB that the guest may use; the firmware's extended data area follows.
pub(super) const LOW_END: u64 = 0x9_fc00;
/// Where the firmware's tables and code are, up to 1 MiB.
pub(super) const FIRMWARE: u64 = 0xf_0000;
/// Where memory goes on above the firmware.
pub(super) const HIGH: u64 = 0x10_0000;

/// An entry of the memory map (ACPI, "INT 15H, E820H").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// First address.
    pub(super) start: u64,
    /// Bytes.
    pub(super) len: u64,
    /// 1: memory; 2: reserved.
    pub(super) kind: u32,
}

/// The map of a machine with `memory` bytes.
pub(super) fn map(memory: u64) -> impl Iterator<Item = Range> {
    let usable = |start, end| Range { start, len: end - start, kind: 1 };
    let reserved = |start, end| Range { kind: 2, ..usable(start, end) };
    let ranges = [
        usable(0, LOW_END),
        reserved(LOW_END, 0xa_0000),
        reserved(FIRMWARE, HIGH),
        usable(HIGH, memory.max(HIGH)),
    ];
    ranges.into_iter().filter(|range| range.len > 0)
}

/// Memory of `bytes` bytes.
///
/// # Errors
/// There is not so much.
pub(super) fn allocate(bytes: u64) -> Result<Memory> {
    let len = usize::try_from(bytes).map_err(|_| Error::invalid("too much memory"))?;
    Memory::from_ranges(&[(GuestAddress(0), len)])
        .map_err(|e| Error::new(Kind::Io, format!("Could not get {bytes} bytes of memory: {e}")))
}

/// An access outside the memory, as an error of ours.
#[expect(clippy::needless_pass_by_value, reason = "used as a function that maps errors")]
pub(super) fn error(e: GuestMemoryError) -> Error {
    Error::invalid(format!("the machine's memory is too small: {e}"))
}
