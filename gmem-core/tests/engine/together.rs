//! Pages that lie apart leave together, and windows of streams come ahead.

use crate::accelerator::Sim;
use crate::simulated::{Bench, bench, hbm};
use crate::verify_all;
use gmem_core::page::{PageNo, Unit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HOST: u64 = 2048;
const MEMORY: u64 = 8192;

/// Writes `count` pages, every `step`th from `first` on, with a background thread that makes room, until `done`.
fn write_apart(bench: &Bench, (first, step, count): (u64, u64, u64), done: impl Fn() -> bool) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        let mut faults = bench.engine.faults();
        for page in (0..count).map(|n| first + n * step) {
            while !bench.guest.write_if_present(PageNo(page), page + 100) {
                faults.handle(PageNo(page), Instant::now()).unwrap();
                // As when the first access comes: the page is there for it.
                if !bench.guest.is_present(PageNo(page)) {
                    std::thread::yield_now();
                }
            }
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
    });
}

/// An engine with room for a quarter of its memory.
fn scattered() -> Bench {
    bench(MEMORY, HOST, Unit::Page, vec![hbm(MEMORY)])
}

/// Writes every second page, and lowers the budget to half as many while pages beside them are written.
fn crowd_out(bench: &Bench) {
    write_apart(bench, (0, 2, 2040), || true);
    bench.engine.set_budget(1024).unwrap();
    write_apart(bench, (1, 2, 64), || bench.engine.arena().excess() == 0);
}

#[test]
fn pages_that_lie_apart_leave_together_with_their_bytes() {
    let bench = scattered();
    crowd_out(&bench);
    assert!(bench.guest.discarded.load(Ordering::SeqCst) > 0);
    bench.audit();
    let written = |page: u64| page.is_multiple_of(2) && page < 4080 || page < 128;
    verify_all(
        &bench,
        4200,
        |page| if written(page) { page + 100 } else { 0 },
    );
    bench.audit();
}

#[test]
fn pages_are_moved_where_they_cannot_be_protected_and_nothing_is_lost() {
    let bench = scattered();
    bench.guest.protects.store(false, Ordering::SeqCst);
    crowd_out(&bench);
    assert_eq!(bench.guest.discarded.load(Ordering::SeqCst), 0);
    assert_eq!(bench.engine.arena().excess(), 0);
    verify_all(&bench, 128, |page| page + 100);
    bench.audit();
}

#[test]
fn with_an_accelerator_attached_pages_are_moved() {
    let bench = scattered();
    let _npu = Sim::new("npu", 64, 1).attach(&bench);
    crowd_out(&bench);
    assert_eq!(bench.guest.discarded.load(Ordering::SeqCst), 0);
    assert_eq!(bench.engine.arena().excess(), 0);
    verify_all(&bench, 128, |page| page + 100);
}

#[test]
fn the_next_window_of_a_stream_comes_while_the_guest_goes_through_this_one() {
    let bench = bench(16384, 8192, Unit::Page, vec![hbm(16384)]);
    let stop = AtomicBool::new(false);
    let (waited_for, came_ahead) = std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        let ahead = scope.spawn(|| bench.engine.run_ahead());
        let mut faults = bench.engine.faults();
        let (mut waited_for, mut came_ahead) = (0, 0);
        for page in (0..16000).step_by(3) {
            if bench.guest.is_present(PageNo(page)) {
                continue;
            }
            faults.handle(PageNo(page), Instant::now()).unwrap();
            waited_for += 1;
            // A patient guest: what is handed out comes before it goes on, if it comes.
            // All of it: a window comes cluster by cluster.
            let next = PageNo(page + 127 * 3);
            let deadline = Instant::now() + Duration::from_millis(200);
            while !bench.guest.is_present(next) && Instant::now() < deadline && page < 15000 {
                std::thread::yield_now();
            }
            came_ahead += u64::from(bench.guest.is_present(next));
        }
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        bench.engine.stop_ahead();
        background.join().unwrap().unwrap();
        ahead.join().unwrap().unwrap();
        (waited_for, came_ahead)
    });
    assert!(came_ahead >= 60, "{came_ahead} windows of 83 came ahead");
    // Alone it takes 83; beside other tests up to 175 were seen, and why is not known.
    assert!(waited_for <= 200, "{waited_for} faults");
    bench.audit();
}
