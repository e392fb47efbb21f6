//! What the monitor and the bundled guest agree on: ports, addresses, exit codes.
//!
//! # Entering the bundled guest
//!
//! Every vCPU starts at the ELF's entry point at CPL0 in 64-bit mode, with interrupts off:
//!
//! - `CR3` = [`layout::PML4`]: an identity map of all guest RAM and of the MMIO hole (3 GiB to 4 GiB,
//!   uncached), 2 MiB pages, present, writable, user-accessible.
//! - `CR0` = 0x8005_0033, `CR4` = 0x620, `EFER` = 0xd00; flat 64-bit code segment at selector 0x08, flat
//!   data segment at 0x10; no usable GDT, IDT or stack.
//! - `RDI` = index of the vCPU, from 0; `RSI` = guest-physical address of a Xen `hvm_start_info`
//!   (version 1) with the command line and the memory map.
//!
//! The command line is `gmem.cpus=N gmem.tsc_khz=K gmem.devices=D -- WORKLOAD key=value ...`: so many vCPUs, so fast a
//! TSC, and so many virtio devices, in the first windows from [`layout::VIRTIO_START`] on.
//!
//! The guest writes its console to [`port::SERIAL`], byte by byte, announces the start of the workload at
//! [`port::MARK`], prints its result as one line that starts with `{"workload":`, and ends the microVM
//! with a 32-bit write to [`port::EXIT`].
#![no_std]

pub mod gmem;
pub mod xpu;

/// I/O ports.
pub mod port {
    /// First of the eight ports of a 16550 UART: the console.
    pub const SERIAL: u16 = 0x3f8;
    /// Its interrupt line.
    pub const SERIAL_LINE: u32 = 4;
    /// A 32-bit write ends the microVM: the value is the guest's verdict, see [`super::exit`].
    pub const EXIT: u16 = 0xf4;
    /// Status when read, commands when written, of a PC's keyboard controller.
    pub const KEYBOARD: u16 = 0x64;
    /// Its command to pull the processor's reset line.
    pub const KEYBOARD_RESET: u8 = 0xfe;
    /// ACPI's sleep control register, and the status register beside it.
    pub const SLEEP_CONTROL: u16 = 0x600;
    /// See [`SLEEP_CONTROL`].
    pub const SLEEP_STATUS: u16 = 0x601;
    /// The sleep type that is "off".
    pub const SLEEP_OFF: u8 = 5;
    /// A byte write marks a moment, see [`super::mark`].
    pub const MARK: u16 = 0xf1;
    /// A byte write: the vCPU has nothing to do for so many times 10 microseconds. Somebody else may have its host CPU.
    pub const NAP: u16 = 0xf2;
}

/// Values written to [`port::EXIT`].
pub mod exit {
    /// The workload ran and verified.
    pub const SUCCESS: u32 = 0;
    /// The workload ran, and found bytes that are not what was written.
    pub const MISMATCH: u32 = 1;
    /// The workload's name or one of its options is unknown or out of range.
    pub const BAD_WORKLOAD: u32 = 2;
    /// The guest panicked.
    pub const PANIC: u32 = 101;
    /// The guest took an exception that it has no handler for.
    pub const TRAP: u32 = 102;
}

/// Values written to [`port::MARK`].
pub mod mark {
    /// The boot is over, the workload begins.
    pub const WORKLOAD: u8 = 1;
}

/// Guest-physical addresses that the monitor fills before the guest starts.
pub mod layout {
    /// Xen `hvm_start_info`.
    pub const START_INFO: u64 = 0x6000;
    /// Array of `hvm_memmap_table_entry`.
    pub const MEMORY_MAP: u64 = 0x6100;
    /// Command line, NUL-terminated, at most [`COMMAND_LINE_SIZE`] bytes with the NUL.
    pub const COMMAND_LINE: u64 = 0x7000;
    /// Room for the command line, bytes.
    pub const COMMAND_LINE_SIZE: usize = 0x1000;
    /// Linux `boot_params` for kernels entered by the 64-bit boot protocol.
    pub const BOOT_PARAMS: u64 = 0x8000;
    /// Top-level page table.
    pub const PML4: u64 = 0x9000;
    /// Page directory pointer table of the first 512 GiB.
    pub const PDPT: u64 = 0xa000;
    /// Page directories, one for each GiB that is mapped, at most [`PAGE_DIRECTORIES`].
    pub const PAGE_DIRECTORY: u64 = 0xb000;
    /// How many page directories fit below [`LOW_END`].
    pub const PAGE_DIRECTORIES: u64 = (LOW_END - PAGE_DIRECTORY) / 0x1000;
    /// End of the low memory that the monitor uses.
    pub const LOW_END: u64 = 0x9_f000;
    /// Where PC firmware would be, up to the first MiB: the pointer to the ACPI tables, and the tables.
    pub const RSDP: u64 = 0xe_0000;
    /// The pointer to the MP table, and the table.
    pub const MP_TABLE: u64 = 0xf_0000;
    /// End of the range that is firmware's on a PC.
    pub const FIRMWARE_END: u64 = 0x10_0000;
    /// Where the bundled guest is linked.
    pub const GUEST_BASE: u64 = 0x20_0000;
    /// Start of the hole for devices below 4 GiB.
    pub const MMIO_START: u64 = 0xc000_0000;
    /// First window of a virtio device; one follows another, [`VIRTIO_WINDOW`] bytes each.
    pub const VIRTIO_START: u64 = 0xd000_0000;
    /// Size of a virtio device's window, bytes.
    pub const VIRTIO_WINDOW: u64 = 0x1000;
    /// Interrupt line of the first virtio device; the next ones have those that follow.
    pub const VIRTIO_LINE: u32 = 5;
    /// How many virtio devices there can be: the I/O APIC has 24 lines.
    pub const VIRTIO_DEVICES: usize = 24 - VIRTIO_LINE as usize;
    /// End of that hole; RAM that does not fit below continues here.
    pub const MMIO_END: u64 = 0x1_0000_0000;
}
