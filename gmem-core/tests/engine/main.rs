//! The engine over a simulated guest: budgets, tiers, failures at every step.

mod accelerator;
mod accelerators;
mod ahead;
mod capacity;
mod copies;
mod crowded;
mod failures;
mod freeing;
mod histories;
mod placements;
mod promoting;
mod property;
mod regressions;
mod simulated;
mod storms;
mod together;
mod watched;

use gmem_core::bytes::Bytes;
use gmem_core::engine::{ConfigError, Destination, MigrateError, Outcome};
use gmem_core::page::{PageNo, PageRange, Unit};
use gmem_core::stats::Site;
use simulated::{Bench, bench, bench_with, hbm, zip};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

fn touch(bench: &Bench, page: u64) -> Outcome {
    bench
        .engine
        .faults()
        .handle(PageNo(page), Instant::now())
        .unwrap()
}

/// Writes every page in order, as a guest that faults on what is not present.
fn write_all(bench: &Bench, pages: u64, word: impl Fn(u64) -> u64) {
    let mut faults = bench.engine.faults();
    for page in 0..pages {
        if bench.guest.read(PageNo(page)).is_none() {
            faults.handle(PageNo(page), Instant::now()).unwrap();
        }
        bench.guest.write(PageNo(page), word(page));
    }
}

fn verify_all(bench: &Bench, pages: u64, word: impl Fn(u64) -> u64) {
    let mut faults = bench.engine.faults();
    for page in (0..pages).rev() {
        if bench.guest.read(PageNo(page)).is_none() {
            faults.handle(PageNo(page), Instant::now()).unwrap();
        }
        assert_eq!(
            bench.guest.read(PageNo(page)),
            Some(word(page)),
            "page {page}"
        );
    }
}

#[test]
fn four_times_the_budget_comes_back_unchanged_through_every_tier() {
    let tiers = || vec![hbm(1024), zip(4 << 20), hbm(1024)];
    let bench = bench(2048, 512, Unit::Page, tiers());
    write_all(&bench, 2048, |page| page + 100);
    let audit = bench.audit();
    assert!(
        bench.engine.arena().peak() <= 512,
        "{}",
        bench.engine.arena().peak()
    );
    assert_eq!(
        audit.mapped + audit.staged + audit.held.iter().sum::<u64>(),
        2048
    );
    verify_all(&bench, 2048, |page| page + 100);
    bench.audit();
}

#[test]
fn blocks_come_back_whole_through_tiers_that_hold_blocks_and_tiers_that_do_not() {
    let pages = 16 * 512;
    let bench = bench(
        pages,
        5 * 512,
        Unit::Block,
        vec![hbm(4 * 512), zip(4 << 20), hbm(12 * 512)],
    );
    write_all(&bench, pages, |page| page + 100);
    bench.audit();
    assert!(bench.engine.stats().flow(Site::Host, Site::Tier(1)) >= 512);
    verify_all(&bench, pages, |page| page + 100);
    assert!(bench.engine.arena().peak() <= 5 * 512);
    bench.audit();
}

#[test]
fn memory_equal_to_capacity_fits_to_the_last_page_and_keeps_turning() {
    for unit in [Unit::Page, Unit::Block] {
        let reserve = gmem_core::engine::reserve_pages(unit);
        let (host, tier) = (6 * 512, 10 * 512);
        let memory = host - reserve + tier;
        let bench = bench(memory, host, unit, vec![hbm(tier)]);
        for round in 0..3 {
            write_all(&bench, memory, |page| page + 100 + round);
            verify_all(&bench, memory, |page| page + 100 + round);
            bench.audit();
        }
    }
}

#[test]
fn memory_larger_than_its_tiers_is_refused_with_the_sizes() {
    let refused = bench_with(2048, 512, Unit::Page, vec![hbm(1024)], false).err();
    let Some(ConfigError::Capacity {
        memory, capacity, ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (memory, capacity),
        (Bytes(2048 * 4096), Bytes((512 - 128 + 1024) * 4096))
    );
    assert!(bench_with(2048, 512, Unit::Page, vec![hbm(1024)], true).is_ok());
}

#[test]
fn zero_pages_are_dropped_not_stored() {
    let bench = bench(2048, 512, Unit::Page, vec![hbm(2048)]);
    write_all(&bench, 2048, |_| 0);
    assert_eq!(bench.engine.snapshot().tiers[1].peak_bytes, 0);
    verify_all(&bench, 2048, |_| 0);
}

#[test]
fn when_everything_is_full_a_fault_waits_and_a_larger_budget_lets_it_go_on() {
    let bench = bench_with(4096, 512, Unit::Page, vec![hbm(512)], true).unwrap();
    let mut full = None;
    for page in 0..4096 {
        if bench.guest.read(PageNo(page)).is_none() && touch(&bench, page) == Outcome::Waiting {
            full = Some(page);
            break;
        }
        bench.guest.write(PageNo(page), page + 100);
    }
    let full = full.expect("1024 pages do not hold 4096");
    assert!(
        full >= 1000,
        "all room is used before anybody waits: {full}"
    );
    assert_eq!(bench.engine.stalls().waiting, 1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        bench.engine.set_budget(1024).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while bench.engine.stalls().waiting > 0 {
            assert!(Instant::now() < deadline, "still waiting");
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
    });
    assert_eq!(bench.guest.read(PageNo(full)), Some(0));
    verify_all(&bench, full, |page| page + 100);
    bench.audit();
}

#[test]
fn a_lowered_budget_is_reached_and_nothing_is_lost() {
    let bench = bench(2048, 2048, Unit::Page, vec![hbm(2048)]);
    write_all(&bench, 1900, |page| page + 100);
    assert!(bench.engine.arena().existing() >= 1900);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        bench.engine.set_budget(300).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while bench.engine.arena().existing() > 300 {
            assert!(
                Instant::now() < deadline,
                "{} frames exist",
                bench.engine.arena().existing()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
    });
    verify_all(&bench, 1900, |page| page + 100);
    bench.audit();
}

#[test]
fn a_page_touched_while_it_is_staged_is_rescued_without_a_tier() {
    let bench = bench(2048, 512, Unit::Page, vec![hbm(2048)]);
    touch(&bench, 7);
    bench.guest.write(PageNo(7), 1234);
    bench
        .engine
        .migrate(PageRange::new(PageNo(7), 1), Destination::Staged)
        .unwrap();
    assert_eq!(bench.guest.read(PageNo(7)), None);
    touch(&bench, 7);
    assert_eq!(bench.guest.read(PageNo(7)), Some(1234));
    assert_eq!(bench.engine.stats().flow(Site::Staged, Site::Host), 1);
    assert_eq!(bench.engine.snapshot().tiers[1].peak_bytes, 0);
    bench.audit();
}

#[test]
fn a_fault_on_a_present_page_wakes_who_waits() {
    let bench = bench(2048, 512, Unit::Page, vec![hbm(2048)]);
    touch(&bench, 3);
    bench.guest.woken.lock().unwrap().clear();
    assert_eq!(touch(&bench, 3), Outcome::There);
    assert_eq!(*bench.guest.woken.lock().unwrap(), [PageNo(3)]);
}

#[test]
fn who_waits_is_woken_once_and_finds_nothing_locked() {
    for unit in [Unit::Page, Unit::Block] {
        let bench = Arc::new(bench(4096, 3072, unit, vec![hbm(4096)]));
        let (woken, quiet) = mpsc::channel();
        let waking = Arc::clone(&bench);
        *bench.guest.on_wake.lock().unwrap() = Some(Box::new(move || {
            // A vCPU that has the handler's CPU from here on must not keep anybody else from anything.
            let (waking, woken) = (Arc::clone(&waking), woken.clone());
            thread::spawn(move || {
                drop(waking.engine.quiesce());
                waking
                    .engine
                    .set_pinned(PageRange::new(PageNo(5), 1), false)
                    .unwrap();
                woken.send(()).unwrap();
            });
            thread::sleep(Duration::from_millis(50));
        }));
        let handling = Arc::clone(&bench);
        let handler = thread::spawn(move || touch(&handling, 5));
        quiet
            .recv_timeout(Duration::from_secs(20))
            .expect("nothing is locked when a vCPU is woken");
        assert!(matches!(handler.join().unwrap(), Outcome::Resolved { .. }));
        assert_eq!(bench.guest.woken.lock().unwrap().len(), unit.pages());
        *bench.guest.on_wake.lock().unwrap() = None;
    }
}

#[test]
fn who_waits_for_a_page_that_came_along_is_woken_with_the_others() {
    let bench = bench(2048, 512, Unit::Page, vec![hbm(2048)]);
    let mut faults = bench.engine.faults();
    for page in 0..40 {
        if bench.guest.read(PageNo(page)).is_none() {
            let before = bench.guest.woken.lock().unwrap().len();
            let outcome = faults.handle(PageNo(page), Instant::now()).unwrap();
            let woken = bench.guest.woken.lock().unwrap()[before..].to_vec();
            let Outcome::Resolved { along } = outcome else {
                panic!("{outcome:?}")
            };
            let came: Vec<_> = (page..=page + along as u64).map(PageNo).collect();
            assert_eq!(woken, came);
        }
    }
    assert!(bench.guest.woken.lock().unwrap().len() >= 40);
}

#[test]
fn the_verb_moves_pages_to_any_place_and_between_tiers() {
    for unit in [Unit::Page, Unit::Block] {
        let bench = bench(4096, 3072, unit, vec![hbm(2048), zip(16 << 20), hbm(2048)]);
        write_all(&bench, 2048, |page| page + 100);
        let range = PageRange::new(PageNo(512), 1024);
        for to in [1, 2, 3, 1, 3, 2] {
            let done = bench.engine.migrate(range, Destination::Tier(to)).unwrap();
            assert_eq!(
                (done.moved, done.stayed),
                (1024, 0),
                "{unit:?} to tier {to}"
            );
            assert_eq!(
                bench.audit().held[usize::from(to) - 1],
                1024,
                "{unit:?} in tier {to}"
            );
        }
        bench.engine.migrate(range, Destination::Guest).unwrap();
        // Pages beyond may have come along when the last of them were written.
        assert!(bench.audit().mapped >= 2048);
        verify_all(&bench, 2048, |page| page + 100);
    }
}

#[test]
fn the_verb_names_what_it_cannot_do() {
    let bench = bench(2048, 512, Unit::Page, vec![hbm(2048)]);
    let one = |page| PageRange::new(PageNo(page), 1);
    let no_tier = bench.engine.migrate(one(0), Destination::Tier(2));
    assert!(matches!(
        no_tier,
        Err(MigrateError::NoTier { found: 2, tiers: 1 })
    ));
    assert!(bench.engine.migrate(one(5000), Destination::Guest).is_err());
}

#[test]
fn a_pinned_page_stays_while_all_others_leave() {
    let bench = bench(2048, 512, Unit::Page, vec![hbm(2048)]);
    touch(&bench, 9);
    bench.guest.write(PageNo(9), 99);
    bench
        .engine
        .set_pinned(PageRange::new(PageNo(9), 1), true)
        .unwrap();
    write_all(&bench, 2048, |page| if page == 9 { 99 } else { page + 100 });
    assert_eq!(bench.guest.read(PageNo(9)), Some(99));
    bench
        .engine
        .set_pinned(PageRange::new(PageNo(9), 1), false)
        .unwrap();
    verify_all(&bench, 2048, |page| if page == 9 { 99 } else { page + 100 });
}

#[test]
fn a_page_that_the_kernel_calls_busy_is_passed_by() {
    let bench = bench(2048, 512, Unit::Page, vec![hbm(2048)]);
    write_all(&bench, 300, |page| page + 100);
    bench.guest.busy.lock().unwrap().insert(PageNo(70));
    let done = bench
        .engine
        .migrate(PageRange::new(PageNo(64), 64), Destination::Tier(1))
        .unwrap();
    assert_eq!((done.moved, done.stayed), (63, 1));
    assert_eq!(bench.guest.read(PageNo(70)), Some(170));
    bench.audit();
}

#[test]
fn background_work_stands_still_while_it_is_paused_and_faults_go_on() {
    let bench = bench(2048, 512, Unit::Page, vec![hbm(2048)]);
    let staged = || bench.engine.stats().flow(Site::Host, Site::Staged);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        bench.engine.pause_background();
        // Within the budget, but below the watermark at which room is made in advance.
        for page in 0..505 {
            touch(&bench, page);
            bench.guest.write(PageNo(page), page + 100);
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(staged(), 0);
        bench.engine.resume_background();
        let deadline = Instant::now() + Duration::from_secs(10);
        while staged() == 0 {
            assert!(Instant::now() < deadline, "background work goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
    });
    verify_all(&bench, 505, |page| page + 100);
    bench.audit();
}

#[test]
fn nothing_migrates_while_quiesced() {
    let bench = bench(2048, 512, Unit::Page, vec![hbm(2048)]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let still = bench.engine.quiesce();
        scope.spawn(|| {
            touch(&bench, 1);
            done.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!done.load(Ordering::SeqCst) && bench.guest.read(PageNo(1)).is_none());
        drop(still);
    });
    assert_eq!(bench.guest.read(PageNo(1)), Some(0));
}
