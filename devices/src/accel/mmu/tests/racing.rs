//! Units at work in real threads, while their pages are taken away and given back.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use gmem_core::page::{PAGE_SIZE, PageNo};

use super::{range, space};
use crate::accel::mmu::{Access, Format, Gpu, Npu, Rights, Shootdown, Target, Tlb, Unit};

const UNITS: usize = 2;
const MOVES: u64 = 2000;

/// One page moves between two frames, each of which says whether it is the page's. Units write to the page, and count.
fn check<F: Format>() {
    let (table, memory, region) = space::<F>(12);
    let tlbs = (0..UNITS).map(|_| Tlb::new(2, 2, [F::granule()]));
    let (shootdown, units) = Shootdown::<AtomicU64>::new(tlbs);
    let frames = [const { AtomicU64::new(0) }; 2];
    let page = range(0..F::granule());
    let target = |frame: usize| Target::local(frame as u64 * F::granule() * PAGE_SIZE as u64);
    let (stop, accesses) = (AtomicBool::new(false), AtomicU64::new(0));
    let root = table.root();
    table.map(page, target(0), Rights::Atomic).unwrap();
    frames[0].store(1, Relaxed);
    std::thread::scope(|scope| {
        let worker = |mut unit: Unit| {
            let (stop, accesses, frames, memory) = (&stop, &accesses, &frames, &memory);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    // Outside, so that it is rarely preempted inside, where the invalidator would wait for it.
                    std::thread::yield_now();
                    let mut inside = unit.enter();
                    if let Ok(found) = inside.translate::<F>(memory, root, PageNo(0), Access::Write)
                    {
                        let frame = usize::from(found.target != target(0));
                        assert_eq!(
                            frames[frame].load(Relaxed),
                            1,
                            "an access through an old translation"
                        );
                        accesses.fetch_add(1, Relaxed);
                    }
                }
            })
        };
        let workers: Vec<_> = units.into_iter().map(worker).collect();
        for number in 0..MOVES {
            let old = (number % 2) as usize;
            let seen = accesses.load(Relaxed);
            let all_well = || !workers.iter().any(|worker| worker.is_finished());
            while accesses.load(Relaxed) == seen && all_well() {
                std::thread::yield_now();
            }
            let mut told = None;
            let retired = table
                .unmap(page, |mapping| told = Some(mapping.target))
                .unwrap();
            assert_eq!(told, Some(target(old)));
            shootdown.invalidate(&[page]);
            frames[old].store(0, Relaxed);
            drop(retired);
            frames[1 - old].store(1, Relaxed);
            table.map(page, target(1 - old), Rights::Atomic).unwrap();
        }
        stop.store(true, Relaxed);
    });
    drop(table.unmap(page, |_| ()).unwrap());
    assert_eq!(region.free_tables(), 11);
}

#[test]
fn no_unit_sees_a_frame_that_was_taken_away() {
    check::<Npu>();
    check::<Gpu>();
}

#[test]
fn a_unit_that_missed_more_than_is_remembered_forgets_everything() {
    let (shootdown, mut units) = Shootdown::<AtomicU64>::new([Tlb::new(64, 4, [1])]);
    let (table, memory, _) = space::<Npu>(8);
    for page in 0..8 {
        table
            .map(range(page..page + 1), Target::local(0), Rights::Read)
            .unwrap();
        let walked =
            units[0]
                .enter()
                .translate::<Npu>(&memory, table.root(), PageNo(page), Access::Read);
        walked.unwrap();
    }
    shootdown.invalidate(&[range(3..4), range(7..9)]);
    drop(units[0].enter());
    assert_eq!(units[0].tlb().counters().invalidations, 2);
    for page in 1000..1100 {
        shootdown.invalidate(&[range(page..page + 1)]);
    }
    drop(units[0].enter());
    assert_eq!(units[0].tlb().counters().invalidations, 8);
}
