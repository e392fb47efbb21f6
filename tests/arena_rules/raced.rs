//! Rule: what a move has moved is counted, also where faults on its destination race with it.
//!
//! Linux 6.18 then reports `EEXIST` for pages that it has just moved. Faults of vCPUs bring this about now and then:
//! see the blocks of 2 MiB with two vCPUs in `tests/oversubscribed.rs`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gmem_core::mmu::{Moved, Obstacle};
use gmem_core::page::{BLOCK_PAGES, BLOCK_SIZE, PAGE_SIZE};
use gmem_vmm::memory::reserve::Backing;
use gmem_vmm::memory::userfault::Waking;

use crate::support::{Access, Rig, get, put, until, whole};

/// How long blocks are moved.
const LONG: Duration = Duration::from_secs(3);
/// Threads that touch the block.
const TOUCHERS: usize = 2;

/// Moves a block, again from where it was stopped while the kernel is busy with one of its pages, and wakes
/// who waits for it; how often that was.
fn move_whole(rig: &Rig, to: usize, from: usize) -> usize {
    let (mut done, mut busy) = (0, 0);
    until("the block is moved", || {
        let at = done * PAGE_SIZE;
        let Moved { pages, stopped } =
            rig.uffd
                .move_pages(to + at, from + at, BLOCK_SIZE - at, Waking::Later);
        done += pages;
        match stopped {
            None => true,
            Some(Obstacle::Busy) => {
                busy += 1;
                false
            }
            Some(other) => panic!("page {done} of a block that is all there: {other:?}"),
        }
    });
    assert_eq!(done, BLOCK_PAGES);
    busy
}

/// Adds one to the words of pages at random, one of each `TOUCHERS` pages, until the end; how often it did to
/// each.
fn touch(rig: &Rig, who: usize, end: &AtomicBool, touched: &AtomicU64) -> Vec<u64> {
    let mut counts = vec![0; BLOCK_PAGES];
    let mut random = 0x9e37_79b9_7f4a_7c15 + who as u64;
    while !end.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let n = random as usize % (BLOCK_PAGES / TOUCHERS) * TOUCHERS + who;
        let word = rig.page(n);
        let found = get(word);
        assert_eq!(found, counts[n], "page {n}");
        // Another page's move may lie between the two.
        put(word, found + 1);
        counts[n] += 1;
        touched.fetch_add(1, Ordering::Relaxed);
    }
    counts
}

/// Moves a block there and back while threads touch it. With `discard` each move finds no page table at its
/// destination, as gmem makes it; without, the page table is there.
fn move_while_touched(backing: Backing, discard: bool) {
    let rig = Rig::new(1, backing);
    for n in 0..BLOCK_PAGES {
        put(rig.slot(n), 0);
    }
    let (guest, arena) = (rig.page(0), rig.slot(0));
    static STATE: [(AtomicBool, AtomicU64); 4] =
        [const { (AtomicBool::new(false), AtomicU64::new(0)) }; 4];
    let (end, touched) = &STATE[usize::from(discard) * 2 + usize::from(backing == Backing::Huge)];
    let touchers: Vec<_> = (0..TOUCHERS)
        .map(|who| Access::start(move || touch(rig, who, end, touched)))
        .collect();

    let began = Instant::now();
    let (mut rounds, mut busy) = (0, 0);
    while began.elapsed() < LONG / 4 {
        for (to, from, reservation) in [(guest, arena, &rig.guest), (arena, guest, &rig.arena)] {
            if discard {
                reservation.discard(0, BLOCK_SIZE).expect("discard");
            }
            busy += move_whole(rig, to, from);
            rig.uffd.wake(guest, BLOCK_SIZE).expect("wake");
        }
        rounds += 1;
    }
    end.store(true, Ordering::Relaxed);
    let _ = move_whole(rig, guest, arena);
    rig.uffd.wake(guest, BLOCK_SIZE).expect("wake");
    let counts: Vec<_> = touchers.into_iter().map(Access::result).collect();
    for n in 0..BLOCK_PAGES {
        assert_eq!(get(rig.page(n)), counts[n % TOUCHERS][n], "page {n}");
    }
    let touched = touched.load(Ordering::Relaxed);
    println!("{backing:?}, discard {discard}: {rounds} rounds, busy {busy}, {touched} touches");
    assert!(rounds > 10 && touched > 10, "{rounds} rounds, {touched}");
    assert_eq!(rig.evict(0, 0, BLOCK_PAGES), whole(BLOCK_PAGES));
}

#[test]
fn a_block_that_is_moved_while_it_is_touched_is_counted_whole() {
    for backing in [Backing::Small, Backing::Huge] {
        for discard in [true, false] {
            move_while_touched(backing, discard);
        }
    }
}
