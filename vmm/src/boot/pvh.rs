//! Xen's `hvm_start_info`, version 1: what PVH kernels and the bundled guest are handed.
//!
//! Layouts: `xen/include/public/arch-x86/hvm/start_info.h`.

use gmem_wire::layout;
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

use super::initrd::Initrd;
use super::memory_map;
use crate::memory::ram::{GuestRam, NotRam};

/// The list of modules, between start info and memory map.
const MODULES: u64 = layout::START_INFO + 0x40;
const _: () = assert!(size_of::<hvm_start_info>() as u64 <= MODULES - layout::START_INFO);
const _: () = assert!(size_of::<hvm_modlist_entry>() as u64 <= layout::MEMORY_MAP - MODULES);

/// Writes start info, memory map and, with an `initrd`, the list of modules.
pub(super) fn write(ram: &GuestRam, initrd: Option<Initrd>) -> Result<(), NotRam> {
    let ranges = memory_map::ranges(ram);
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: initrd.is_some().into(),
        modlist_paddr: if initrd.is_some() { MODULES } else { 0 },
        rsdp_paddr: layout::RSDP,
        cmdline_paddr: layout::COMMAND_LINE,
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: ranges.len() as u32,
        ..Default::default()
    };
    ram.write(layout::START_INFO, start_info.as_slice())?;
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.address,
            size: initrd.size,
            ..Default::default()
        };
        ram.write(MODULES, module.as_slice())?;
    }
    let entry_size = size_of::<hvm_memmap_table_entry>() as u64;
    for (index, range) in ranges.iter().enumerate() {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind,
            reserved: 0,
        };
        ram.write(
            layout::MEMORY_MAP + index as u64 * entry_size,
            entry.as_slice(),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_u32(ram: &GuestRam, gpa: u64) -> u32 {
        let mut bytes = [0; 4];
        ram.read(gpa, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn the_start_info_names_map_command_line_and_module() {
        let ram = GuestRam::new(64 << 20).unwrap();
        let initrd = Initrd {
            address: 0x30_0000,
            size: 77,
        };
        write(&ram, Some(initrd)).unwrap();
        let at = |offset| read_u32(&ram, layout::START_INFO + offset);
        assert_eq!(at(0), 0x336e_c578);
        assert_eq!(at(4), 1);
        assert_eq!(at(12), 1);
        assert_eq!(u64::from(at(16)), MODULES);
        assert_eq!(u64::from(at(24)), layout::COMMAND_LINE);
        assert_eq!(u64::from(at(40)), layout::MEMORY_MAP);
        assert_eq!(at(48), 3);
        assert_eq!(read_u32(&ram, MODULES), 0x30_0000);
        assert_eq!(read_u32(&ram, MODULES + 8), 77);
    }

    #[test]
    fn without_an_initrd_there_is_no_module() {
        let ram = GuestRam::new(64 << 20).unwrap();
        write(&ram, None).unwrap();
        assert_eq!(read_u32(&ram, layout::START_INFO + 12), 0);
        assert_eq!(read_u32(&ram, layout::START_INFO + 16), 0);
    }
}
