//! Linux's 64-bit boot protocol for ELF kernels without a PVH note: `boot_params` and a minimal GDT.
//!
//! `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol".

use gmem_wire::layout;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::ByteValued;

use super::initrd::Initrd;
use super::memory_map;
use crate::memory::ram::{GuestRam, NotRam};

/// Where the GDT lies: behind the start info and the memory map, which this protocol does not use.
pub const GDT: u64 = layout::START_INFO + 0xf00;
/// Its limit, in bytes: four descriptors less one byte.
pub const GDT_LIMIT: u16 = 4 * 8 - 1;

/// Null, unused, flat 64-bit code at 0x10, flat data at 0x18.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// "55 AA" of a boot sector and "HdrS": without them the kernel does not believe the rest.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// A boot loader without a registered number.
const LOADER_UNDEFINED: u8 = 0xff;

const _: () = assert!(size_of::<boot_params>() as u64 <= layout::PML4 - layout::BOOT_PARAMS);

/// Writes `boot_params` and the GDT.
pub(super) fn write(
    ram: &GuestRam,
    command_line_len: usize,
    initrd: Option<Initrd>,
) -> Result<(), NotRam> {
    let mut params = boot_params::default();
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
    params.hdr.cmdline_size = command_line_len as u32 + 1;
    if let Some(initrd) = initrd {
        // Both fit: it lies below 3 GiB.
        params.hdr.ramdisk_image = initrd.address as u32;
        params.hdr.ramdisk_size = initrd.size as u32;
    }
    let ranges = memory_map::ranges(ram);
    params.e820_entries = ranges.len() as u8;
    for (entry, range) in params.e820_table.iter_mut().zip(&ranges) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.size,
            r#type: range.kind,
        };
    }
    ram.write(layout::BOOT_PARAMS, params.as_slice())?;
    for (index, descriptor) in DESCRIPTORS.iter().enumerate() {
        ram.write(GDT + 8 * index as u64, &descriptor.to_le_bytes())?;
    }
    Ok(())
}
