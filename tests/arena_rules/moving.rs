//! Rules: both ends registered alike, mlock on both or neither, and a cluster's move goes around obstacles.

use gmem_core::mmu::{Moved, Obstacle};
use gmem_core::page::PAGE_SIZE;
use gmem_vmm::memory::reserve::{Backing, Reservation};
use gmem_vmm::memory::userfault::{Features, Mode, Reading, Waking};

use crate::support::{Rig, assert_filled, fill, get, open, put, reserve, resident, stopped, whole};

const REFUSED: Obstacle = Obstacle::Failed(libc::EINVAL);

#[test]
fn a_move_to_a_range_of_another_userfaultfd_or_of_none_is_refused() {
    let one = open(Reading::Polled, Features::default());
    let other = open(Reading::Polled, Features::default());
    let guest = reserve(1, Backing::Small);
    let arena = reserve(1, Backing::Small);
    put(arena.start(), 3);
    let bring = || one.move_pages(guest.start(), arena.start(), PAGE_SIZE, Waking::Now);
    let evict = || one.move_pages(arena.start(), guest.start(), PAGE_SIZE, Waking::Now);

    assert_eq!(bring(), stopped(0, REFUSED), "guest not registered");
    one.register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
        .expect("register");
    // Newer kernels look at the destination's registration only. That suffices to bring pages, and would
    // be found out at the first eviction.
    let mut brought = bring();
    if brought == stopped(0, REFUSED) {
        println!("this kernel wants the source of a move registered as well");
        one.register(arena.start(), arena.len(), Mode::WriteProtect)
            .expect("register");
        brought = bring();
        one.unregister(arena.start(), arena.len())
            .expect("unregister");
    }
    assert_eq!(brought, whole(1));
    assert_eq!(evict(), stopped(0, REFUSED), "arena not registered");
    other
        .register(arena.start(), arena.len(), Mode::WriteProtect)
        .expect("register");
    assert_eq!(evict(), stopped(0, REFUSED), "arena of another userfaultfd");
    other
        .unregister(arena.start(), arena.len())
        .expect("unregister");
    one.register(arena.start(), arena.len(), Mode::WriteProtect)
        .expect("register");
    assert_eq!(evict(), whole(1));
    assert_eq!(bring(), whole(1));
    assert_eq!(get(guest.start()), 3);
}

#[test]
fn a_range_of_one_userfaultfd_cannot_be_registered_with_another() {
    let rig = Rig::new(1, Backing::Small);
    let other = open(Reading::Polled, Features::default());
    let error = other
        .register(rig.page(0), rig.guest.len(), Mode::MissingAndWriteProtect)
        .expect_err("registered twice");
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
}

#[test]
fn a_cluster_stops_at_a_present_page_with_the_pages_done() {
    let rig = Rig::new(1, Backing::Small);
    fill(rig.slot(0), 64, 1);
    put(rig.slot(100), 99);
    assert_eq!(rig.bring(100, 10, 1), whole(1));
    assert_eq!(rig.bring(0, 0, 64), stopped(10, Obstacle::Present));
    assert_eq!(rig.bring(10, 10, 54), stopped(0, Obstacle::Present));
    assert_eq!(rig.bring(11, 11, 53), whole(53));
    assert_eq!(get(rig.page(10)), 99);
}

#[test]
fn a_cluster_stops_at_a_source_hole_with_the_pages_done() {
    let rig = Rig::new(1, Backing::Small);
    fill(rig.slot(0), 20, 1);
    fill(rig.slot(21), 43, 1);
    assert_eq!(rig.bring(0, 0, 64), stopped(20, Obstacle::Absent));
    assert_eq!(rig.bring(21, 21, 43), whole(43));
}

#[test]
fn skipping_one_page_at_each_obstacle_moves_all_the_rest_with_every_byte_right() {
    let rig = Rig::new(2, Backing::Small);
    let pages = 512;
    let hole = |n: usize| n % 37 == 5 || n == pages - 1;
    let present = |n: usize| n % 41 == 7 || n == 0 || n % 37 == 6;
    for n in 0..pages {
        if !hole(n) {
            fill(rig.slot(n), 1, n as u64);
        }
        if present(n) {
            fill(rig.slot(600), 1, 1_000 + n as u64);
            assert_eq!(rig.bring(600, n, 1), whole(1));
        }
    }
    let mut skipped = Vec::new();
    let mut at = 0;
    while at < pages {
        let Moved {
            pages: done,
            stopped,
        } = rig.bring(at, at, pages - at);
        at += done;
        match stopped {
            None => assert_eq!(at, pages),
            Some(obstacle) => {
                skipped.push((at, obstacle));
                at += 1;
            }
        }
    }
    for &(n, obstacle) in &skipped {
        match obstacle {
            Obstacle::Present => assert!(present(n), "page {n}"),
            Obstacle::Absent => assert!(hole(n), "page {n}"),
            other => panic!("page {n}: {other:?}"),
        }
    }
    assert_eq!(
        skipped.len(),
        (0..pages).filter(|&n| hole(n) || present(n)).count()
    );
    for n in 0..pages {
        if present(n) {
            assert_filled(rig.page(n), 0, 1_000 + n as u64);
        } else if hole(n) {
            assert_eq!(rig.runs(rig.page(n), 1), []);
        } else {
            assert_filled(rig.page(n), 0, n as u64);
            assert_eq!(rig.runs(rig.slot(n), 1), [], "slot {n} is not empty");
        }
    }
}

#[test]
fn moving_there_and_back_leaves_as_many_frames_as_before() {
    let rig = Rig::new(1, Backing::Small);
    fill(rig.slot(0), 512, 4);
    for _ in 0..10 {
        assert_eq!(rig.bring(0, 0, 512), whole(512));
        assert_eq!(resident(rig.arena.start(), rig.arena.len()), 0);
        assert_eq!(rig.evict(0, 0, 512), whole(512));
        assert_eq!(resident(rig.guest.start(), rig.guest.len()), 0);
    }
    for n in 0..512 {
        assert_filled(rig.slot(n), n, 4);
    }
}

#[test]
fn mlock_of_one_side_refuses_moves_and_of_both_allows_them() {
    let rig = Rig::new(1, Backing::Small);
    put(rig.slot(0), 6);
    lock(&rig.guest);
    assert_eq!(rig.bring(0, 0, 1), stopped(0, REFUSED));
    lock(&rig.arena);
    assert_eq!(rig.bring(0, 0, 1), whole(1));
    assert_eq!(rig.evict(0, 1, 1), whole(1));
    unlock(&rig.guest);
    assert_eq!(rig.bring(1, 0, 1), stopped(0, REFUSED));
    unlock(&rig.arena);
    assert_eq!(rig.bring(1, 0, 1), whole(1));
    assert_eq!(get(rig.page(0)), 6);
}

/// Locks what will be there, without bringing in what is not: that would raise events.
fn lock(range: &Reservation) {
    // SAFETY: locks pages of a live reservation; changes no bytes.
    let done = unsafe {
        libc::mlock2(
            range.as_ptr().cast(),
            range.len(),
            libc::MLOCK_ONFAULT as libc::c_uint,
        )
    };
    let error = std::io::Error::last_os_error();
    assert_eq!(
        done, 0,
        "mlock of 2 MiB: {error}; raise the limit (ulimit -l)"
    );
}

fn unlock(range: &Reservation) {
    // SAFETY: as in `lock`.
    let done = unsafe { libc::munlock(range.as_ptr().cast(), range.len()) };
    assert_eq!(done, 0);
}
