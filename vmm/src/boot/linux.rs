//! Linux's 64-bit boot protocol: `boot_params`, a seed for its random numbers, and a minimal GDT.
//!
//! `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol".

use gmem_wire::layout;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::ByteValued;

use super::initrd::Initrd;
use super::memory_map;
use crate::memory::ram::{GuestRam, NotRam};

/// The seed's place, in the page of PVH's start info, which this protocol does not use.
const SEED: u64 = layout::START_INFO;
/// Where the GDT lies: behind it.
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

/// `SETUP_RNG_SEED` of `asm/setup_data.h`: Linux takes it for its random numbers, if it trusts its boot loader, and wipes it.
const SETUP_RNG_SEED: u32 = 9;

/// Random bytes: as many as make Linux's generator ready at once. Without them an early random number costs it a hash each.
pub(super) type Seed = [u8; 32];

const _: () = assert!(size_of::<boot_params>() as u64 <= layout::PML4 - layout::BOOT_PARAMS);

/// Writes `boot_params`, the seed and the GDT.
pub(super) fn write(
    ram: &GuestRam,
    command_line_len: usize,
    initrd: Option<Initrd>,
    seed: &Seed,
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
    params.acpi_rsdp_addr = layout::RSDP;
    params.hdr.setup_data = SEED;
    // `struct setup_data`: the next one (none), type, length.
    let header = [0, 0, SETUP_RNG_SEED, seed.len() as u32].map(u32::to_le_bytes);
    ram.write(SEED, header.as_flattened())?;
    ram.write(SEED + size_of_val(&header) as u64, seed)?;
    ram.write(layout::BOOT_PARAMS, params.as_slice())?;
    for (index, descriptor) in DESCRIPTORS.iter().enumerate() {
        ram.write(GDT + 8 * index as u64, &descriptor.to_le_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_hangs_on_the_boot_parameters() {
        let ram = GuestRam::new(crate::boot::MINIMUM_MEMORY).unwrap();
        write(&ram, 0, None, &[0xa5; 32]).unwrap();
        let mut params = boot_params::default();
        ram.read(layout::BOOT_PARAMS, params.as_mut_slice())
            .unwrap();
        let mut data = [0; 48];
        let at = params.hdr.setup_data;
        ram.read(at, &mut data).unwrap();
        assert_eq!(
            data[..16],
            [0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0]
        );
        assert_eq!(data[16..], [0xa5; 32]);
        assert!(at + 48 <= GDT, "the GDT lies on it");
    }
}
