//! Defects that were found by review and repaired: each test failed before.

use crate::simulated::{Bench, bench, hbm};
use crate::watched::Watched;
use gmem_core::engine::{Destination, Outcome};
use gmem_core::page::{ClusterNo, PageNo, PageRange, Unit};
use gmem_core::policy::{Plan, Prefetch};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

pub fn touch(bench: &Bench, page: u64) -> Outcome {
    bench
        .engine
        .faults()
        .handle(PageNo(page), Instant::now())
        .unwrap()
}

/// Runs `work` on a thread of its own; `None` if it takes longer than five seconds (it is then left behind).
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive.recv_timeout(Duration::from_secs(5)).ok()
}

#[test]
fn a_tier_that_gains_room_while_demotion_looks_at_it_is_left_alone() {
    // A fault frees a block of the tier between the two looks.
    let looks = AtomicU64::new(0);
    let free = move |_| {
        if looks.fetch_add(1, Ordering::SeqCst) == 0 {
            0
        } else {
            512
        }
    };
    let tier = Watched {
        inner: hbm(2048),
        free: Box::new(free),
        before_load: Box::new(|| ()),
    };
    let bench = bench(2048, 2048, Unit::Page, vec![Box::new(tier), hbm(2048)]);
    for page in 0..1500 {
        touch(&bench, page);
        bench.guest.write(PageNo(page), page + 100);
    }
    bench
        .engine
        .migrate(PageRange::new(PageNo(0), 1500), Destination::Tier(1))
        .unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().expect("no panic").unwrap();
    });
    let held = bench.audit().held;
    assert!(held[1] <= 128, "{held:?}: the tier had 512 free pages");
}

#[test]
fn a_staged_block_can_be_pinned_and_touched() {
    let bench = bench(4096, 4096, Unit::Block, vec![hbm(4096)]);
    touch(&bench, 0);
    bench.guest.write(PageNo(0), 1234);
    bench
        .engine
        .migrate(PageRange::new(PageNo(0), 512), Destination::Staged)
        .unwrap();
    bench
        .engine
        .set_pinned(PageRange::new(PageNo(0), 1), true)
        .unwrap();
    touch(&bench, 0);
    assert_eq!(bench.guest.read(PageNo(0)), Some(1234));
    bench.audit();
}

#[test]
fn adopted_blocks_turn_over_when_tiers_have_room_for_less_than_a_block() {
    let (host, tier) = (2048, 1000);
    let memory = host - 128 + tier;
    let bench = bench(memory, host, Unit::Page, vec![hbm(tier)]);
    for page in 0..1536 {
        bench.guest.write(PageNo(page), page + 100);
    }
    bench.engine.adopt(&[], &[PageRange::new(PageNo(0), 1536)]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        let mut stuck = None;
        'pages: for page in 0..memory {
            if bench.guest.read(PageNo(page)).is_none() {
                touch(&bench, page);
            }
            let start = Instant::now();
            while bench.guest.read(PageNo(page)).is_none() {
                if start.elapsed() > Duration::from_secs(2) {
                    let snapshot = bench.engine.snapshot();
                    stuck = Some(format!("page {page} waits for ever: {:?}", snapshot.tiers));
                    break 'pages;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            bench.guest.write(PageNo(page), page + 100);
        }
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
        assert_eq!(stuck, None);
    });
}

#[test]
fn a_fault_ends_when_every_slot_of_the_arena_is_staged() {
    let blocks = 80;
    let done = in_time(move || {
        let bench = bench(
            blocks * 512,
            blocks * 512,
            Unit::Block,
            vec![hbm(blocks * 512)],
        );
        for block in 0..70 {
            touch(&bench, block * 512);
        }
        bench
            .engine
            .migrate(PageRange::new(PageNo(0), 70 * 512), Destination::Staged)
            .unwrap();
        touch(&bench, 75 * 512)
    });
    assert!(done.is_some(), "the handler spins");
}

#[test]
fn a_fault_ends_when_every_small_slot_of_the_arena_is_staged() {
    let pages = 20_000;
    let done = in_time(move || {
        let bench = bench(pages, 24_000, Unit::Page, vec![hbm(pages)]);
        for page in 0..18_000 {
            touch(&bench, page);
            bench.guest.write(PageNo(page), page + 100);
        }
        bench
            .engine
            .migrate(PageRange::new(PageNo(0), 18_000), Destination::Staged)
            .unwrap();
        touch(&bench, 19_000)
    });
    assert!(done.is_some(), "the handler spins");
}

#[test]
fn a_drain_of_more_than_the_arena_has_slots_moves_everything() {
    let pages = 20_000;
    let bench = bench(pages, 24_000, Unit::Page, vec![hbm(pages)]);
    for page in 0..pages {
        touch(&bench, page);
        bench.guest.write(PageNo(page), page + 100);
    }
    let done = bench
        .engine
        .migrate(PageRange::new(PageNo(0), pages), Destination::Tier(1))
        .unwrap();
    assert_eq!((done.moved, done.stayed), (pages, 0));
}

struct Fixed(u64);

impl Prefetch for Fixed {
    fn plan(&mut self, touched: PageNo, plan: &mut Plan) {
        for page in ClusterNo::of(touched).pages(self.0) {
            plan.add(page);
        }
    }
    fn brought(&mut self, _: u64) {}
    fn take_used(&mut self) -> u64 {
        0
    }
}

#[test]
fn a_staged_page_that_was_nearly_brought_along_is_still_passed_on() {
    let (entered, hold) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(true)),
    );
    let (saw, held) = (entered.clone(), hold.clone());
    let tier = Watched {
        inner: hbm(4096),
        free: Box::new(|free| free),
        before_load: Box::new(move || {
            saw.store(true, Ordering::SeqCst);
            while held.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }),
    };
    let host = 256;
    let bench = bench(4096, host, Unit::Page, vec![Box::new(tier)]);
    for page in [0, 1, 2, 3] {
        touch(&bench, page);
        bench.guest.write(PageNo(page), page + 100);
    }
    let move_one = |page, to| {
        bench
            .engine
            .migrate(PageRange::new(PageNo(page), 1), to)
            .unwrap()
    };
    move_one(0, Destination::Tier(1));
    move_one(2, Destination::Tier(1));
    move_one(3, Destination::Staged);
    std::thread::scope(|scope| {
        // Brings 0 (held up in the tier), then 2, for which there is no frame by then, then 3.
        scope.spawn(|| {
            let mut faults = bench.engine.faults_with(Box::new(Fixed(0b1101)));
            faults.handle(PageNo(2), Instant::now()).unwrap();
        });
        while !entered.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        // Another handler uses up the budget and passes on what is staged.
        let mut page = 512;
        while bench.engine.stats().direct_reclaims.load(Ordering::Relaxed) == 0 {
            touch(&bench, page);
            bench.guest.write(PageNo(page), page + 100);
            page += 1;
        }
        while bench.engine.arena().available() > 0 {
            touch(&bench, page);
            bench.guest.write(PageNo(page), page + 100);
            page += 1;
        }
        hold.store(false, Ordering::SeqCst);
    });
    // Everything else is touched: page 3, untouched, must leave the arena sooner or later.
    for page in 1024..3000 {
        touch(&bench, page);
        bench.guest.write(PageNo(page), page + 100);
    }
    let audit = bench.audit();
    let moved = bench
        .engine
        .stats()
        .flow(gmem_core::stats::Site::Staged, gmem_core::stats::Site::Host);
    assert!(
        audit.staged == 0 || audit.staged > 1 || moved > 0,
        "page 3 is forgotten in the arena: {audit:?}"
    );
    assert_eq!(audit.staged, 0, "forgotten in the arena");
}
