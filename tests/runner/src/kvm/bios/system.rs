//! The services that are not about disks or the screen: memory, keyboard, clock, restart.

use super::{Done, LOW_KIB, Registers, address, set_word, word};
use crate::kvm::input::Input;
use crate::kvm::memory::{self, HIGH, Memory};
use std::time::{SystemTime, UNIX_EPOCH};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// What INT 11h says there is: a serial port, an 80-column colour screen.
const EQUIPMENT: u16 = 0x0220;
/// "SMAP".
const SMAP: u64 = 0x534d_4150;
/// Bytes of an entry of the memory map.
const ENTRY: u64 = 20;
/// The status of a service there is none of.
const UNKNOWN: u8 = 0x86;

/// Serves a call by one of the vectors of the system.
pub(super) fn serve(vector: u8, call: &mut Registers, memory: &Memory) -> Done {
    match vector {
        0x11 => set_word(&mut call.regs.rax, EQUIPMENT),
        0x12 => set_word(&mut call.regs.rax, LOW_KIB),
        0x15 => return system(call, memory),
        0x19 => return Done::Never,
        0x1a => return clock(call),
        // Others do nothing, as timers and devices that never call.
        _ => {}
    }
    Done::Quietly
}

/// INT 15h: how much memory there is, in three generations.
fn system(call: &mut Registers, memory: &Memory) -> Done {
    let high_kib = (memory.last_addr().0 + 1).saturating_sub(HIGH) >> 10;
    match word(call.regs.rax) {
        0xe820 => return map(call, memory),
        0xe801 => {
            // Kilobytes up to 16 MiB, then 64 KiB blocks.
            let low = high_kib.min(15 << 10);
            let (low, rest) = (low as u16, ((high_kib - low) >> 6) as u16);
            let regs = &mut call.regs;
            [&mut regs.rax, &mut regs.rcx].into_iter().for_each(|register| set_word(register, low));
            [&mut regs.rbx, &mut regs.rdx].into_iter().for_each(|register| set_word(register, rest));
        }
        // Address line 20 is always on; asked, it is said so.
        0x2401 => call.set_ah(0),
        0x2402 => set_word(&mut call.regs.rax, 1),
        _ if call.ah() == 0x88 => set_word(&mut call.regs.rax, high_kib.min(63 << 10) as u16),
        _ => {
            call.set_ah(UNKNOWN);
            return Done::Carry(true);
        }
    }
    Done::Carry(false)
}

/// INT 15h, E820h: one entry of the memory map at ES:DI; EBX says which, and then which is next.
fn map(call: &mut Registers, memory: &Memory) -> Done {
    let mut entries = memory::map(memory.last_addr().0 + 1).skip(usize::from(word(call.regs.rbx)));
    let (entry, next) = (entries.next(), entries.next());
    let asked = call.regs.rdx & 0xffff_ffff == SMAP && call.regs.rcx & 0xffff_ffff >= ENTRY;
    let Some(entry) = entry.filter(|_| asked) else {
        call.set_ah(UNKNOWN);
        return Done::Carry(true);
    };
    let bytes = [entry.start.to_le_bytes(), entry.len.to_le_bytes()].concat();
    let to = address(&call.segments.es, word(call.regs.rdi).into());
    let written = memory
        .write_slice(&bytes, to)
        .and_then(|()| memory.write_obj(entry.kind, GuestAddress(to.0.wrapping_add(16))));
    call.regs.rax = SMAP;
    call.regs.rcx = ENTRY;
    call.regs.rbx = if next.is_some() { u64::from(word(call.regs.rbx)) + 1 } else { 0 };
    Done::Carry(written.is_err())
}

/// INT 16h: keys. One that is waited for comes later; when there will be no more, neither does the caller go on.
pub(super) fn keyboard(call: &mut Registers, input: &mut Input) -> Done {
    let key = input.waiting.front().map(|byte| if *byte == b'\n' { b'\r' } else { *byte });
    match (call.ah(), key) {
        (0x00 | 0x10, None) if input.ended => Done::Never,
        (0x00 | 0x10, None) => Done::Later,
        (0x00 | 0x10, Some(key)) => {
            input.waiting.pop_front();
            set_word(&mut call.regs.rax, key.into());
            Done::Quietly
        }
        (0x01 | 0x11, key) => {
            set_word(&mut call.regs.rax, key.unwrap_or_default().into());
            Done::Zero(key.is_none())
        }
        // No shift key is held.
        (0x02 | 0x12, _) => {
            call.set_al(0);
            Done::Quietly
        }
        _ => Done::Quietly,
    }
}

/// INT 1Ah: the time since midnight, in ticks and in decimal digits.
fn clock(call: &mut Registers) -> Done {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % (24 * 60 * 60);
    match call.ah() {
        0x00 => {
            // A day has 1,573,040 ticks.
            let ticks = now * 1_573_040 / (24 * 60 * 60);
            set_word(&mut call.regs.rcx, (ticks >> 16) as u16);
            set_word(&mut call.regs.rdx, ticks as u16);
            call.set_al(0);
        }
        0x02 => {
            set_word(&mut call.regs.rcx, digits(now / 3600) << 8 | digits(now / 60 % 60));
            set_word(&mut call.regs.rdx, digits(now % 60) << 8);
        }
        _ => return Done::Carry(true),
    }
    Done::Carry(false)
}

/// Two decimal digits, four bits each.
fn digits(number: u64) -> u16 {
    ((number / 10) << 4 | (number % 10)) as u16
}
