//! A failure at every step of a migration: the page is where it was, with its bytes.

use crate::simulated::{Bench, Fuse, bench, hbm};
use crate::watched::Flaky;
use gmem_core::engine::Destination;
use gmem_core::page::{PageNo, PageRange, Unit};
use std::sync::Arc;
use std::time::Instant;

struct Trial {
    bench: Bench,
    store: Arc<Fuse>,
    load: Arc<Fuse>,
}

const PAGES: u64 = 1024;

fn trial(unit: Unit) -> Trial {
    let (store, load) = (Fuse::new(), Fuse::new());
    let flaky = |pages| {
        Box::new(Flaky {
            inner: hbm(pages),
            store_fuse: store.clone(),
            load_fuse: load.clone(),
        })
    };
    let bench = bench(PAGES, 4096, unit, vec![flaky(2048), flaky(2048)]);
    let mut faults = bench.engine.faults();
    for page in 0..PAGES {
        if bench.guest.read(PageNo(page)).is_none() {
            faults.handle(PageNo(page), Instant::now()).unwrap();
        }
        bench.guest.write(PageNo(page), page + 100);
    }
    drop(faults);
    Trial { bench, store, load }
}

impl Trial {
    /// Every page has its bytes, wherever it is, and the books agree.
    fn is_whole(&self) {
        for fuse in [
            &self.store,
            &self.load,
            &self.bench.guest.map_fuse,
            &self.bench.guest.unmap_fuse,
        ] {
            fuse.never();
        }
        self.bench.audit();
        let mut faults = self.bench.engine.faults();
        for page in 0..PAGES {
            if self.bench.guest.read(PageNo(page)).is_none() {
                faults.handle(PageNo(page), Instant::now()).unwrap();
            }
            assert_eq!(
                self.bench.guest.read(PageNo(page)),
                Some(page + 100),
                "page {page}"
            );
        }
        drop(faults);
        self.bench.audit();
    }
}

fn at_each_step(
    unit: Unit,
    fail: impl Fn(&Trial, i64),
    prepare: Option<Destination>,
    to: Destination,
) {
    let range = PageRange::new(PageNo(0), PAGES);
    let mut failed = 0;
    for step in [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 200, 511, 512, 513, 1000] {
        let trial = trial(unit);
        if let Some(place) = prepare {
            trial.bench.engine.migrate(range, place).unwrap();
        }
        fail(&trial, step);
        let result = trial.bench.engine.migrate(range, to);
        let stored_elsewhere = trial.bench.engine.snapshot().store_errors > 0;
        failed += u32::from(stored_elsewhere || result.map_or(true, |done| done.stayed > 0));
        trial.is_whole();
    }
    assert!(failed > 0, "no failure was seen");
}

#[test]
fn when_a_page_cannot_be_unmapped() {
    for unit in [Unit::Page, Unit::Block] {
        at_each_step(
            unit,
            |trial, step| trial.bench.guest.unmap_fuse.fail_after(step),
            None,
            Destination::Staged,
        );
    }
}

#[test]
fn when_a_tier_cannot_store() {
    for unit in [Unit::Page, Unit::Block] {
        at_each_step(
            unit,
            |trial, step| trial.store.fail_after(step),
            None,
            Destination::Tier(1),
        );
    }
}

#[test]
fn when_a_tier_cannot_load_what_is_touched() {
    for unit in [Unit::Page, Unit::Block] {
        let prepare = Some(Destination::Tier(1));
        at_each_step(
            unit,
            |trial, step| trial.load.fail_after(step),
            prepare,
            Destination::Guest,
        );
    }
}

#[test]
fn when_a_tier_cannot_load_what_is_demoted() {
    for unit in [Unit::Page, Unit::Block] {
        let prepare = Some(Destination::Tier(1));
        at_each_step(
            unit,
            |trial, step| trial.load.fail_after(step),
            prepare,
            Destination::Tier(2),
        );
    }
}

#[test]
fn when_the_tier_below_cannot_store_what_is_demoted() {
    for unit in [Unit::Page, Unit::Block] {
        let prepare = Some(Destination::Tier(1));
        at_each_step(
            unit,
            |trial, step| trial.store.fail_after(step),
            prepare,
            Destination::Tier(2),
        );
    }
}

#[test]
fn when_a_page_cannot_be_mapped() {
    for unit in [Unit::Page, Unit::Block] {
        for prepare in [Destination::Tier(1), Destination::Staged] {
            let fail = |trial: &Trial, step| trial.bench.guest.map_fuse.fail_after(step);
            at_each_step(unit, fail, Some(prepare), Destination::Guest);
        }
    }
}
