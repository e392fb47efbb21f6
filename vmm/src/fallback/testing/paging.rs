//! Page walks: levels, sizes, permissions, error codes, accessed and dirty bits.

use super::{PML4, Ram, identity_map, long_mode};
use crate::fallback::machine::{Cause, Exception, Machine, Stop, control, flags};
use crate::fallback::physical::Access::{self, Execute, Read, Write};
use crate::fallback::walk::entry::{ACCESSED, DIRTY, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE};

/// Guest-virtual address under test and the level-1 entry that maps it, see [`identity_map`].
const ADDRESS: u64 = 0x5_6789;
const LEVEL_1: u64 = 0x4000 + 8 * 0x56;
const LEVEL_2: u64 = 0x3000;
const LEVEL_3: u64 = 0x2000;

const P: u32 = 1;
const W: u32 = 2;
const U: u32 = 4;
const RSVD: u32 = 8;
const I: u32 = 16;

fn ram() -> Ram {
    let ram = Ram::new(0x20_0000);
    identity_map(&ram);
    ram
}

fn fault(error_code: u32) -> Result<u64, Stop> {
    Err(Exception::page_fault(ADDRESS, error_code).into())
}

/// Clears `bits` of the entry at `gpa`.
fn clear(ram: &Ram, gpa: u64, bits: u64) {
    ram.set_entry(gpa, ram.entry(gpa) & !bits);
}

/// Sets `bits` of the entry at `gpa`.
fn set(ram: &Ram, gpa: u64, bits: u64) {
    ram.set_entry(gpa, ram.entry(gpa) | bits);
}

fn user(mut machine: Machine<'_>) -> Machine<'_> {
    machine.sregs.ss.dpl = 3;
    machine
}

fn each(machine: &Machine) -> [Result<u64, Stop>; 3] {
    [Read, Write, Execute].map(|access: Access| machine.translate(ADDRESS, access))
}

#[test]
fn pages_of_all_sizes_translate() {
    let ram = ram();
    let all = PRESENT | WRITABLE | USER;
    // Virtual 2 MiB.. is a page of 2 MiB at 6 MiB, virtual 1 GiB.. one of 1 GiB at 3 GiB; bit 12 of their
    // entries is PAT, not part of the address.
    ram.set_entry(LEVEL_2 + 8, 0x60_0000 | 1 << 12 | LARGE | all);
    ram.set_entry(LEVEL_3 + 8, 0xc000_0000 | 1 << 12 | LARGE | all);
    let machine = long_mode(&ram);
    assert_eq!(machine.translate(ADDRESS, Read), Ok(ADDRESS));
    assert_eq!(machine.translate(0x2a_bcde, Read), Ok(0x6a_bcde));
    assert_eq!(machine.translate(0x4bcd_ef01, Read), Ok(0xcbcd_ef01));
}

#[test]
fn the_upper_half_and_five_levels_translate() {
    let ram = ram();
    // The last entry of level 4 leads to the same tables.
    ram.set_entry(PML4 + 8 * 511, ram.entry(PML4));
    let mut machine = long_mode(&ram);
    assert_eq!(machine.translate(0xffff_ff80_0000_1234, Read), Ok(0x1234));

    ram.set_entry(0x8000 + 8 * 3, PML4 | PRESENT | WRITABLE | USER);
    machine.sregs.cr4 |= control::CR4_LA57;
    // The low bits of CR3 are flags or a PCID.
    machine.sregs.cr3 = 0x8000 | 0x18;
    assert_eq!(machine.translate(3 << 48 | ADDRESS, Read), Ok(ADDRESS));
    assert_eq!(machine.translate(ADDRESS, Read), fault(0));
}

#[test]
fn an_entry_that_is_not_present_faults_at_every_level() {
    for entry in [PML4, LEVEL_3, LEVEL_2, LEVEL_1] {
        let ram = ram();
        clear(&ram, entry, PRESENT);
        assert_eq!(each(&long_mode(&ram)), [fault(0), fault(W), fault(I)]);
        let machine = user(long_mode(&ram));
        assert_eq!(each(&machine), [fault(U), fault(U | W), fault(U | I)]);
    }
}

#[test]
fn a_read_only_level_stops_users_and_with_wp_the_supervisor() {
    for entry in [PML4, LEVEL_3, LEVEL_2, LEVEL_1] {
        let ram = ram();
        clear(&ram, entry, WRITABLE);
        let ok = Ok(ADDRESS);
        let mut machine = long_mode(&ram);
        assert_eq!(each(&machine), [ok, fault(P | W), ok]);
        machine.sregs.cr0 &= !control::CR0_WP;
        assert_eq!(each(&machine), [ok, ok, ok]);
        assert_eq!(each(&user(machine)), [ok, fault(P | W | U), ok]);
    }
}

#[test]
fn a_supervisor_level_stops_users() {
    for entry in [PML4, LEVEL_3, LEVEL_2, LEVEL_1] {
        let ram = ram();
        clear(&ram, entry, USER);
        assert_eq!(each(&long_mode(&ram)), [Ok(ADDRESS); 3]);
        let faults = [fault(P | U), fault(P | U | W), fault(P | U | I)];
        assert_eq!(each(&user(long_mode(&ram))), faults);
    }
}

#[test]
fn no_execute_stops_fetches_and_without_nxe_is_reserved() {
    for entry in [PML4, LEVEL_3, LEVEL_2, LEVEL_1] {
        let ram = ram();
        set(&ram, entry, NO_EXECUTE);
        let mut machine = long_mode(&ram);
        let ok = Ok(ADDRESS);
        assert_eq!(each(&machine), [ok, ok, fault(P | I)]);
        machine.sregs.efer &= !control::EFER_NXE;
        let reserved = [fault(P | RSVD), fault(P | RSVD | W), fault(P | RSVD)];
        assert_eq!(each(&machine), reserved);
    }
}

#[test]
fn reserved_bits_fault() {
    for (entry, bits) in [(PML4, LARGE), (LEVEL_2, LARGE | 1 << 13)] {
        let ram = ram();
        set(&ram, entry, bits);
        assert_eq!(long_mode(&ram).translate(ADDRESS, Read), fault(P | RSVD));
    }
}

#[test]
fn smep_and_smap_keep_the_supervisor_out_of_user_pages() {
    let ram = ram();
    let ok = Ok(ADDRESS);
    let mut machine = long_mode(&ram);
    machine.sregs.cr4 |= control::CR4_SMEP;
    assert_eq!(each(&machine), [ok, ok, fault(P | I)]);
    machine.sregs.cr4 |= control::CR4_SMAP;
    assert_eq!(each(&machine), [fault(P), fault(P | W), fault(P | I)]);
    machine.regs.rflags |= flags::AC;
    assert_eq!(each(&machine), [ok, ok, fault(P | I)]);
    machine.regs.rflags &= !flags::AC;
    assert_eq!(each(&user(machine)), [ok, ok, ok]);
}

#[test]
fn protection_keys_are_reported_as_not_covered() {
    let ram = ram();
    let mut machine = long_mode(&ram);
    machine.sregs.cr4 |= control::CR4_PKE;
    assert_eq!(machine.translate(ADDRESS, Read), Ok(ADDRESS));
    set(&ram, LEVEL_1, 5 << 59);
    let error = Err(Cause::ProtectionKey(ADDRESS).into());
    assert_eq!(machine.translate(ADDRESS, Read), error);
}

#[test]
fn accessed_and_dirty_bits_are_set_as_the_cpu_sets_them() {
    let ram = ram();
    let machine = long_mode(&ram);
    machine.translate(ADDRESS, Read).unwrap();
    for entry in [PML4, LEVEL_3, LEVEL_2, LEVEL_1] {
        assert_eq!(ram.entry(entry) & (ACCESSED | DIRTY), ACCESSED);
    }
    machine.translate(ADDRESS, Write).unwrap();
    assert_eq!(ram.entry(LEVEL_2) & DIRTY, 0);
    assert_eq!(ram.entry(LEVEL_1) & DIRTY, DIRTY);
    assert_eq!(ram.entry(LEVEL_1 + 8) & (ACCESSED | DIRTY), 0);
}

#[test]
fn a_write_that_faults_leaves_the_page_clean() {
    let ram = ram();
    clear(&ram, LEVEL_1, WRITABLE);
    assert_eq!(long_mode(&ram).translate(ADDRESS, Write), fault(P | W));
    assert_eq!(ram.entry(LEVEL_1) & DIRTY, 0);
}

#[test]
fn a_table_outside_ram_is_reported() {
    let ram = ram();
    ram.set_entry(PML4, 0x4000_0000 | PRESENT);
    let error = Err(Cause::NotRam(0x4000_0000).into());
    assert_eq!(long_mode(&ram).translate(ADDRESS, Read), error);
}
