//! Ports, exceptions, and the services of `boot/entry.S` that need CPL0.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::ptr::addr_of;
use gmem_wire::{mark, port};
use guest_kernel::clock::Frequency;

unsafe extern "C" {
    /// Not data: its address is the end of the image.
    static image_end: u8;
    static mut interrupt_table: [[u64; 2]; 256];
    static trap_entries: [u64; 32];
    static service_entry: u64;
}

/// Numbers of the services that `int3` asks for.
mod service {
    pub const HALT: u32 = 0;
    pub const TRIPLE_FAULT: u32 = 1;
    pub const STORE: u32 = 2;
    pub const SUM: u32 = 3;
    pub const PAGE_TABLES: u32 = 4;
}

const BREAKPOINT: usize = 3;
/// A present 64-bit interrupt gate; CPL3 may not call it.
const GATE: u64 = 0x8e00 << 32;
const GATE_FOR_CPL3: u64 = 0xee00 << 32;
const TRAP_STACK: u64 = 1 << 32;
const KERNEL_CODE: u64 = 0x08 << 16;

/// Where the image ends and the vCPUs' blocks begin.
pub fn end_of_image() -> u64 {
    addr_of!(image_end) as u64
}

/// Makes exceptions reach `boot/entry.S`. The interrupt table is one for all vCPUs and loaded already.
pub fn fill_interrupt_table() {
    for vector in 0..32 {
        // SAFETY: CPU 0 alone calls this, before there is an exception. The other statics are constants.
        unsafe {
            let (entry, flags) = if vector == BREAKPOINT {
                (service_entry, GATE_FOR_CPL3)
            } else {
                (trap_entries[vector], GATE | TRAP_STACK)
            };
            let low = (entry & 0xffff) | KERNEL_CODE | flags | ((entry >> 16) & 0xffff) << 48;
            (&raw mut interrupt_table[vector]).write_volatile([low, entry >> 32]);
        }
    }
}

/// Writes a byte to a port.
#[inline]
pub fn out8(port: u16, value: u8) {
    // SAFETY: the ports that this image knows do not change memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    }
}

/// Tells the monitor that the workload begins.
pub fn mark_workload() {
    out8(port::MARK, mark::WORKLOAD);
}

/// Ends the microVM.
pub fn exit(verdict: u32) -> ! {
    // SAFETY: as for `out8`. Not `nomem`: what was written before must be written.
    unsafe { asm!("out dx, eax", in("dx") port::EXIT, in("eax") verdict, options(nostack)) }
    halt()
}

/// Stops this vCPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: the service halts, changes nothing and returns if something wakes the vCPU.
        unsafe { asm!("int3", in("eax") service::HALT, options(nomem)) }
    }
}

/// Faults thrice: without an interrupt table no exception can be delivered.
pub fn triple_fault() -> ! {
    // SAFETY: does not return.
    unsafe { asm!("int3", in("eax") service::TRIPLE_FAULT, options(noreturn)) }
}

/// Stores at CPL0 the address of each of `pages` pages from `address` on into its first word.
///
/// # Safety
///
/// The pages are memory that the caller owns.
pub unsafe fn store_at_cpl0(address: u64, pages: u64) {
    if pages > 0 {
        // SAFETY: the service writes there and nowhere else.
        unsafe {
            asm!("int3", in("eax") service::STORE, inout("rdi") address => _, inout("rcx") pages => _);
        }
    }
}

/// The sum, modulo 2^64, of the first words of `pages` pages from `address` on, read at CPL0.
///
/// # Safety
///
/// The pages are readable memory.
pub unsafe fn sum_at_cpl0(address: u64, pages: u64) -> u64 {
    let mut sum = 0u64;
    if pages > 0 {
        // SAFETY: the service reads there and nowhere else.
        unsafe {
            asm!("int3", in("eax") service::SUM, inout("rdi") address => _, inout("rcx") pages => _, inout("rdx") sum);
        }
    }
    sum
}

/// Address of the top-level page table.
pub fn page_tables() -> u64 {
    let tables: u64;
    // SAFETY: the service reads a register.
    unsafe {
        asm!("int3", inout("rax") u64::from(service::PAGE_TABLES) => tables, options(nomem));
    }
    tables & 0x000f_ffff_ffff_f000
}

/// The TSC's frequency: what the monitor told, else what CPUID tells, else 1 GHz is assumed.
pub fn frequency(told: Option<u64>) -> Frequency {
    match told.or_else(frequency_by_cpuid) {
        Some(khz) => Frequency {
            khz,
            assumed: false,
        },
        None => Frequency {
            khz: 1_000_000,
            assumed: true,
        },
    }
}

fn frequency_by_cpuid() -> Option<u64> {
    const TSC: u32 = 0x15;
    const HYPERVISOR: u32 = 0x4000_0000;
    const HYPERVISOR_TIMING: u32 = 0x4000_0010;
    if __cpuid(0).eax >= TSC {
        let found = __cpuid(TSC);
        let khz = u64::from(found.ecx) * u64::from(found.ebx) / u64::from(found.eax.max(1)) / 1000;
        if found.eax != 0 && khz != 0 {
            return Some(khz);
        }
    }
    let hypervisor_present = __cpuid(1).ecx & (1 << 31) != 0;
    let highest = __cpuid(HYPERVISOR).eax;
    if hypervisor_present && (HYPERVISOR_TIMING..HYPERVISOR + 0x100).contains(&highest) {
        let khz = u64::from(__cpuid(HYPERVISOR_TIMING).eax);
        return (khz != 0).then_some(khz);
    }
    None
}
