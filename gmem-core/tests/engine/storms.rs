//! Several handlers, a background thread, and a budget that changes, for seconds.

use crate::simulated::{bench, hbm, zip};
use gmem_core::page::{PageNo, PageRange, Unit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Several handlers, a budget that changes, adopted blocks: everything reads as written and the books agree.
fn storm(unit: Unit, adopt: bool, seconds: u64) {
    let (host, memory) = (6 * 512u64, 16 * 512u64);
    let bench = bench(
        memory,
        host,
        unit,
        vec![hbm(3 * 512), zip(2 << 20), hbm(14 * 512)],
    );
    if adopt {
        for page in 0..1024 + 100 {
            bench.guest.write(PageNo(page), 0);
        }
        bench.engine.adopt(
            &[PageRange::new(PageNo(1024), 100)],
            &[PageRange::new(PageNo(0), 1024)],
        );
    }
    let stop = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        let workers: Vec<_> = (0..3u64)
            .map(|n| {
                let bench = &bench;
                scope.spawn(move || {
                    let mut faults = bench.engine.faults();
                    let mut model = std::collections::HashMap::new();
                    let mut x = n + 1;
                    let mut page = n;
                    let mut slowest = Duration::ZERO;
                    while Instant::now() < end {
                        x = x
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        page = if (x >> 60) < 8 {
                            (page + 3) % (memory / 3 * 3)
                        } else {
                            (x >> 20) % (memory / 3) * 3 + n
                        };
                        let word = match (x >> 50) & 7 {
                            0 => 0,
                            1 => 5,
                            _ => (x >> 8 & 0xffff) + 8,
                        };
                        let start = Instant::now();
                        let mut asked = false;
                        loop {
                            if let Some(found) = bench.guest.read(PageNo(page)) {
                                assert_eq!(found, model.get(&page).copied().unwrap_or(0), "{page}");
                                if bench.guest.write_if_present(PageNo(page), word) {
                                    break;
                                }
                                asked = false;
                            } else if !asked || start.elapsed() > Duration::from_millis(500) {
                                faults.handle(PageNo(page), Instant::now()).unwrap();
                                asked = true;
                            }
                            assert!(start.elapsed() < Duration::from_secs(10), "{page} hangs");
                            std::thread::yield_now();
                            if bench.engine.stalls().waiting == 0 {
                                asked = false;
                            }
                        }
                        slowest = slowest.max(start.elapsed());
                        model.insert(page, word);
                    }
                    slowest
                })
            })
            .collect();
        let mut x = 7u64;
        while Instant::now() < end {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1);
            bench.engine.set_budget(4 * 512 + (x >> 33) % 2048).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            if x >> 62 == 0 {
                bench.audit();
            }
        }
        let slowest: Vec<_> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect();
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
        eprintln!(
            "{unit:?} adopt={adopt} slowest {slowest:?} stalls {} direct {}",
            bench.engine.snapshot().stalls,
            bench.engine.stats().direct_reclaims.load(Ordering::Relaxed)
        );
    });
    bench.audit();
}

#[test]
fn storm_of_pages() {
    storm(Unit::Page, false, 3)
}
#[test]
fn storm_of_pages_with_adopted() {
    storm(Unit::Page, true, 3)
}
#[test]
fn storm_of_blocks() {
    storm(Unit::Block, false, 3)
}
#[test]
fn storm_of_blocks_with_adopted() {
    storm(Unit::Block, true, 3)
}
