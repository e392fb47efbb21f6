//! Pages that check themselves: one word of each holds a tag, the next one counts the writes.
//!
//! Both lie in a cache line that depends on the page: at one offset in all pages they would fight for a few
//! sets of the caches. The rest of the page has a pattern, which is checked in the end.

use super::{Crew, Machine, Tally};
use crate::math::random::mix;
use crate::memory::{PAGE_SIZE, PAGE_WORDS};
use crate::pattern::{Mismatch, Pattern};
use core::sync::atomic::Ordering::Relaxed;

/// Bytes of a page but for its counter.
const CHECKED_BYTES: u64 = PAGE_SIZE - 8;

#[derive(Clone, Copy)]
struct Tag {
    value: u64,
    /// Index of the word with the tag; the counter is the next one.
    word: usize,
}

impl Tag {
    #[inline]
    fn new(seed: u64, address: u64) -> Self {
        let value = mix(seed ^ address);
        Self {
            value,
            word: (value % 64) as usize * 8,
        }
    }
}

/// Writes all of this CPU's pages, with counters of 0.
pub(super) fn initialise<M: Machine>(crew: &Crew<'_, M>) {
    let pages = crew.own_pages();
    for index in pages.clone() {
        let (page, address) = (crew.set.page(index), crew.set.address(index));
        let tag = Tag::new(crew.plan.seed, address);
        Pattern::new(crew.plan.fill, crew.plan.seed, address, 0).write(page, 0..PAGE_WORDS);
        page[tag.word].store(tag.value, Relaxed);
        page[tag.word + 1].store(0, Relaxed);
        report(crew, "initialised", index, &pages);
    }
}

/// One operation on a page: checks its tag, and counts if it writes.
#[inline]
pub(super) fn touch<M: Machine>(crew: &Crew<'_, M>, index: u64, write: bool, tally: &mut Tally) {
    let address = crew.set.address(index);
    let tag = Tag::new(crew.plan.seed, address);
    let page = crew.set.page(index);
    check_tag(page[tag.word].load(Relaxed), tag, address, tally);
    if write {
        page[tag.word + 1].fetch_add(1, Relaxed);
        tally.writes += 1;
    }
    tally.compared += 8;
}

#[inline]
fn check_tag(found: u64, tag: Tag, address: u64, tally: &mut Tally) {
    if found != tag.value {
        tally.mismatch(Mismatch {
            address: address + tag.word as u64 * 8,
            expected: tag.value,
            found,
        });
    }
}

/// Compares all of another CPU's pages, and sums up their counters.
pub(super) fn check<M: Machine>(crew: &Crew<'_, M>, tally: &mut Tally) {
    let pages = crew.others_pages();
    for index in pages.clone() {
        let (page, address) = (crew.set.page(index), crew.set.address(index));
        let tag = Tag::new(crew.plan.seed, address);
        let pattern = Pattern::new(crew.plan.fill, crew.plan.seed, address, 0);
        let mut wrong = |found| tally.mismatch(found);
        pattern.check(page, 0..tag.word, address, &mut wrong);
        pattern.check(page, tag.word + 2..PAGE_WORDS, address, &mut wrong);
        check_tag(page[tag.word].load(Relaxed), tag, address, tally);
        let count = page[tag.word + 1].load(Relaxed);
        tally.counted = tally.counted.wrapping_add(count);
        tally.compared += CHECKED_BYTES;
        report(crew, "checked", index, &pages);
    }
}

#[inline]
fn report<M: Machine>(crew: &Crew<'_, M>, what: &str, index: u64, pages: &core::ops::Range<u64>) {
    // Asking the clock costs more than a small part of a page's work.
    if index.is_multiple_of(16) && crew.line_due(crate::clock::cycles()) {
        crew.machine.line(format_args!(
            "guest: {} {what} {}%",
            crew.plan.name,
            (index - pages.start) * 100 / (pages.end - pages.start)
        ));
    }
}
