//! `verify`: every page is written, then read back in another order, epoch after epoch.

use super::{Crew, Machine, Tally};
use crate::clock::cycles;
use crate::math::permutation::Permutation;
use crate::memory::{BLOCK_PAGES, PAGE_SIZE, PAGE_WORDS};
use crate::pattern::Pattern;
use core::hint::black_box;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

pub(super) fn run<M: Machine>(crew: &Crew<'_, M>, epochs: u64, tally: &mut Tally) {
    for epoch in 0..epochs {
        let of = (epoch, epochs);
        tally.timed_cycles += crew.timed(|| write(crew, of, crew.own_pages(), tally));
        tally.timed_cycles += crew.timed(|| read(crew, of, crew.others_pages(), tally));
    }
}

fn write<M: Machine>(crew: &Crew<'_, M>, of: (u64, u64), pages: Range<u64>, tally: &mut Tally) {
    let start = cycles();
    let mut before = start;
    for (done, index) in pages.clone().enumerate() {
        let page = crew.set.page(index);
        page[0].store(0, Relaxed);
        let now = cycles();
        tally.access(now.saturating_sub(before), crew.threshold);
        let pattern = Pattern::new(
            crew.plan.fill,
            crew.plan.seed,
            crew.set.address(index),
            of.0,
        );
        pattern.write(page, 0..PAGE_WORDS);
        report(crew, ("written", of), done as u64, &pages, start, now);
        before = cycles();
    }
    tally.ops += pages.end - pages.start;
}

fn read<M: Machine>(crew: &Crew<'_, M>, of: (u64, u64), pages: Range<u64>, tally: &mut Tally) {
    let start = cycles();
    for (done, index) in order(pages.clone(), crew.plan.seed, of.0).enumerate() {
        let page = crew.set.page(index);
        let before = cycles();
        black_box(page[0].load(Relaxed));
        let now = cycles();
        tally.access(now.saturating_sub(before), crew.threshold);
        let address = crew.set.address(index);
        let pattern = Pattern::new(crew.plan.fill, crew.plan.seed, address, of.0);
        pattern.check(page, 0..PAGE_WORDS, address, &mut |found| {
            tally.mismatch(found)
        });
        report(crew, ("read", of), done as u64, &pages, start, now);
    }
    tally.ops += pages.end - pages.start;
    tally.compared += (pages.end - pages.start) * PAGE_SIZE;
}

/// Blocks of 2 MiB in a random order, the pages of each from its end to its start.
fn order(pages: Range<u64>, seed: u64, epoch: u64) -> impl Iterator<Item = u64> {
    let blocks = (pages.end - pages.start).div_ceil(BLOCK_PAGES);
    let shuffle = Permutation::new(blocks, seed, epoch);
    (0..blocks).flat_map(move |at| {
        let first = pages.start + shuffle.get(at) * BLOCK_PAGES;
        (first..(first + BLOCK_PAGES).min(pages.end)).rev()
    })
}

#[inline]
fn report<M: Machine>(
    crew: &Crew<'_, M>,
    (what, (epoch, epochs)): (&str, (u64, u64)),
    done: u64,
    pages: &Range<u64>,
    start: u64,
    now: u64,
) {
    if crew.line_due(now) {
        crew.machine.line(format_args!(
            "guest: verify epoch {}/{epochs} {what} {}% {:.0} MB/s",
            epoch + 1,
            done * 100 / (pages.end - pages.start),
            crew.rate(done * PAGE_SIZE, start, now) / 1e6,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn the_reading_order_visits_each_page_once(start in 0u64..2_000, len in 0u64..3_000, seed: u64) {
            let mut pages: Vec<u64> = order(start..start + len, seed, 1).collect();
            pages.sort_unstable();
            prop_assert!(pages.into_iter().eq(start..start + len));
        }
    }

    #[test]
    fn the_reading_order_is_not_the_writing_order_and_changes() {
        let order = |epoch| -> Vec<u64> { order(0..10_240, 1, epoch).collect() };
        assert!(!order(0).is_sorted());
        assert_ne!(order(0), order(1));
    }
}
