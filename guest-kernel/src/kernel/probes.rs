//! The workloads that test a monitor's error paths. The first CPU to come here runs them.

use super::console::print;
use super::cpu;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use gmem_wire::layout::{MMIO_END, MMIO_START};
use guest_kernel::clock::cycles;
use guest_kernel::memory::{PAGE_SIZE, WorkingSet};
use guest_kernel::pattern::Mismatch;
use guest_kernel::plan::{Plan, Workload};
use guest_kernel::work::tally::Tally;

const BLOCK: u64 = 2 << 20;
/// Where RAM is not, if the microVM has less than 2 GiB.
const FAR: u64 = 2 << 30;
/// Of a page table's entry: present, writable, open to CPL3; in a page directory: 2 MiB.
const TABLE: u64 = 0x07;
const LARGE: u64 = 0x87;

/// Runs the plan's workload if it is one of these, on every CPU.
pub fn run(plan: &Plan, set: &WorkingSet, ram_end: u64, tally: &mut Tally) {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    let first = TAKEN.fetch_add(1, Relaxed) == 0;
    match plan.workload {
        Workload::Spin => loop {
            spin_loop();
        },
        Workload::Wild { at } if first => wild(at.unwrap_or_else(|| beyond(ram_end))),
        Workload::Triple if first => cpu::triple_fault(),
        Workload::Hlt0 { pages } if first => {
            at_cpl0(set, pages.unwrap_or(u64::MAX).min(set.pages()), tally);
        }
        _ => {}
    }
}

/// An address without RAM that is not in the hole for devices.
fn beyond(ram_end: u64) -> u64 {
    let after = ram_end.max(FAR).next_multiple_of(BLOCK);
    if (MMIO_START..MMIO_END).contains(&after) {
        MMIO_END
    } else {
        after
    }
}

/// Writes to `address`, which is not RAM. A monitor should end the microVM.
fn wild(address: u64) {
    map(address);
    // SAFETY: mapped now; that nothing is there is the point of it.
    unsafe { (address as *mut u64).write_volatile(0x6d65_6d67) };
    print!("guest: wild: the write to {address:#x} went unnoticed\n");
}

/// Maps the 2 MiB block around `address` to itself if nothing is mapped there. The page tables are open to
/// CPL3, and what was absent is in no TLB.
fn map(address: u64) {
    #[repr(align(4096))]
    struct Table([AtomicU64; 512]);
    static SPARE: [Table; 2] = [const { Table([const { AtomicU64::new(0) }; 512]) }; 2];

    let mut table = cpu::page_tables();
    for (level, spare) in [(39, 0), (30, 1)] {
        let entry = (table + ((address >> level) & 511) * 8) as *mut u64;
        // SAFETY: an entry of the page tables in use, which are identity-mapped.
        unsafe {
            if entry.read_volatile() & 1 == 0 {
                entry.write_volatile(SPARE[spare].0.as_ptr() as u64 | TABLE);
            }
            table = entry.read_volatile() & 0x000f_ffff_ffff_f000;
        }
    }
    let entry = (table + ((address >> 21) & 511) * 8) as *mut u64;
    // SAFETY: as above.
    unsafe {
        if entry.read_volatile() & 1 == 0 {
            entry.write_volatile((address / BLOCK * BLOCK) | LARGE);
        }
    }
}

/// Writes and reads one word of each of the first `pages` pages at CPL0, then checks them at CPL3: faults then
/// come from KVM's emulator where it emulates CPL0, and from a CPL0 guest elsewhere.
fn at_cpl0(set: &WorkingSet, pages: u64, tally: &mut Tally) {
    let start = cycles();
    for_each_run(set, pages, |address, count| {
        // SAFETY: the pages are the working set's, and nobody else uses them now.
        unsafe { cpu::store_at_cpl0(address, count) };
    });
    let mut sum = 0u64;
    for_each_run(set, pages, |address, count| {
        // SAFETY: as above.
        sum = sum.wrapping_add(unsafe { cpu::sum_at_cpl0(address, count) });
    });
    tally.timed_cycles = cycles().saturating_sub(start);
    tally.ops = 2 * pages;
    let mut expected_sum = 0u64;
    for index in 0..pages {
        let (address, found) = (set.address(index), set.page(index)[0].load(Relaxed));
        expected_sum = expected_sum.wrapping_add(address);
        check(tally, address, address, found);
    }
    check(tally, set.address(0), expected_sum, sum);
}

/// Calls `action` with first address and length, in pages, of each run of adjacent pages.
fn for_each_run(set: &WorkingSet, pages: u64, mut action: impl FnMut(u64, u64)) {
    let mut first = 0;
    for index in 1..=pages {
        if index == pages || set.address(index) != set.address(index - 1) + PAGE_SIZE {
            action(set.address(first), index - first);
            first = index;
        }
    }
}

fn check(tally: &mut Tally, address: u64, expected: u64, found: u64) {
    tally.compared += 8;
    if found != expected {
        tally.mismatch(Mismatch {
            address,
            expected,
            found,
        });
    }
}
