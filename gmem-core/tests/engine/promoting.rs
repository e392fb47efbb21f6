//! Full blocks become one frame, within the budget, and leave and come back as one.

use crate::simulated::{Bench, bench, hbm};
use crate::{touch, verify_all, write_all};
use gmem_core::engine::Destination;
use gmem_core::mmu::Promoted;
use gmem_core::page::{PageNo, PageRange, Unit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn word(page: u64) -> u64 {
    page + 100
}

fn promotions(bench: &Bench) -> u64 {
    bench.engine.snapshot().promotions
}

const FIRST: PageRange = PageRange {
    start: PageNo(0),
    pages: 512,
};

/// A guest whose first block is full, of four, with room for three and a half.
fn with_full_block() -> Bench {
    let bench = bench(4 * 512, 3 * 512 + 256, Unit::Page, vec![hbm(4 * 512)]);
    write_all(&bench, 512, word);
    bench
}

#[test]
fn a_full_block_becomes_one_frame_and_nothing_else_changes() {
    let bench = with_full_block();
    let before = bench.engine.arena().existing();
    assert!(bench.engine.promote(PageNo(77)).unwrap());
    let snapshot = bench.engine.snapshot();
    assert_eq!((snapshot.promotions, snapshot.huge_bytes), (1, 2 << 20));
    assert!(bench.engine.arena().existing() <= before);
    bench.audit();
    assert!(
        !bench.engine.promote(PageNo(77)).unwrap(),
        "it is one already"
    );
    verify_all(&bench, 512, word);
}

#[test]
fn a_block_with_a_hole_or_a_pin_stays_as_it_is() {
    let bench = with_full_block();
    let one = PageRange::new(PageNo(9), 1);
    bench.engine.set_pinned(one, true).unwrap();
    assert!(!bench.engine.promote(PageNo(0)).unwrap());
    bench.engine.set_pinned(one, false).unwrap();
    bench.engine.migrate(one, Destination::Staged).unwrap();
    assert!(!bench.engine.promote(PageNo(0)).unwrap());
    touch(&bench, 9);
    assert!(bench.engine.promote(PageNo(0)).unwrap());
    bench.audit();
}

#[test]
fn without_room_for_two_copies_a_block_stays_as_it_is() {
    let bench = bench(2 * 512, 600, Unit::Page, vec![hbm(2 * 512)]);
    write_all(&bench, 512, word);
    assert!(!bench.engine.promote(PageNo(0)).unwrap());
    bench.audit();
    verify_all(&bench, 512, word);
    assert!(bench.engine.arena().peak() <= 600);
}

#[test]
fn what_the_host_refuses_leaves_the_block_as_it_was() {
    let bench = with_full_block();
    for refusal in [Promoted::NotNow, Promoted::NotOffered] {
        *bench.guest.promotes.lock().unwrap() = refusal;
        assert!(!bench.engine.promote(PageNo(0)).unwrap());
        assert_eq!(bench.engine.snapshot().huge_bytes, 0);
        bench.audit();
    }
    verify_all(&bench, 512, word);
}

#[test]
fn a_promoted_block_is_staged_and_rescued_whole_and_split_after_a_few_times() {
    let bench = with_full_block();
    assert!(bench.engine.promote(PageNo(0)).unwrap());
    let mut whole = 0;
    while bench.engine.snapshot().splits == 0 {
        bench.engine.migrate(FIRST, Destination::Staged).unwrap();
        assert!((0..512).all(|page| !bench.guest.is_present(PageNo(page))));
        touch(&bench, 300);
        assert!((0..512).all(|page| bench.guest.is_present(PageNo(page))));
        bench.audit();
        whole += 1;
        assert!(whole < 10, "it is never split");
    }
    assert!(whole > 1, "once is no pattern");
    assert_eq!(bench.engine.snapshot().huge_bytes, 0);
    verify_all(&bench, 512, word);
    assert!(
        bench.engine.promote(PageNo(0)).unwrap(),
        "and may be one again"
    );
}

#[test]
fn a_frame_that_a_block_left_becomes_the_next_block_s() {
    let bench = bench(4 * 512, 4 * 512, Unit::Page, vec![hbm(4 * 512)]);
    write_all(&bench, 1024, word);
    assert!(bench.engine.promote(PageNo(0)).unwrap());
    bench.engine.migrate(FIRST, Destination::Tier(1)).unwrap();
    assert!(bench.engine.arena().has_free_block());
    let (existing, discarded) = (
        bench.engine.arena().existing(),
        bench.guest.discarded.load(Ordering::SeqCst),
    );
    // The host is not asked.
    *bench.guest.promotes.lock().unwrap() = Promoted::NotOffered;
    assert!(bench.engine.promote(PageNo(512)).unwrap());
    assert_eq!(bench.engine.arena().existing(), existing - 512);
    assert_eq!(bench.guest.discarded.load(Ordering::SeqCst), discarded + 1);
    assert!(!bench.engine.arena().has_free_block());
    assert_eq!(bench.engine.snapshot().huge_bytes, 2 << 20);
    bench.audit();
    verify_all(&bench, 1024, word);
    bench.audit();
}

#[test]
fn a_block_that_cannot_be_protected_keeps_its_frames() {
    let bench = bench(4 * 512, 4 * 512, Unit::Page, vec![hbm(4 * 512)]);
    write_all(&bench, 1024, word);
    assert!(bench.engine.promote(PageNo(0)).unwrap());
    bench.engine.migrate(FIRST, Destination::Tier(1)).unwrap();
    bench.guest.protects.store(false, Ordering::SeqCst);
    *bench.guest.promotes.lock().unwrap() = Promoted::NotNow;
    assert!(!bench.engine.promote(PageNo(512)).unwrap());
    assert!(bench.engine.arena().has_free_block(), "for the next one");
    bench.audit();
    verify_all(&bench, 1024, word);
}

#[test]
fn a_part_that_is_given_back_splits_the_block_and_leaves_the_rest() {
    let bench = with_full_block();
    assert!(bench.engine.promote(PageNo(0)).unwrap());
    bench.engine.free(PageRange::new(PageNo(10), 3)).unwrap();
    let snapshot = bench.engine.snapshot();
    assert_eq!((snapshot.splits, snapshot.huge_bytes), (1, 0));
    let kept = |page| {
        if (10..13).contains(&page) {
            0
        } else {
            word(page)
        }
    };
    verify_all(&bench, 512, kept);
    bench.audit();
}

#[test]
fn the_background_thread_promotes_what_has_stayed() {
    let bench = with_full_block();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        let deadline = Instant::now() + Duration::from_secs(20);
        while promotions(&bench) == 0 {
            assert!(Instant::now() < deadline, "nothing is promoted");
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
    });
    bench.audit();
    verify_all(&bench, 512, word);
    assert!(bench.engine.arena().peak() <= 3 * 512 + 256);
}

#[test]
fn no_update_is_lost_between_promotions_faults_and_evictions() {
    const ADDS: u64 = 6000;
    let bench = with_full_block();
    let done = AtomicBool::new(false);
    let random = |x: &mut u64, below: u64| {
        *x = x.wrapping_mul(6364136223846793005).wrapping_add(99);
        (*x >> 33) % below
    };
    std::thread::scope(|scope| {
        let adders: Vec<_> = (1..=2)
            .map(|n| {
                let (bench, mut x) = (&bench, n);
                scope.spawn(move || {
                    let mut faults = bench.engine.faults();
                    for _ in 0..ADDS {
                        let page = PageNo(random(&mut x, 1024));
                        while !bench.guest.add_if_present(page, 1) {
                            faults.handle(page, Instant::now()).unwrap();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                bench.engine.promote(PageNo(0)).unwrap();
                bench.engine.promote(PageNo(512)).unwrap();
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            let mut x = 7;
            // At least a few times, however fast the others are.
            for n in 0.. {
                if n > 30 && done.load(Ordering::Acquire) {
                    break;
                }
                let start = PageNo(random(&mut x, 900));
                let to = [Destination::Staged, Destination::Tier(1)][n % 2];
                let (part, all) = (PageRange::new(start, 100), PageRange::new(PageNo(0), 1024));
                let range = if n % 3 == 0 { all } else { part };
                bench.engine.migrate(range, to).unwrap();
                bench.engine.migrate(all, Destination::Guest).unwrap();
                // With or without somebody else's help.
                bench.engine.promote(PageNo(0)).unwrap();
            }
        });
        for adder in adders {
            adder.join().unwrap();
        }
        done.store(true, Ordering::Release);
    });
    bench.audit();
    assert!(bench.engine.arena().peak() <= 3 * 512 + 256);
    assert!(promotions(&bench) > 0);
    let mut sum = 0;
    for page in 0..1024 {
        touch(&bench, page);
        let before = if page < 512 { word(page) } else { 0 };
        sum += bench.guest.first_word(PageNo(page)).unwrap() - before;
    }
    assert_eq!(sum, 2 * ADDS);
}
