//! Rule: when memory is armed, what is present is adopted: the page map finds all of it.

use gmem_core::page::{BLOCK_SIZE, PAGE_SIZE};
use gmem_vmm::memory::reserve::Backing;
use gmem_vmm::memory::userfault::{Features, Mode, Reading, Waking};

use crate::support::{
    Rig, assert_filled, fill, get, make_huge, open, put, reading, reserve, runs, whole,
};

#[test]
fn pages_that_are_present_when_memory_is_armed_raise_no_event_and_are_all_found() {
    let guest: &'static _ = Box::leak(Box::new(reserve(2, Backing::Small)));
    let page = |n: usize| guest.start() + n * PAGE_SIZE;
    let present = [0, 1, 2, 7, 511, 512, 700, 1023];
    for n in present {
        fill(page(n), 1, n as u64);
    }
    let uffd = open(Reading::Polled, Features::default());
    uffd.register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
        .expect("register");
    let found: Vec<_> = runs(guest.start(), guest.len())
        .iter()
        .flat_map(|run| (run.start..run.start + run.len).step_by(PAGE_SIZE))
        .map(|address| (address - guest.start()) / PAGE_SIZE)
        .collect();
    assert_eq!(found, present);
    // Adopted pages are read without an event, and can be evicted.
    assert_eq!(reading(page(7)).result(), get(page(7)));
    let arena = reserve(2, Backing::Small);
    uffd.register(arena.start(), arena.len(), Mode::WriteProtect)
        .expect("register");
    let moved = uffd.move_pages(arena.start(), page(0), 3 * PAGE_SIZE, Waking::Now);
    assert_eq!(moved, whole(3));
    for n in 0..3 {
        assert_filled(arena.start() + n * PAGE_SIZE, 0, n as u64);
    }
}

#[test]
fn a_scan_of_more_runs_than_one_call_returns_is_complete() {
    let rig = Rig::new(8, Backing::Small);
    let pages = rig.arena.len() / PAGE_SIZE;
    for n in (0..pages).step_by(2) {
        put(rig.slot(n), 1);
    }
    let found = runs(rig.arena.start(), rig.arena.len());
    assert_eq!(found.len(), pages / 2);
    for (index, run) in found.iter().enumerate() {
        assert_eq!((run.start, run.len), (rig.slot(2 * index), PAGE_SIZE));
        assert!(!run.huge && !run.zero && !run.swapped && run.written);
    }
}

#[test]
fn neighbouring_pages_are_one_run_and_unlike_ones_are_not() {
    let rig = Rig::new(4, Backing::Huge);
    make_huge(&rig.arena, 1);
    rig.arena
        .set_backing(2 * BLOCK_SIZE, 2 * BLOCK_SIZE, Backing::Small)
        .expect("MADV_NOHUGEPAGE");
    fill(rig.slot(1024), 600, 1);
    assert_eq!(get(rig.slot(1624)), 0);
    let found = runs(rig.arena.start(), rig.arena.len());
    let kinds: Vec<_> = found
        .iter()
        .map(|run| {
            (
                (run.start - rig.slot(0)) / PAGE_SIZE,
                run.len / PAGE_SIZE,
                run.huge,
                run.zero,
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [
            (512, 512, true, false),
            (1024, 600, false, false),
            (1624, 1, false, true)
        ]
    );
}

#[test]
fn a_scan_of_part_of_a_range_keeps_to_it() {
    let rig = Rig::new(1, Backing::Small);
    fill(rig.slot(0), 20, 1);
    let found = runs(rig.slot(5), 10 * PAGE_SIZE);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].start, found[0].len),
        (rig.slot(5), 10 * PAGE_SIZE)
    );
}
