//! Rule: frames are created by writing, in the size of their area, and filled whole when recycled.

use gmem_core::mmu::Obstacle;
use gmem_core::page::{BLOCK_SIZE, PAGE_SIZE};
use gmem_vmm::memory::reserve::Backing;

use crate::support::{
    Access, Rig, assert_filled, fill, get, kib, put, readable, reading, reserve, resident, stopped,
    until, vm_flags, whole, word_of,
};
use std::time::Duration;

#[test]
fn arena_slots_are_created_by_writing_without_an_event() {
    let rig = Rig::new(1, Backing::Small);
    let slot = rig.slot(3);
    Access::start(move || put(slot, 7)).result();
    assert!(!rig.has_event(), "the arena raised an event");
    assert_eq!(resident(rig.arena.start(), rig.arena.len()), PAGE_SIZE);
}

#[test]
fn guest_pages_raise_an_event_that_names_page_thread_and_access() {
    let rig = Rig::new(1, Backing::Small);
    let address = rig.page(5) + 264;
    let access = Access::start(move || {
        put(address, 9);
        // SAFETY: `gettid` has no preconditions.
        unsafe { libc::gettid() }
    });
    let event = rig.event();
    assert_eq!(event.address, rig.page(5));
    assert!(event.write);
    assert!(!event.write_protected);
    put(rig.slot(0), 1);
    assert_eq!(rig.bring(0, 5, 1), whole(1));
    assert_eq!(event.thread as i32, access.result());
}

#[test]
fn a_slot_created_by_reading_is_the_zero_page_and_brings_an_uncounted_frame() {
    let rig = Rig::new(1, Backing::Small);
    assert_eq!(get(rig.slot(0)), 0);
    let created = rig.runs(rig.slot(0), 1);
    assert!(created[0].zero, "reading made {created:?}");
    assert_eq!(kib(&rig.arena, "Anonymous"), 0);

    assert_eq!(rig.bring(0, 0, 1), whole(1));
    assert!(rig.runs(rig.page(0), 1)[0].zero);
    // The guest's write makes the kernel allocate, behind the frame counter's back and without an event.
    let page = rig.page(0);
    Access::start(move || put(page, 5)).result();
    assert!(!rig.has_event());
    assert_eq!(kib(&rig.guest, "Anonymous"), 4);
}

#[test]
fn a_slot_created_by_writing_is_counted_once_wherever_it_is() {
    let rig = Rig::new(1, Backing::Small);
    put(rig.slot(0), 0);
    assert!(!rig.runs(rig.slot(0), 1)[0].zero);
    assert_eq!(kib(&rig.arena, "Anonymous"), 4);

    assert_eq!(rig.bring(0, 0, 1), whole(1));
    assert_eq!(kib(&rig.arena, "Anonymous"), 0);
    assert_eq!(kib(&rig.guest, "Anonymous"), 4);
    put(rig.page(0), 5);
    assert_eq!(kib(&rig.guest, "Anonymous"), 4);
}

#[test]
fn a_source_hole_is_an_obstacle_and_never_becomes_a_page() {
    let rig = Rig::new(1, Backing::Small);
    assert_eq!(rig.bring(0, 0, 1), stopped(0, Obstacle::Absent));
    assert_eq!(rig.runs(rig.page(0), 1), []);
    let access = reading(rig.page(0));
    assert_eq!(rig.event().address, rig.page(0));
    put(rig.slot(1), 11);
    assert_eq!(rig.bring(1, 0, 1), whole(1));
    assert_eq!(access.result(), 11);
}

#[test]
fn bytes_survive_a_recycled_frame_unless_it_is_filled_whole() {
    let rig = Rig::new(1, Backing::Small);
    fill(rig.slot(0), 1, 1);
    assert_eq!(rig.bring(0, 0, 1), whole(1));
    assert_eq!(rig.evict(0, 9, 1), whole(1));
    // One word is new, the other 511 are what the last owner left there.
    put(rig.slot(9), 77);
    assert_eq!(rig.bring(9, 4, 1), whole(1));
    assert_eq!(get(rig.page(4)), 77);
    for word in 1..PAGE_SIZE / 8 {
        assert_eq!(get(rig.page(4) + word * 8), word_of(1, 0, word));
    }

    assert_eq!(rig.evict(4, 2, 1), whole(1));
    fill(rig.slot(2), 1, 2);
    assert_eq!(rig.bring(2, 0, 1), whole(1));
    assert_filled(rig.page(0), 0, 2);
}

#[test]
fn one_byte_makes_4_kib_in_a_small_area_and_2_mib_in_a_huge_one() {
    let small = Rig::new(1, Backing::Small);
    put(small.slot(0), 1);
    assert_eq!(resident(small.arena.start(), BLOCK_SIZE), PAGE_SIZE);

    let huge = Rig::new(1, Backing::Huge);
    // Where memory is fragmented the kernel falls back to 4 KiB: a block that is dropped tries again.
    until("one byte makes 2 MiB", || {
        huge.arena.discard(0, BLOCK_SIZE).expect("discard");
        put(huge.slot(0), 1);
        resident(huge.arena.start(), BLOCK_SIZE) == BLOCK_SIZE
    });
}

#[test]
fn khugepaged_passes_over_small_areas() {
    let rig = Rig::new(1, Backing::Small);
    for address in [rig.page(0), rig.slot(0)] {
        let flags = vm_flags(address);
        assert!(flags.iter().any(|flag| flag == "nh"), "flags {flags:?}");
        assert!(!flags.iter().any(|flag| flag == "hg"), "flags {flags:?}");
    }
}

#[test]
fn collapsing_cannot_grow_a_small_area_but_grows_an_unarmed_huge_one() {
    let small = Rig::new(1, Backing::Small);
    put(small.slot(0), 1);
    assert!(collapse(small.slot(0)).is_err());
    assert_eq!(resident(small.arena.start(), BLOCK_SIZE), PAGE_SIZE);

    // Why: 4 KiB became 2 MiB, that nobody had reserved.
    let plain = reserve(1, Backing::Small);
    put(plain.start(), 1);
    plain
        .set_backing(0, BLOCK_SIZE, Backing::Huge)
        .expect("MADV_HUGEPAGE");
    collapse(plain.start()).expect("MADV_COLLAPSE of a block that no userfaultfd watches");
    assert_eq!(resident(plain.start(), BLOCK_SIZE), BLOCK_SIZE);
}

fn collapse(block: usize) -> std::io::Result<()> {
    let advice = 25; // MADV_COLLAPSE
    // SAFETY: the range is one block of a live reservation; collapsing keeps its bytes.
    match unsafe { libc::madvise(block as *mut libc::c_void, BLOCK_SIZE, advice) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn a_range_that_is_only_reserved_has_no_events_and_no_frames() {
    let rig = Rig::new(4, Backing::Small);
    assert!(!readable(&rig.uffd, Duration::ZERO));
    assert_eq!(rig.runs(rig.page(0), 2048), []);
    assert!(rig.guest.start().is_multiple_of(BLOCK_SIZE));
    assert!(rig.arena.start().is_multiple_of(BLOCK_SIZE));
}
