//! The MP table: which processors there are, and which interrupt line goes where.
//!
//! Intel MultiProcessor Specification 1.4, chapter 4. Kernels look for it where PC firmware would be. All lines
//! of the I/O APIC are those of an ISA bus: edge-triggered, active high.

use gmem_wire::layout;

use crate::memory::ram::{GuestRam, NotRam};

/// Registers of the processors' own APICs, and of the I/O APIC: where a PC has them.
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// Lines of KVM's I/O APIC.
const LINES: u8 = 24;
/// Versions that KVM's models announce.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;
/// A processor of family 6 with FPU and APIC: the truth is in CPUID.
const SIGNATURE: u32 = 0x600;
const FEATURES: u32 = 0x201;
/// Kinds of interrupts.
const VECTORED: u8 = 0;
const NON_MASKABLE: u8 = 1;
const EXTERNAL: u8 = 3;
const ISA: u8 = 0;
const ALL_PROCESSORS: u8 = 0xff;

/// Writes the table for processors with the APIC ids 0 to `cpus` - 1.
pub(super) fn write(ram: &GuestRam, cpus: u8) -> Result<(), NotRam> {
    let table_at = layout::MP_TABLE + 16;
    ram.write(layout::MP_TABLE, &pointer(table_at as u32))?;
    ram.write(table_at, &table(cpus))
}

/// The floating pointer by which kernels find the table.
fn pointer(table: u32) -> [u8; 16] {
    let mut pointer = [0; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&table.to_le_bytes());
    // Its length in units of 16 bytes; version 1.4.
    (pointer[8], pointer[9]) = (1, 4);
    pointer[10] = balance(&pointer);
    pointer
}

fn table(cpus: u8) -> Vec<u8> {
    let (mut entries, mut count) = (Vec::new(), 0u16);
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..cpus {
        let mut processor = [0; 20];
        processor[1..3].copy_from_slice(&[id, LOCAL_APIC_VERSION]);
        processor[3] = ENABLED | if id == 0 { BOOT_PROCESSOR } else { 0 };
        processor[4..8].copy_from_slice(&SIGNATURE.to_le_bytes());
        processor[8..12].copy_from_slice(&FEATURES.to_le_bytes());
        add(&processor);
    }
    add(b"\x01\x00ISA   ");
    let io_apic = cpus;
    let [a, b, c, d] = IO_APIC.to_le_bytes();
    add(&[2, io_apic, IO_APIC_VERSION, ENABLED, a, b, c, d]);
    for line in 0..LINES {
        add(&[3, VECTORED, 0, 0, ISA, line, io_apic, line]);
    }
    add(&[4, EXTERNAL, 0, 0, ISA, 0, 0, 0]);
    add(&[4, NON_MASKABLE, 0, 0, ISA, 0, ALL_PROCESSORS, 1]);

    let mut table = Vec::with_capacity(44 + entries.len());
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&(44 + entries.len() as u16).to_le_bytes());
    // Revision 1.4, then the place of the checksum.
    table.extend_from_slice(&[4, 0]);
    table.extend_from_slice(b"GMEM    MICROVM     ");
    // No table of the manufacturer's.
    table.extend_from_slice(&[0; 6]);
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(&entries);
    table[7] = balance(&table);
    table
}

/// The byte that makes the sum of all 0.
fn balance(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths of the entries by their type.
    fn walk(table: &[u8]) -> Vec<&[u8]> {
        let mut entries = Vec::new();
        let mut rest = &table[44..];
        while let Some(kind) = rest.first() {
            let (entry, after) = rest.split_at(if *kind == 0 { 20 } else { 8 });
            entries.push(entry);
            rest = after;
        }
        entries
    }

    #[test]
    fn the_table_adds_up_and_names_every_processor_and_line() {
        for cpus in [1, 2, 254] {
            let table = table(cpus);
            assert_eq!(balance(&table), 0);
            assert_eq!(
                usize::from(u16::from_le_bytes([table[4], table[5]])),
                table.len()
            );
            let entries = walk(&table);
            let count = u16::from_le_bytes([table[34], table[35]]);
            assert_eq!(entries.len(), usize::from(count));
            let of = |kind: u8| entries.iter().filter(move |entry| entry[0] == kind);
            assert_eq!(of(0).count(), usize::from(cpus));
            assert_eq!(of(0).filter(|cpu| cpu[3] & BOOT_PROCESSOR != 0).count(), 1);
            assert_eq!(of(3).count(), usize::from(LINES));
            assert_eq!(of(4).count(), 2);
            // The I/O APIC's id is no processor's.
            assert!(of(2).all(|io| io[1] >= cpus));
            assert!(layout::MP_TABLE + 16 + table.len() as u64 <= layout::FIRMWARE_END);
        }
    }

    #[test]
    fn the_pointer_stands_where_kernels_look() {
        let ram = GuestRam::new(2 << 20).unwrap();
        write(&ram, 1).unwrap();
        let mut found = [0; 16];
        ram.read(0xf_0000, &mut found).unwrap();
        assert!(found.starts_with(b"_MP_"));
        assert_eq!(balance(&found), 0);
        let mut signature = [0; 4];
        let at = u32::from_le_bytes([found[4], found[5], found[6], found[7]]);
        ram.read(at.into(), &mut signature).unwrap();
        assert_eq!(&signature, b"PCMP");
    }
}
