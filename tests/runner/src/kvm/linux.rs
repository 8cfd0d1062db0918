//! Direct boot of a Linux kernel (The Linux/x86 Boot Protocol, "64-bit boot protocol"): kernel, initial RAM disk and
//! parameters are put into the memory, and the first processor enters the kernel in 64-bit mode.

use super::acpi;
use super::memory::{self, HIGH, Memory};
use super::vcpu::kvm_error;
use crate::machine::Kernel;
use block::{Context, Error, Result};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use linux_loader::cmdline::Cmdline;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult, load_cmdline};
use std::fmt;
use std::fs::File;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

const GDT: u64 = 0x500;
const ZERO_PAGE: u64 = 0x7000;
const STACK: u64 = 0x8ff0;
/// Page tables: one page of the fourth level, one of the third, four of the second.
const TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line of x86 (`COMMAND_LINE_SIZE`).
const COMMAND_LINE_LEN: usize = 2048;
const PAGE: u64 = 0x1000;

/// The kernel has a 64-bit entry, at this offset (`xloadflags`, bit 0).
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// No boot loader that has a number.
const UNKNOWN_LOADER: u8 = 0xff;
/// "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;

/// Flat segments as the boot protocol wants them: code at selector 10h, data at 18h.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Where the first processor begins.
#[derive(Debug)]
pub(super) struct Start {
    entry: u64,
}

/// Loads the kernel and all it is told but what the machine has, which [`acpi`] tells.
///
/// # Errors
/// A file that cannot be read or is no kernel, or not enough memory.
pub(super) fn load(kernel: &Kernel, memory: &Memory) -> Result<Start> {
    let named = |path: &std::path::Path| format!("Could not load '{}'", path.display());
    let loaded = load_kernel(kernel, memory).context(|| named(&kernel.image))?;
    let mut header = loaded.setup_header.unwrap_or_else(|| setup_header {
        boot_flag: 0xaa55,
        header: HEADER_MAGIC,
        kernel_alignment: 0x100_0000,
        ..Default::default()
    });
    if loaded.setup_header.is_some() && header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Error::unsupported("the kernel has no 64-bit entry").context(named(&kernel.image)));
    }
    header.type_of_loader = UNKNOWN_LOADER;
    if let Some(path) = &kernel.initrd {
        let end = loaded.kernel_load.0 + u64::from(header.init_size);
        load_initrd(path, memory, end.max(loaded.kernel_end), &mut header).context(|| named(path))?;
    }
    header.cmd_line_ptr = COMMAND_LINE as u32;
    header.cmdline_size = load_command_line(&kernel.append, memory)?;
    write_parameters(header, memory)?;
    write_tables(memory).map_err(memory::error)?;
    let offset = if loaded.setup_header.is_some() { ENTRY_64 } else { 0 };
    Ok(Start { entry: loaded.kernel_load.0 + offset })
}

/// A bzImage or, when it is none, an ELF file.
fn load_kernel(kernel: &Kernel, memory: &Memory) -> Result<KernelLoaderResult> {
    let mut file = File::open(&kernel.image)?;
    let high = Some(GuestAddress(HIGH));
    if crate::accel::is_bzimage(&kernel.image)? {
        BzImage::load(memory, None, &mut file, high).map_err(unfit)
    } else {
        Elf::load(memory, None, &mut file, high).map_err(unfit)
    }
}

/// What the loader says, as an error of ours.
fn unfit(e: impl fmt::Display) -> Error {
    Error::invalid(e.to_string())
}

/// Puts the initial RAM disk as high as it may be, above the kernel's end.
fn load_initrd(path: &std::path::Path, memory: &Memory, end: u64, header: &mut setup_header) -> Result<()> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let highest = if header.initrd_addr_max == 0 { 0x37ff_ffff } else { header.initrd_addr_max.into() };
    let top = memory.last_addr().0.min(highest) + 1;
    let at = top.checked_sub(len).map_or(0, |at| at & !(PAGE - 1));
    if at < end {
        return Err(Error::invalid("there is no room for it").with_hint("Give the machine more --memory"));
    }
    let bytes = usize::try_from(len).unwrap_or(0);
    memory.read_exact_volatile_from(GuestAddress(at), &mut file, bytes).map_err(memory::error)?;
    header.ramdisk_image = at as u32;
    header.ramdisk_size = len as u32;
    Ok(())
}

/// The command line, and its length.
fn load_command_line(append: &str, memory: &Memory) -> Result<u32> {
    let wrong = |e| unfit(e).context("--append");
    let line = Cmdline::try_from(append, COMMAND_LINE_LEN).map_err(wrong)?;
    load_cmdline(memory, GuestAddress(COMMAND_LINE), &line).map_err(unfit)?;
    let len = line.as_cstring().map_err(wrong)?.as_bytes().len();
    Ok(u32::try_from(len).unwrap_or(0))
}

/// The zero page.
fn write_parameters(header: setup_header, memory: &Memory) -> Result<()> {
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: acpi::ROOT, ..Default::default() };
    for range in memory::map(memory.last_addr().0 + 1) {
        let entry = boot_e820_entry { addr: range.start, size: range.len, r#type: range.kind };
        params.e820_table[usize::from(params.e820_entries)] = entry;
        params.e820_entries += 1;
    }
    let params = BootParams::new(&params, GuestAddress(ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, memory).map_err(unfit)
}

/// Descriptors, and page tables that map the first 4 GiB to themselves.
fn write_tables(memory: &Memory) -> Result<(), GuestMemoryError> {
    const PRESENT: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let (third, second) = (TABLES + PAGE, TABLES + 2 * PAGE);
    for (at, descriptor) in (0..).zip(DESCRIPTORS) {
        memory.write_obj(descriptor, GuestAddress(GDT + at * 8))?;
    }
    memory.write_obj(third | PRESENT, GuestAddress(TABLES))?;
    for table in 0..4 {
        memory.write_obj((second + table * PAGE) | PRESENT, GuestAddress(third + table * 8))?;
    }
    (0..4 * 512).try_for_each(|page| {
        memory.write_obj(page << 21 | LARGE | PRESENT, GuestAddress(second).unchecked_add(page * 8))
    })
}

/// The processors. All but the first wait until the kernel starts them.
///
/// # Errors
/// KVM's.
pub(super) fn vcpus(kvm: &Kvm, vm: &VmFd, count: u8, start: &Start) -> Result<Vec<VcpuFd>> {
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| kvm_error("Could not ask for CPUID", e))?;
    (0..count)
        .map(|id| vcpu(vm, id, &cpuid, start).map_err(|e| kvm_error("Could not make a processor", e)))
        .collect()
}

fn vcpu(vm: &VmFd, id: u8, cpuid: &CpuId, start: &Start) -> Result<VcpuFd, kvm_ioctls::Error> {
    let fd = vm.create_vcpu(id.into())?;
    fd.set_cpuid2(&numbered(cpuid, id))?;
    if id == 0 {
        set_msrs(&fd)?;
        fd.set_fpu(&kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() })?;
        let mut segments = fd.get_sregs()?;
        enter_long_mode(&mut segments);
        fd.set_sregs(&segments)?;
        let (rip, rsi, rsp) = (start.entry, ZERO_PAGE, STACK);
        fd.set_regs(&kvm_regs { rip, rsi, rsp, rflags: 2, ..Default::default() })?;
        let mut lapic = fd.get_lapic()?;
        wire(&mut lapic);
        fd.set_lapic(&lapic)?;
    }
    Ok(fd)
}

/// The same answers of CPUID, with the number of this processor in them, and that there is a hypervisor to ask about.
fn numbered(cpuid: &CpuId, id: u8) -> CpuId {
    const HYPERVISOR: u32 = 1 << 31;
    let mut cpuid = cpuid.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0x00ff_ffff | u32::from(id) << 24;
                entry.ecx |= HYPERVISOR;
            }
            0x0b | 0x1f => entry.edx = id.into(),
            _ => {}
        }
    }
    cpuid
}

/// String instructions are fast, and memory is cached unless something says otherwise.
fn set_msrs(fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    const MISC_ENABLE: u32 = 0x1a0;
    const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
    for (index, data) in [(MISC_ENABLE, 1), (MTRR_DEFAULT_TYPE, 1 << 11 | 6)] {
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        // A processor without the register does without.
        if let Ok(msrs) = Msrs::from_entries(&[entry]) {
            fd.set_msrs(&msrs)?;
        }
    }
    Ok(())
}

/// Control registers and segments of a kernel's entry.
fn enter_long_mode(segments: &mut kvm_sregs) {
    const CR0_PROTECTED_PAGED: u64 = 0x8000_0011;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LONG_MODE: u64 = 0x500;
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    segments.cs = kvm_segment { selector: 0x10, type_: 0xb, l: 1, ..flat };
    let data = kvm_segment { selector: 0x18, type_: 3, db: 1, ..flat };
    (segments.ds, segments.es, segments.ss, segments.fs, segments.gs) = (data, data, data, data, data);
    segments.gdt.base = GDT;
    segments.gdt.limit = 31;
    segments.idt.limit = 0;
    segments.cr3 = TABLES;
    segments.cr4 = CR4_PAE;
    segments.cr0 = CR0_PROTECTED_PAGED;
    segments.efer = EFER_LONG_MODE;
}

/// The local interrupt inputs: the old controllers' interrupts, and the one that cannot be masked.
fn wire(lapic: &mut kvm_lapic_state) {
    for (register, mode) in [(0x350, 0x7), (0x360, 0x4)] {
        // Bits 8 to 10 of the register say how the input arrives.
        let byte = &mut lapic.regs[register + 1];
        *byte = *byte & !0x7 | mode;
    }
}
