//! Several handlers, a background thread, pages given back, and a budget that changes, for seconds.

use crate::simulated::{Bench, bench, hbm, zip};
use gmem_core::page::{PageNo, PageRange, Unit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Several handlers, a budget that changes, adopted blocks: everything reads as written and the books agree.
fn storm(unit: Unit, adopt: bool, seconds: u64) {
    let (host, memory) = (6 * 512u64, 18 * 512u64);
    // The last blocks are one worker's alone, who frees ranges of them; the other workers share the rest and
    // free single pages.
    let shared = 16 * 512u64;
    let bench = bench(
        memory,
        host,
        unit,
        vec![hbm(3 * 512), zip(2 << 20), hbm(16 * 512)],
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
                            (page + 3) % (shared / 3 * 3)
                        } else {
                            (x >> 20) % (shared / 3) * 3 + n
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
                        if (x >> 40) & 7 == 0 {
                            let one = PageRange::new(PageNo(page), 1);
                            let freed = bench.engine.free(one).unwrap();
                            // A page of zeros may have been dropped before.
                            assert!(freed.pages == 1 || word == 0, "{page}");
                            assert_eq!(freed.busy, 0);
                            model.remove(&page);
                        }
                    }
                    slowest
                })
            })
            .collect();
        let bench = &bench;
        let own = PageRange::new(PageNo(shared), memory - shared);
        let freer = scope.spawn(move || free_ranges(bench, own, end));
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
        let freed = freer.join().unwrap();
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
        eprintln!(
            "{unit:?} adopt={adopt} slowest {slowest:?} freed {freed} stalls {} direct {}",
            bench.engine.snapshot().stalls,
            bench.engine.stats().direct_reclaims.load(Ordering::Relaxed)
        );
    });
    bench.audit();
}

/// Writes pages of `own` and frees ranges of it, over and over; returns how many pages were freed.
fn free_ranges(bench: &Bench, own: PageRange, end: Instant) -> u64 {
    let mut faults = bench.engine.faults();
    let mut model = std::collections::HashMap::new();
    let (mut x, mut freed) = (99u64, 0);
    let mut random = |below: u64| {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (x >> 33) % below
    };
    let mut touch = |page: PageNo, word: u64, expected: u64| {
        let start = Instant::now();
        loop {
            if let Some(found) = bench.guest.read(page) {
                assert_eq!(found, expected, "{page}");
                if bench.guest.write_if_present(page, word) {
                    return;
                }
            }
            // Waits if everything is full.
            let _ = faults.handle(page, Instant::now()).unwrap();
            assert!(start.elapsed() < Duration::from_secs(10), "{page} hangs");
            std::thread::yield_now();
        }
    };
    while Instant::now() < end {
        let start = own.start.add(random(own.pages));
        for page in (0..random(200)).map(|more| start.add(more)) {
            if own.contains(page) {
                let word = 8 + random(1 << 16);
                let expected = model.insert(page, word).unwrap_or(0);
                touch(page, word, expected);
            }
        }
        // Blocks, and parts of blocks.
        let range = match random(3) {
            0 => PageRange::new(own.start.add(random(2) * 512), 512),
            1 => own,
            _ => PageRange::new(start, (own.end().0 - start.0).min(1 + random(600))),
        };
        let done = bench.engine.free(range).unwrap();
        assert_eq!((done.pinned, done.busy), (0, 0));
        freed += done.pages;
        model.retain(|page, _| !range.contains(*page));
    }
    assert!(freed > 0);
    freed
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
