//! vCPUs, accelerators, evictions and failures at once, or in any order: nothing is lost, nobody reads what is old.

use crate::accelerator::Sim;
use crate::simulated::{Fuse, bench, bench_with, hbm};
use crate::touch;
use crate::watched::Flaky;
use gmem_core::accel::{Advice, Placement};
use gmem_core::engine::Destination;
use gmem_core::page::{PageNo, PageRange, Unit};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

fn page(n: u64) -> PageNo {
    PageNo(n)
}

/// vCPUs and two accelerators add to the same pages, one reads them, pages are taken away and given back.
fn storm(placement: Placement, sim: MakeSim) {
    const ADDS: u64 = 3000;
    let bench = bench(512, 300, Unit::Page, vec![hbm(512)]);
    let (npu, gpu) = (sim("npu", 24, 1), sim("gpu", 32, 16));
    let (npu, gpu) = (npu.attach_adaptive(&bench), gpu.attach_adaptive(&bench));
    let pages = 48;
    for user in [&npu, &gpu] {
        user.attachment.set_placement(placement);
    }
    let done = &AtomicU32::new(0);
    thread::scope(|scope| {
        for user in [&npu, &gpu] {
            scope.spawn(move || {
                let mut seen = vec![0; pages as usize];
                for n in 0..ADDS {
                    // Reads in between, so that there are copies. Words only grow: none is older than one seen before.
                    let at = n * 11 % pages;
                    let found = user.first_word(page(at)).unwrap();
                    let before = std::mem::replace(&mut seen[at as usize], found);
                    assert!(found >= before, "page {at}: {found} after {before}");
                    user.add(page(n * 7 % pages), 1).unwrap();
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            let mut n = 0;
            while done.load(Ordering::SeqCst) < 2 {
                n += 1;
                let range = PageRange::new(page(n * 5 % pages), 1 + n % 20);
                let to = [
                    Destination::Staged,
                    Destination::Tier(1),
                    Destination::Guest,
                ];
                bench.engine.migrate(range, to[n as usize % 3]).unwrap();
                // Beyond the pages that count.
                bench
                    .engine
                    .free(PageRange::new(page(pages + n % 16), 4))
                    .unwrap();
            }
        });
        scope.spawn(|| {
            let mut faults = bench.engine.faults();
            for n in 0..ADDS {
                while !bench.guest.add_if_present(page(n * 5 % pages), 1) {
                    faults.handle(page(n * 5 % pages), Instant::now()).unwrap();
                }
            }
        });
    });
    bench.audit_with(&[&npu, &gpu]);
    let mut sum = 0;
    for n in 0..pages {
        touch(&bench, n);
        sum += bench.guest.first_word(page(n)).unwrap();
    }
    assert_eq!(sum, 3 * ADDS);
}

#[test]
fn no_update_is_lost_between_vcpus_and_two_accelerators() {
    storm(Placement::FirstTouch, Sim::new);
}

#[test]
fn no_update_is_lost_where_pages_are_copied_and_reached_remotely() {
    storm(Placement::Adaptive, Sim::new);
    storm(Placement::Adaptive, Sim::reaching);
}

#[test]
fn no_update_is_lost_where_all_reach_the_page_beneath_the_guest() {
    storm(Placement::Remote, Sim::reaching);
}

#[derive(Clone, Debug)]
enum Step {
    Cpu(u64, Option<u64>),
    Device(usize, u64, Option<u64>),
    Migrate(u64, u64, u8),
    Free(u64, u64),
    Advise(usize, u64, u64, Advice),
    Placement(usize, Placement),
    Detach(usize),
    FailMap(usize, i64),
    FailLoad(i64),
    Budget(u64),
    Cap(usize, u64),
    Protects(bool),
}

const ADVICE: [Advice; 4] = [
    Advice::Prefetch,
    Advice::WillNeed,
    Advice::Pinned,
    Advice::Unpinned,
];
const PLACEMENTS: [Placement; 3] = [
    Placement::Adaptive,
    Placement::FirstTouch,
    Placement::Remote,
];

fn steps(pages: u64) -> impl Strategy<Value = Vec<Step>> {
    let word = || prop::option::of(0u64..2000);
    let page = 0..pages;
    let step = prop_oneof![
        6 => (page.clone(), word()).prop_map(|(page, word)| Step::Cpu(page, word)),
        12 => (0usize..2, page.clone(), word()).prop_map(|(who, page, word)| Step::Device(who, page, word)),
        2 => (page.clone(), 1u64..200, 0u8..4).prop_map(|(page, length, to)| Step::Migrate(page, length, to)),
        2 => (page.clone(), 1u64..100).prop_map(|(page, length)| Step::Free(page, length)),
        3 => (0usize..2, page, 1u64..60, prop::sample::select(&ADVICE[..]))
            .prop_map(|(who, page, length, advice)| Step::Advise(who, page, length, advice)),
        1 => (0usize..2, prop::sample::select(&PLACEMENTS[..]))
            .prop_map(|(who, placement)| Step::Placement(who, placement)),
        1 => (0usize..2).prop_map(Step::Detach),
        1 => (0usize..2, 0i64..4).prop_map(|(who, after)| Step::FailMap(who, after)),
        1 => (0i64..40).prop_map(Step::FailLoad),
        1 => (0u64..512).prop_map(Step::Budget),
        1 => (0usize..2, 16u64..80).prop_map(|(who, pages)| Step::Cap(who, pages)),
        1 => any::<bool>().prop_map(Step::Protects),
    ];
    prop::collection::vec(step, 1..120)
}

type MakeSim = fn(&str, u64, usize) -> Sim;

fn history(
    steps: Vec<Step>,
    (unit, pages, host): (Unit, u64, u64),
    sim: MakeSim,
) -> Result<(), TestCaseError> {
    let load = Fuse::new();
    let flaky = |inner| -> Box<dyn gmem_core::hnode::Hnode> {
        Box::new(Flaky {
            inner,
            store_fuse: Fuse::new(),
            load_fuse: load.clone(),
        })
    };
    let bench = bench_with(
        pages,
        host,
        unit,
        vec![flaky(hbm(128)), flaky(hbm(pages))],
        true,
    )
    .unwrap();
    let sims = [sim("npu", 40, 1), sim("gpu", 64, 16)];
    let mut users = sims.each_ref().map(|sim| sim.attach_adaptive(&bench));
    let mut model: HashMap<u64, u64> = HashMap::new();
    let mut pins = HashSet::new();
    let mut faults = bench.engine.faults();
    let mut present = |n: u64| {
        for _ in 0..3 {
            if bench.guest.read(page(n)).is_some() {
                break;
            }
            let _ = faults.handle(page(n), Instant::now());
        }
        bench.guest.read(page(n))
    };
    for step in steps {
        match step {
            Step::Cpu(n, word) => {
                prop_assert_eq!(present(n), Some(model.get(&n).copied().unwrap_or(0)));
                if let Some(word) = word {
                    bench.guest.write(page(n), word);
                    model.insert(n, word);
                }
            }
            Step::Device(who, n, word) => {
                // An injected failure ends one access; everything is where it was.
                let read = users[who]
                    .read(page(n))
                    .or_else(|_| users[who].read(page(n)));
                let Ok(found) = read else { continue };
                prop_assert_eq!(found, model.get(&n).copied().unwrap_or(0));
                if let Some(word) = word
                    && users[who].write(page(n), word).is_ok()
                {
                    model.insert(n, word);
                }
            }
            Step::Migrate(from, length, to) => {
                let to = match to {
                    0 => Destination::Guest,
                    1 => Destination::Staged,
                    to => Destination::Tier(to - 1),
                };
                let _ = bench
                    .engine
                    .migrate(PageRange::new(page(from), length.min(pages - from)), to);
            }
            Step::Free(from, length) => {
                let range = PageRange::new(page(from), length.min(pages - from));
                bench.engine.free(range).unwrap();
                model.retain(|n, _| !range.contains(page(*n)) || pins.contains(n));
            }
            Step::Advise(who, from, length, advice) => {
                let length = length.min(pages - from);
                let _ = users[who]
                    .attachment
                    .advise(from << 12, length << 12, advice);
                match advice {
                    Advice::Pinned => pins.extend(from..from + length),
                    Advice::Unpinned => pins.retain(|n| !(from..from + length).contains(n)),
                    _ => {}
                }
            }
            Step::Placement(who, placement) => users[who].attachment.set_placement(placement),
            Step::Detach(who) => {
                let fresh = sims[who].attach_adaptive(&bench);
                let old = std::mem::replace(&mut users[who], fresh);
                prop_assert!(old.attachment.detach().is_ok());
            }
            Step::FailMap(who, after) => sims[who].tables.map_fuse.fail_after(after),
            Step::FailLoad(after) => load.fail_after(after),
            // Refused below what is used.
            Step::Cap(who, pages) => drop(users[who].attachment.set_cap(pages << 12)),
            Step::Protects(can) => bench.guest.protects.store(can, Ordering::SeqCst),
            Step::Budget(more) => bench.engine.set_budget(host + more).unwrap(),
        }
        bench.audit_with(&[&users[0], &users[1]]);
    }
    load.never();
    bench
        .engine
        .set_pinned(PageRange::new(page(0), pages), false)
        .unwrap();
    sims.iter().for_each(|sim| sim.tables.map_fuse.never());
    users
        .iter()
        .for_each(|user| user.attachment.set_cap(u64::MAX).unwrap());
    for n in 0..pages {
        prop_assert_eq!(
            users[(n % 2) as usize].read(page(n)).unwrap(),
            model.get(&n).copied().unwrap_or(0)
        );
    }
    Ok(())
}

const PAGES: (Unit, u64, u64) = (Unit::Page, 800, 300);
const BLOCKS: (Unit, u64, u64) = (Unit::Block, 6 * 512, 4 * 512);

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whoever_reads_finds_what_was_written_last_whatever_fails(steps in steps(PAGES.1)) {
        history(steps, PAGES, Sim::reaching)?;
    }

    #[test]
    fn accelerators_that_use_their_own_memory_only_find_what_was_written_last(steps in steps(PAGES.1)) {
        history(steps, PAGES, Sim::new)?;
    }

    #[test]
    fn beneath_a_guest_that_uses_blocks_too(steps in steps(BLOCKS.1)) {
        history(steps, BLOCKS, Sim::reaching)?;
    }
}
