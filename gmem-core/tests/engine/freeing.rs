//! Pages that the guest gives back read as zeros, and what held them is free.

use crate::regressions::touch;
use crate::simulated::{Bench, Fuse, bench, bench_with, hbm, zip};
use crate::watched::Flaky;
use crate::watched::Watched;
use gmem_core::engine::{Destination, FreeError, Freed, Outcome};
use gmem_core::page::{PageNo, PageRange, Unit};
use gmem_core::stats::Site;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

fn range(start: u64, pages: u64) -> PageRange {
    PageRange::new(PageNo(start), pages)
}

fn write(bench: &Bench, range: PageRange) {
    let mut faults = bench.engine.faults();
    for page in range.iter() {
        if bench.guest.read(page).is_none() {
            faults.handle(page, Instant::now()).unwrap();
        }
        bench.guest.write(page, page.0 + 100);
    }
}

/// Every page of `memory` has its bytes, those in `freed` zeros.
fn verify(bench: &Bench, memory: PageRange, freed: PageRange) {
    let mut faults = bench.engine.faults();
    for page in memory.iter() {
        if bench.guest.read(page).is_none() {
            faults.handle(page, Instant::now()).unwrap();
        }
        let expected = if freed.contains(page) {
            0
        } else {
            page.0 + 100
        };
        assert_eq!(bench.guest.read(page), Some(expected), "{page}");
    }
    bench.audit();
}

fn all(pages: u64) -> Freed {
    Freed {
        pages,
        ..Freed::default()
    }
}

#[test]
fn what_is_freed_reads_as_zeros_and_its_frame_is_free_wherever_it_was() {
    let places = [
        (Destination::Guest, Site::Host),
        (Destination::Staged, Site::Staged),
        (Destination::Tier(1), Site::Tier(1)),
        (Destination::Tier(2), Site::Tier(2)),
    ];
    // Whole blocks, parts of blocks, and both.
    for part in [range(512, 512), range(600, 3), range(500, 700)] {
        for unit in [Unit::Page, Unit::Block] {
            for (place, site) in places {
                let bench = bench(2048, 8192, unit, vec![hbm(2048), zip(16 << 20)]);
                write(&bench, range(0, 2048));
                bench.engine.migrate(range(0, 2048), place).unwrap();
                let before = bench.audit();
                let existing = bench.engine.arena().existing();
                assert_eq!(
                    bench.engine.free(part).unwrap(),
                    all(part.pages),
                    "{place:?}"
                );
                let after = bench.audit();
                let kept = |audit: &gmem_core::engine::Audit| {
                    audit.mapped + audit.staged + audit.held.iter().sum::<u64>()
                };
                assert_eq!(
                    kept(&before) - kept(&after),
                    part.pages,
                    "{place:?} {unit:?}"
                );
                if matches!(site, Site::Host | Site::Staged) {
                    let now = bench.engine.arena().existing();
                    assert_eq!(existing - now, part.pages, "{place:?} {unit:?}");
                }
                let snapshot = bench.engine.snapshot();
                assert_eq!(snapshot.freed_pages, part.pages);
                let flow = |site| bench.engine.stats().flow(site, Site::Zero);
                // A staged block that is freed in part comes back first: its frame cannot be cut in its slot.
                let by_way_of_host = if site == Site::Staged {
                    flow(Site::Host)
                } else {
                    0
                };
                assert_eq!(
                    flow(site) + by_way_of_host,
                    part.pages,
                    "{place:?} {unit:?}"
                );
                verify(&bench, range(0, 2048), part);
            }
        }
    }
}

#[test]
fn pages_that_hold_nothing_are_free_already() {
    for unit in [Unit::Page, Unit::Block] {
        let bench = bench(2048, 4096, unit, vec![hbm(2048)]);
        assert_eq!(bench.engine.free(range(3, 2000)).unwrap(), all(0));
        assert_eq!(bench.engine.free(range(0, 0)).unwrap(), all(0));
        write(&bench, range(0, 512));
        assert_eq!(bench.engine.free(range(0, 512)).unwrap(), all(512));
        assert_eq!(bench.engine.free(range(0, 512)).unwrap(), all(0));
        bench.audit();
    }
}

#[test]
fn what_is_not_ram_is_refused_and_nothing_is_freed() {
    let bench = bench(2048, 4096, Unit::Page, vec![hbm(2048)]);
    write(&bench, range(0, 2048));
    let beyond = [
        range(2000, 49),
        range(2048, 1),
        range(1 << 50, 1),
        range(5, u64::MAX),
        range(u64::MAX, 2),
    ];
    for range in beyond {
        let refused = bench.engine.free(range).unwrap_err();
        assert!(
            matches!(refused, FreeError::NotRam { start, pages } if (start, pages) == (range.start, range.pages)),
            "{refused}"
        );
    }
    verify(&bench, range(0, 2048), range(0, 0));
}

#[test]
fn memory_that_is_freed_is_there_for_others() {
    for (unit, host) in [(Unit::Page, 4096), (Unit::Block, 16 * 512)] {
        let memory = 4 * host;
        let bench = bench(memory, host, unit, vec![hbm(memory)]);
        write(&bench, range(0, memory));
        let mapped: Vec<_> = (0..memory)
            .filter(|page| bench.guest.read(PageNo(*page)).is_some())
            .collect();
        let existing = bench.engine.arena().existing();
        assert!(existing * 10 >= host * 9, "{existing} of {host} are used");
        let (first, last) = (mapped[0], mapped[mapped.len() - 1]);
        let freed = bench.engine.free(range(first, last + 1 - first)).unwrap();
        assert!(freed.pages >= mapped.len() as u64);
        let (now, available) = (
            bench.engine.arena().existing(),
            bench.engine.arena().available(),
        );
        // A few frames are kept to be used again.
        assert!((existing - now) * 10 >= mapped.len() as u64 * 9, "{now}");
        assert!(available * 10 >= mapped.len() as u64 * 9 || unit == Unit::Page);
        assert_eq!(bench.engine.snapshot().tiers[0].used_bytes, now * 4096);
        bench.audit();
    }
}

#[test]
fn who_waits_for_room_goes_on_when_pages_are_freed() {
    let bench = bench_with(4096, 512, Unit::Page, vec![hbm(512)], true).unwrap();
    let mut waits = None;
    for page in 0..4096 {
        if bench.guest.read(PageNo(page)).is_none() && touch(&bench, page) == Outcome::Waiting {
            waits = Some(page);
            break;
        }
        bench.guest.write(PageNo(page), page + 100);
    }
    let waits = waits.expect("1024 pages do not hold 4096");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| bench.engine.run_background(&stop));
        assert_eq!(bench.engine.free(range(0, 64)).unwrap(), all(64));
        let deadline = Instant::now() + Duration::from_secs(10);
        while bench.engine.stalls().waiting > 0 {
            assert!(Instant::now() < deadline, "still waiting");
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Release);
        bench.engine.wake_background();
        background.join().unwrap().unwrap();
    });
    // It may have been evicted again by now.
    assert!(bench.guest.woken.lock().unwrap().contains(&PageNo(waits)));
    touch(&bench, waits);
    assert_eq!(bench.guest.read(PageNo(waits)), Some(0));
    bench.audit();
}

#[test]
fn a_pinned_page_stays_and_is_reported() {
    for unit in [Unit::Page, Unit::Block] {
        let bench = bench(2048, 4096, unit, vec![hbm(2048)]);
        write(&bench, range(0, 2048));
        bench.engine.set_pinned(range(700, 2), true).unwrap();
        let freed = bench.engine.free(range(512, 512)).unwrap();
        assert_eq!((freed.pages, freed.pinned, freed.busy), (510, 2, 0));
        assert_eq!(bench.guest.read(PageNo(700)), Some(800));
        bench.engine.set_pinned(range(700, 2), false).unwrap();
        assert_eq!(bench.engine.free(range(512, 512)).unwrap(), all(2));
        verify(&bench, range(0, 2048), range(512, 512));
    }
}

#[test]
fn a_busy_page_is_waited_for_a_while_and_then_reported() {
    for unit in [Unit::Page, Unit::Block] {
        let bench = bench(2048, 4096, unit, vec![hbm(2048)]);
        write(&bench, range(0, 2048));
        bench.guest.busy.lock().unwrap().insert(PageNo(700));
        let freed = bench.engine.free(range(512, 512)).unwrap();
        // One page of a block keeps all of it.
        let busy = unit.pages() as u64;
        assert_eq!(
            (freed.pages, freed.pinned, freed.busy),
            (512 - busy, 0, busy)
        );
        assert_eq!(bench.guest.read(PageNo(700)), Some(800));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(1));
                bench.guest.busy.lock().unwrap().clear();
            });
            assert_eq!(bench.engine.free(range(512, 512)).unwrap(), all(busy));
        });
        verify(&bench, range(0, 2048), range(512, 512));
    }
}

#[test]
fn a_page_that_another_migration_holds_is_waited_for() {
    let (loading, seen) = mpsc::channel();
    let tier = Watched {
        inner: hbm(2048),
        free: Box::new(|free| free),
        before_load: Box::new(move || {
            let _ = loading.send(());
            std::thread::sleep(Duration::from_millis(100));
        }),
    };
    let bench = bench(2048, 4096, Unit::Page, vec![Box::new(tier)]);
    write(&bench, range(0, 64));
    bench
        .engine
        .migrate(range(0, 64), Destination::Tier(1))
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| touch(&bench, 9));
        seen.recv().unwrap();
        assert_eq!(bench.engine.free(range(0, 64)).unwrap(), all(64));
    });
    assert_eq!(
        bench.guest.read(PageNo(9)),
        None,
        "it came in, and was freed"
    );
    verify(&bench, range(0, 64), range(0, 64));
}

#[test]
fn staged_pages_that_fill_the_arena_can_be_freed_and_so_can_those_beneath_the_guest() {
    let bench = bench(20_000, 24_000, Unit::Page, vec![hbm(20_000)]);
    write(&bench, range(0, 20_000));
    let done = bench
        .engine
        .migrate(range(0, 20_000), Destination::Staged)
        .unwrap();
    assert!(done.stayed > 0, "the arena has slots for all");
    assert_eq!(bench.engine.free(range(0, 20_000)).unwrap(), all(20_000));
    assert_eq!(bench.audit().mapped, 0);
    verify(&bench, range(0, 20_000), range(0, 20_000));
}

#[test]
fn a_failure_at_any_step_leaves_each_page_as_it_was_or_free() {
    for unit in [Unit::Page, Unit::Block] {
        for part in [range(0, 1024), range(100, 800)] {
            for step in [
                0, 1, 2, 7, 63, 64, 65, 200, 411, 412, 511, 512, 513, 799, 1000,
            ] {
                let fuse = Fuse::new();
                let tier = Flaky {
                    inner: hbm(2048),
                    store_fuse: fuse.clone(),
                    load_fuse: fuse.clone(),
                };
                let bench = bench(1024, 4096, unit, vec![Box::new(tier)]);
                write(&bench, range(0, 1024));
                bench.guest.unmap_fuse.fail_after(step);
                let result = bench.engine.free(part);
                let expected_to_fail = step < part.pages as i64;
                assert_eq!(
                    result.is_err(),
                    expected_to_fail,
                    "{unit:?} {part:?} {step}"
                );
                bench.guest.unmap_fuse.never();
                bench.audit();
                for page in range(0, 1024).iter() {
                    if bench.guest.read(page).is_none() {
                        touch(&bench, page.0);
                    }
                    let found = bench.guest.read(page).unwrap();
                    assert!(
                        found == page.0 + 100 || found == 0 && part.contains(page),
                        "{page}: {found}"
                    );
                }
                assert!(bench.engine.free(part).is_ok());
                verify(&bench, range(0, 1024), part);
            }
        }
    }
}

#[test]
fn a_page_that_the_guest_writes_while_it_comes_is_freed_by_who_frees_it_then() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    touch(&bench, 0);
    let (frees, freed) = mpsc::channel();
    let (engine, guest) = (Arc::clone(&bench.engine), Arc::clone(&bench.guest));
    *bench.guest.on_map.lock().unwrap() = Some(Box::new(move |page| {
        // It came along with another; the guest does not wait for it, and uses it as soon as it is there.
        let (engine, guest) = (Arc::clone(&engine), Arc::clone(&guest));
        let one = std::thread::spawn(move || {
            guest.write(page, 77);
            engine.free(range(page.0 - 1, 2)).unwrap();
        });
        frees.send(one).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }));
    touch(&bench, 5);
    *bench.guest.on_map.lock().unwrap() = None;
    freed.into_iter().for_each(|one| one.join().unwrap());
    assert!(!bench.guest.is_present(PageNo(5)), "it is there still");
    touch(&bench, 5);
    assert!(bench.guest.read_zero(PageNo(5)));
    bench.audit();
}
