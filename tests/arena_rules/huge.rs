//! Rules: frames come in two sizes, and a huge one stays whole only if it is moved with care.

use gmem_core::page::{BLOCK_PAGES, BLOCK_SIZE, PAGE_SIZE};
use gmem_vmm::memory::reserve::Backing;
use gmem_vmm::memory::userfault::{Features, Mode, Reading, Waking};

use crate::support::{
    Rig, assert_filled, fill, huge_bytes, kib, make_huge, open, put, reserve, resident, whole,
};

#[test]
fn a_huge_page_moves_whole_into_a_block_that_was_never_touched() {
    let rig = Rig::new(2, Backing::Huge);
    make_huge(&rig.arena, 1);
    assert_eq!(rig.bring(512, 0, 512), whole(512));
    assert_eq!(kib(&rig.guest, "AnonHugePages"), 2048);
    assert_eq!(kib(&rig.arena, "AnonHugePages"), 0);
    for n in 0..BLOCK_PAGES {
        assert_filled(rig.page(n), n, 1);
    }
    assert_eq!(rig.evict(0, 0, 512), whole(512));
    assert_eq!(kib(&rig.arena, "AnonHugePages"), 2048);
}

#[test]
fn a_huge_page_stays_whole_in_an_area_that_khugepaged_passes_over() {
    let uffd = open(Reading::Polled, Features::default());
    let guest = reserve(1, Backing::Small);
    let arena = reserve(1, Backing::Huge);
    uffd.register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
        .expect("register");
    uffd.register(arena.start(), arena.len(), Mode::WriteProtect)
        .expect("register");
    make_huge(&arena, 0);
    let moved = uffd.move_pages(guest.start(), arena.start(), BLOCK_SIZE, Waking::Now);
    assert_eq!(moved, whole(BLOCK_PAGES));
    assert_eq!(kib(&guest, "AnonHugePages"), 2048);
}

#[test]
fn moving_4_kib_out_of_a_huge_page_splits_it() {
    let rig = Rig::new(2, Backing::Huge);
    make_huge(&rig.arena, 0);
    assert_eq!(rig.bring(0, 0, 512), whole(512));
    assert_eq!(kib(&rig.guest, "AnonHugePages"), 2048);
    assert_eq!(rig.evict(5, 512, 1), whole(1));
    assert_eq!(kib(&rig.guest, "AnonHugePages"), 0);
    assert_eq!(
        resident(rig.page(0), BLOCK_SIZE),
        BLOCK_SIZE - PAGE_SIZE,
        "the other pages stay"
    );
    // Brought back, the block is full but no longer huge.
    assert_eq!(rig.bring(512, 5, 1), whole(1));
    assert_eq!(kib(&rig.guest, "AnonHugePages"), 0);
    for n in 0..BLOCK_PAGES {
        assert_filled(rig.page(n), n, 0);
    }
}

#[test]
fn a_huge_page_stays_whole_in_an_emptied_block_after_discard() {
    let rig = Rig::new(3, Backing::Huge);
    let empty_the_block = || {
        rig.arena
            .set_backing(2 * BLOCK_SIZE, BLOCK_SIZE, Backing::Small)
            .expect("MADV_NOHUGEPAGE");
        put(rig.slot(1024), 1);
        assert_eq!(rig.bring(1024, 3, 1), whole(1));
        assert_eq!(rig.evict(3, 1024, 1), whole(1));
        assert_eq!(rig.runs(rig.page(0), 512), []);
    };
    // The danger: the emptied block's page table is still there. Kernels differ in what they make of it.
    empty_the_block();
    make_huge(&rig.arena, 0);
    assert_eq!(rig.bring(0, 0, 512), whole(512));
    match huge_bytes(rig.page(0), BLOCK_SIZE) {
        0 => println!("this kernel splits a huge page that meets an empty page table"),
        BLOCK_SIZE => println!("this kernel keeps a huge page that meets an empty page table"),
        other => panic!("{other} bytes of a block are huge"),
    }
    for n in 0..BLOCK_PAGES {
        assert_filled(rig.page(n), n, 0);
    }
    assert_eq!(rig.evict(0, 0, 512), whole(512));
    rig.arena.discard(0, BLOCK_SIZE).expect("discard");

    // The rule: drop the empty table first.
    empty_the_block();
    make_huge(&rig.arena, 1);
    rig.guest.discard(0, BLOCK_SIZE).expect("discard");
    assert_eq!(rig.bring(512, 0, 512), whole(512));
    assert_eq!(huge_bytes(rig.page(0), BLOCK_SIZE), BLOCK_SIZE);
    assert_eq!(kib(&rig.guest, "AnonHugePages"), 2048);
    for n in 0..BLOCK_PAGES {
        assert_filled(rig.page(n), n, 1);
    }
}

#[test]
fn counters_of_frames_cannot_tell_a_split_block_from_a_whole_one() {
    let rig = Rig::new(1, Backing::Small);
    fill(rig.slot(0), 512, 0);
    assert_eq!(rig.bring(0, 0, 512), whole(512));
    assert_eq!(resident(rig.page(0), BLOCK_SIZE), BLOCK_SIZE);
    assert_eq!(kib(&rig.guest, "AnonHugePages"), 0);
}
