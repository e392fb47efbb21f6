//! Defects at the edge of capacity that were found by review and repaired: each test failed before.

use crate::regressions::touch;
use crate::simulated::{Bench, Guest, bench, bench_with, hbm, zip};
use crate::watched::{Watched, noise};
use gmem_core::engine::{Config, ConfigError, Destination, Engine, Outcome};
use gmem_core::hnode::ram::Arena;
use gmem_core::page::{PAGE_SIZE, PageNo, PageRange, Unit};
use gmem_core::policy::Prefetching;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn pages_that_compress_find_room_behind_one_that_does_not() {
    // zip is full but for less than a page; most of what is mapped is zeros.
    let bench = bench_with(4096, 512, Unit::Page, vec![zip(64 * 4096)], true).unwrap();
    let mut waited = None;
    for page in 0..2000 {
        if touch(&bench, page) == Outcome::Waiting {
            waited = Some(page);
            break;
        }
        if page % 4 == 0 {
            bench.guest.write_bytes(PageNo(page), noise(page));
        }
    }
    if waited.is_some() {
        // The background thread tries again, and finds no more than the fault did.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let background = scope.spawn(|| bench.engine.run_background(&stop));
            let end = Instant::now() + Duration::from_secs(2);
            while bench.engine.stalls().waiting > 0 && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            stop.store(true, Ordering::Release);
            bench.engine.wake_background();
            background.join().unwrap().unwrap();
        });
        waited = waited.filter(|_| bench.engine.stalls().waiting > 0);
    }
    let zeros = (0..2000)
        .filter(|page| bench.guest.read_zero(PageNo(*page)))
        .count();
    if waited.is_some() {
        assert!(
            zeros < 64,
            "a fault waits for ever while {zeros} mapped pages are zeros"
        );
    }
}

#[test]
fn an_adopted_block_moves_from_tier_to_tier() {
    let bench = bench(4096, 4096, Unit::Page, vec![hbm(2048), hbm(2048)]);
    for page in 0..512 {
        bench.guest.write(PageNo(page), page + 100);
    }
    let range = PageRange::new(PageNo(0), 512);
    bench.engine.adopt(&[], &[range]);
    bench.engine.migrate(range, Destination::Tier(1)).unwrap();
    let done = bench.engine.migrate(range, Destination::Tier(2));
    assert!(done.is_ok(), "{done:?}");
}

#[test]
fn memory_that_ends_within_a_block_is_refused_in_units_of_blocks() {
    let refused = bench_with(3 * 512 + 100, 4096, Unit::Block, vec![hbm(4096)], false).err();
    assert!(
        matches!(refused, Some(ConfigError::Ram { .. })),
        "{refused:?}"
    );
    assert!(bench_with(3 * 512 + 100, 4096, Unit::Page, vec![hbm(4096)], false).is_ok());
}

#[test]
fn no_fault_waits_at_exact_capacity_with_several_handlers() {
    for unit in [Unit::Page, Unit::Block] {
        let (host, tier) = (6 * 512, 10 * 512);
        let memory = host - gmem_core::engine::reserve_pages(unit) + tier;
        // The tier takes its time, as a device does.
        let slow = gmem_core::hnode::hbm::Hbm::new(
            "hbm",
            tier * PAGE_SIZE as u64,
            gmem_core::hnode::link::Link::new(200.0, 0.0),
        );
        let guest = Guest::new();
        let config = Config {
            ram: vec![PageRange::new(PageNo(0), memory)],
            unplugged: 0,
            unit,
            arena: Arena::new(host, unit).unwrap(),
            tiers: vec![Box::new(slow.unwrap())],
            overcommit: false,
            prefetch: Prefetching::default(),
        };
        let bench = Bench {
            engine: Arc::new(Engine::new(config, guest.clone()).unwrap()),
            guest,
        };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let background = scope.spawn(|| bench.engine.run_background(&stop));
            let workers: Vec<_> = (0..3)
                .map(|n| {
                    let bench = &bench;
                    scope.spawn(move || {
                        let mut faults = bench.engine.faults();
                        let share = memory / 3;
                        for _ in 0..2 {
                            for page in n * share..(n + 1) * share {
                                if bench.guest.read(PageNo(page)).is_none() {
                                    faults.handle(PageNo(page), Instant::now()).unwrap();
                                    let start = Instant::now();
                                    while !bench.guest.write_if_present(PageNo(page), page + 100) {
                                        if start.elapsed() > Duration::from_millis(20) {
                                            faults.handle(PageNo(page), Instant::now()).unwrap();
                                        }
                                        std::thread::yield_now();
                                    }
                                }
                            }
                        }
                    })
                })
                .collect();
            workers
                .into_iter()
                .for_each(|worker| worker.join().unwrap());
            stop.store(true, Ordering::Release);
            bench.engine.wake_background();
            background.join().unwrap().unwrap();
        });
        assert_eq!(bench.engine.snapshot().stalls, 0, "{unit:?}");
    }
}

#[test]
fn a_link_of_any_speed_can_be_described() {
    let infinite =
        std::panic::catch_unwind(|| gmem_core::hnode::link::Link::new(f64::INFINITY, 1.0));
    assert!(infinite.is_ok());
}

#[test]
fn a_tier_is_not_read_for_a_demotion_that_cannot_happen() {
    let loads = Arc::new(AtomicU64::new(0));
    let count = loads.clone();
    let tier = Watched {
        inner: hbm(2048),
        free: Box::new(|free| free),
        before_load: Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }),
    };
    let bench = bench(4096, 4096, Unit::Block, vec![Box::new(tier), hbm(300)]);
    for page in 0..2048 {
        touch(&bench, page);
        bench.guest.write(PageNo(page), page + 100);
    }
    bench
        .engine
        .migrate(PageRange::new(PageNo(0), 2048), Destination::Tier(1))
        .unwrap();
    loads.store(0, Ordering::SeqCst);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        for _ in 0..50 {
            bench.engine.wake_background();
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
    });
    assert_eq!(
        loads.load(Ordering::SeqCst),
        0,
        "loads of 2 MiB for nothing"
    );
}

#[test]
fn what_costs_no_room_in_a_tier_is_not_demoted_from_it() {
    let bench = bench(
        4096,
        4096,
        Unit::Page,
        vec![zip(64 * 4096 * 5 / 4), hbm(4096)],
    );
    for page in 0..1100 {
        touch(&bench, page);
        let fill =
            |n: u64| -> [u8; PAGE_SIZE] { std::array::from_fn(|at| n.to_ne_bytes()[at % 8]) };
        bench.guest.write_bytes(
            PageNo(page),
            if page < 1024 { fill(7) } else { noise(page) },
        );
    }
    bench
        .engine
        .migrate(PageRange::new(PageNo(0), 1100), Destination::Tier(1))
        .unwrap();
    let before = bench.audit().held;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
    });
    let held = bench.audit().held;
    assert!(
        held[1] < 100,
        "{before:?} became {held:?}: filled pages took room for nothing"
    );
}
