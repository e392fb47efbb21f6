//! Random histories against a model: whatever happens, a page reads as it was last written.

use crate::simulated::{Fuse, bench_with, hbm, zip};
use crate::watched::Flaky;
use gmem_core::engine::{Destination, Outcome};
use gmem_core::page::{PageNo, PageRange, Unit};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

#[derive(Clone, Debug)]
enum Step {
    Touch(u64),
    Write(u64, u64),
    Scan(u64, u64),
    Migrate(u64, u64, u8),
    Free(u64, u64),
    Pin(u64, bool),
    Promote(u64),
    FillBlock(u64),
    FailUnmap(i64),
    Budget(u64),
    FailStore(i64),
    FailLoad(i64),
}

fn steps(pages: u64) -> impl Strategy<Value = Vec<Step>> {
    let page = 0..pages;
    let step = prop_oneof![
        4 => page.clone().prop_map(Step::Touch),
        8 => (page.clone(), 0u64..2000).prop_map(|(page, word)| Step::Write(page, word)),
        3 => (page.clone(), 1u64..700).prop_map(|(page, length)| Step::Scan(page, length)),
        3 => (page.clone(), 1u64..700, 0u8..5).prop_map(|(page, length, to)| Step::Migrate(page, length, to)),
        3 => (page.clone(), 1u64..1200).prop_map(|(page, length)| Step::Free(page, length)),
        3 => page.clone().prop_map(Step::Promote),
        2 => page.clone().prop_map(Step::FillBlock),
        1 => (page, any::<bool>()).prop_map(|(page, pinned)| Step::Pin(page, pinned)),
        1 => (0i64..700).prop_map(Step::FailUnmap),
        1 => (0u64..4096).prop_map(Step::Budget),
        1 => (0i64..40).prop_map(Step::FailStore),
        1 => (0i64..40).prop_map(Step::FailLoad),
    ];
    prop::collection::vec(step, 1..60)
}

fn history(unit: Unit, pages: u64, host: u64, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (store, load) = (Fuse::new(), Fuse::new());
    let flaky = |inner| {
        Box::new(Flaky {
            inner,
            store_fuse: store.clone(),
            load_fuse: load.clone(),
        })
    };
    let tiers: Vec<Box<dyn gmem_core::hnode::Hnode>> =
        vec![flaky(hbm(1024)), flaky(zip(2 << 20)), flaky(hbm(pages))];
    let bench = bench_with(pages, host, unit, tiers, true).unwrap();
    let mut model: HashMap<u64, u64> = HashMap::new();
    let mut pins = HashSet::new();
    let mut faults = bench.engine.faults();
    let mut present = |page: u64| {
        // A touch may fail once, when a load does; the page is then where it was, and the next touch works.
        for _ in 0..3 {
            if bench.guest.read(PageNo(page)).is_some() {
                break;
            }
            if let Ok(Outcome::Waiting) = faults.handle(PageNo(page), Instant::now()) {
                break;
            }
        }
        bench.guest.read(PageNo(page))
    };
    for step in steps {
        match step {
            Step::Touch(page) => {
                let found = present(page);
                prop_assert_eq!(found, Some(model.get(&page).copied().unwrap_or(0)));
            }
            Step::Write(page, word) => {
                prop_assert!(present(page).is_some());
                bench.guest.write(PageNo(page), word);
                model.insert(page, word);
            }
            Step::Scan(from, length) => {
                for page in from..(from + length).min(pages) {
                    prop_assert_eq!(present(page), Some(model.get(&page).copied().unwrap_or(0)));
                }
            }
            Step::Migrate(from, length, to) => {
                let range = PageRange::new(PageNo(from), length.min(pages - from));
                let to = match to {
                    0 => Destination::Guest,
                    1 => Destination::Staged,
                    to => Destination::Tier(to - 1),
                };
                // Full, or an injected failure: both leave every page whole, which is what is checked.
                let _ = bench.engine.migrate(range, to);
            }
            Step::Free(from, length) => {
                let range = PageRange::new(PageNo(from), length.min(pages - from));
                let pinned = range.iter().filter(|page| pins.contains(&page.0)).count() as u64;
                match bench.engine.free(range) {
                    Ok(freed) => {
                        prop_assert_eq!((freed.pinned, freed.busy), (pinned, 0));
                        prop_assert!(freed.pages <= range.pages - pinned);
                        model.retain(|page, _| {
                            pins.contains(page) || !range.contains(PageNo(*page))
                        });
                    }
                    // An injected failure: each page is as it was, or free.
                    Err(_) => {
                        bench.guest.unmap_fuse.never();
                        for page in range.iter() {
                            let found = present(page.0);
                            prop_assert!(found.is_some());
                            if found == Some(0) && !pins.contains(&page.0) {
                                model.remove(&page.0);
                            }
                            prop_assert_eq!(found, Some(model.get(&page.0).copied().unwrap_or(0)));
                        }
                    }
                }
            }
            Step::Pin(page, pinned) => {
                // A pinned page holds something: a pin of one that does not means nothing.
                prop_assert!(present(page).is_some());
                let one = PageRange::new(PageNo(page), 1);
                bench.engine.set_pinned(one, pinned).unwrap();
                if pinned {
                    pins.insert(page);
                } else {
                    pins.remove(&page);
                }
            }
            Step::Promote(page) => {
                bench.engine.promote(PageNo(page)).unwrap();
            }
            // As far as there is room; then it may become one frame.
            Step::FillBlock(page) => {
                let range = PageRange::new(PageNo(page).block_start(), 512);
                let range = PageRange::new(range.start, 512.min(pages - range.start.0));
                let _ = bench.engine.migrate(range, Destination::Guest);
                bench.engine.promote(range.start).unwrap();
            }
            Step::FailUnmap(after) => bench.guest.unmap_fuse.fail_after(after),
            Step::Budget(more) => {
                prop_assert!(bench.engine.set_budget(host + more).is_ok());
            }
            Step::FailStore(after) => store.fail_after(after),
            Step::FailLoad(after) => load.fail_after(after),
        }
        let audit = bench.engine.audit(&bench.engine.quiesce());
        prop_assert_eq!(audit.contradictions, Vec::<String>::new());
    }
    store.never();
    load.never();
    bench.guest.unmap_fuse.never();
    for page in 0..pages {
        prop_assert_eq!(present(page), Some(model.get(&page).copied().unwrap_or(0)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn pages_read_as_they_were_last_written(steps in steps(3000)) {
        history(Unit::Page, 3000, 400, steps)?;
    }

    #[test]
    fn pages_of_blocks_that_become_one_frame_read_as_they_were_last_written(steps in steps(3000)) {
        history(Unit::Page, 3000, 2000, steps)?;
    }

    #[test]
    fn blocks_read_as_they_were_last_written(steps in steps(6 * 512)) {
        history(Unit::Block, 6 * 512, 4 * 512, steps)?;
    }
}
