//! Page tables for guests that are entered in 64-bit mode: addresses are what they are.
//!
//! The first 4 GiB and all RAM are mapped by 2 MiB pages, writable and open to user code; the hole for
//! devices is uncached. That includes addresses below 4 GiB where the guest has no memory: an access there
//! leaves the guest with its address, instead of as a page fault that an early guest cannot report.

use gmem_wire::layout;

use crate::memory::ram::{GuestRam, NotRam};

const PRESENT_WRITABLE_USER: u64 = 0x7;
const UNCACHED: u64 = 0x18;
const LARGE: u64 = 0x80;
const ENTRIES: u64 = 512;
const TABLE_SIZE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// Writes the tables at the addresses of [`layout`].
pub(super) fn write(ram: &GuestRam) -> Result<(), NotRam> {
    // `GuestRam::LIMIT` keeps this within `layout::PAGE_DIRECTORIES`.
    let directories = ram.end().max(layout::MMIO_END).div_ceil(GIB);
    write_table(ram, layout::PML4, |index| {
        if index == 0 {
            layout::PDPT | PRESENT_WRITABLE_USER
        } else {
            0
        }
    })?;
    write_table(ram, layout::PDPT, |index| {
        if index < directories {
            (layout::PAGE_DIRECTORY + index * TABLE_SIZE) | PRESENT_WRITABLE_USER
        } else {
            0
        }
    })?;
    for directory in 0..directories {
        let table = layout::PAGE_DIRECTORY + directory * TABLE_SIZE;
        write_table(ram, table, |index| {
            let address = directory * GIB + index * LARGE_PAGE;
            let device = (layout::MMIO_START..layout::MMIO_END).contains(&address);
            let cache = if device { UNCACHED } else { 0 };
            address | LARGE | PRESENT_WRITABLE_USER | cache
        })?;
    }
    Ok(())
}

fn write_table(ram: &GuestRam, gpa: u64, entry: impl Fn(u64) -> u64) -> Result<(), NotRam> {
    let mut table = [0; TABLE_SIZE as usize];
    for (index, bytes) in (0..ENTRIES).zip(table.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&entry(index).to_le_bytes());
    }
    ram.write(gpa, &table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ram: &GuestRam, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        ram.read(gpa, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// What the tables say about `address`.
    fn walk(ram: &GuestRam, address: u64) -> u64 {
        let pml4e = entry(ram, layout::PML4 + (address >> 39) * 8);
        assert_eq!(pml4e & 7, 7);
        let pdpte = entry(ram, (pml4e & !0xfff) + (address >> 30 & 511) * 8);
        assert_eq!(pdpte & 7, 7);
        entry(ram, (pdpte & !0xfff) + (address >> 21 & 511) * 8)
    }

    #[test]
    fn memory_is_mapped_to_itself_and_devices_uncached() {
        let ram = GuestRam::new(6 << 30).unwrap();
        write(&ram).unwrap();
        assert_eq!(walk(&ram, 0), 0x87);
        assert_eq!(walk(&ram, 0x4020_0000), 0x4020_0087);
        assert_eq!(walk(&ram, layout::MMIO_START), layout::MMIO_START | 0x9f);
        assert_eq!(walk(&ram, 0xfee0_0000), 0xfee0_009f);
        assert_eq!(walk(&ram, 0x1_0000_0000), 0x1_0000_0087);
        assert_eq!(walk(&ram, (7 << 30) - 1), (7 << 30) - (2 << 20) + 0x87);
        assert_eq!(entry(&ram, layout::PDPT + 7 * 8), 0, "nothing beyond RAM");
    }

    #[test]
    fn the_tables_of_the_largest_guest_stay_below_the_end_of_low_memory() {
        let directories = (GuestRam::LIMIT + (1 << 30)).div_ceil(GIB);
        assert_eq!(directories, layout::PAGE_DIRECTORIES);
        assert!(layout::PAGE_DIRECTORY + directories * TABLE_SIZE <= layout::LOW_END);
    }
}
