//! What pages' uses so far say of their next one.
//!
//! An interval begins when a page is used and ends when it is used again. Pages whose last intervals were alike are a class;
//! of each class it is counted how many intervals begin, and at what age they end. Old counts fade.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Classes of pages.
pub(super) const CLASSES: usize = 26;
/// Steps of age.
pub(super) const AGES: usize = 20;
/// Ages are counted in ticks, and begin anew after so many.
pub(super) const TICKS: u32 = 1 << 10;
/// What one event counts, so that it can fade.
const ONE: u32 = 256;
/// Part of a count that is left when it fades, of 256.
const KEPT: u64 = 248;
/// Intervals of each class that are taken for granted before there is experience.
const PRIOR: f32 = 16.0;

/// What is kept of a page's uses, in the 16 bits of an entry's history: the tick of the latest use, and a code.
///
/// The code of a page that was used again is its smoothed interval, in quarters of octaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct History {
    pub(super) tick: u32,
    code: u32,
}

/// A page that was touched once.
const ONCE: u32 = 0;
/// A page that came along and was not touched yet.
const ALONG: u32 = 1;
/// The code of an interval of no tick.
const AT_ONCE: u32 = 2;
const CODES: u32 = 1 << 6;

impl History {
    pub(super) fn unpack(bits: u16) -> Self {
        let bits = u32::from(bits);
        Self {
            tick: bits % TICKS,
            code: bits / TICKS,
        }
    }

    pub(super) fn pack(self) -> u16 {
        (self.tick % TICKS + self.code * TICKS) as u16
    }

    /// Of a page that came in at `tick` for the first time.
    pub(super) fn new(tick: u32, touched: bool) -> Self {
        let code = if touched { ONCE } else { ALONG };
        Self { tick, code }
    }

    /// After it came in at `tick` along with another.
    pub(super) fn along(self, tick: u32) -> Self {
        let code = if self.code == ONCE { ALONG } else { self.code };
        Self { tick, code }
    }

    /// After a use at `tick`, `interval` ticks after the one before it.
    pub(super) fn used(self, tick: u32, interval: u32) -> Self {
        let quarters = match interval.checked_ilog2() {
            None => 0,
            Some(octave) => 4 * (octave + 1) + ((interval << 2 >> octave) & 3),
        };
        let latest = (AT_ONCE + quarters).min(CODES - 1);
        let code = match self.code {
            ONCE | ALONG => latest,
            // Half of the way, and all of it in the end.
            before if latest > before => (before + latest).div_ceil(2),
            before => (before + latest) / 2,
        };
        Self { tick, code }
    }

    pub(super) fn age(self, now: u32) -> u32 {
        now.wrapping_sub(self.tick) % TICKS
    }

    pub(super) fn class(self) -> usize {
        match self.code {
            ONCE | ALONG => self.code as usize,
            code => (2 + (code - AT_ONCE) as usize / 2).min(CLASSES - 1),
        }
    }
}

/// The step of an age: each tick up to 4, then two steps to an octave.
pub(super) fn step(ticks: u32) -> usize {
    if ticks < 4 {
        return ticks as usize;
    }
    let octave = ticks.ilog2();
    let half = ticks >> (octave - 1) & 1;
    (2 * octave + half).min(AGES as u32 - 1) as usize
}

/// The first tick of a step.
fn first(step: usize) -> u32 {
    if step < 4 {
        return step as u32;
    }
    (2 + (step as u32 & 1)) << (step / 2 - 1)
}

/// Counts of intervals.
#[derive(Debug)]
pub(super) struct Reuse {
    begun: [AtomicU32; CLASSES],
    ended: [[AtomicU32; AGES]; CLASSES],
}

impl Default for Reuse {
    fn default() -> Self {
        Self {
            begun: [const { AtomicU32::new(0) }; CLASSES],
            ended: [const { [const { AtomicU32::new(0) }; AGES] }; CLASSES],
        }
    }
}

impl Reuse {
    /// An interval begins.
    pub(super) fn begin(&self, page: History) {
        self.begun[page.class()].fetch_add(ONE, Relaxed);
    }

    /// The page's interval ends now.
    pub(super) fn end(&self, page: History, now: u32) {
        self.ended[page.class()][step(page.age(now))].fetch_add(ONE, Relaxed);
    }

    /// Forgets a part of all. What is counted meanwhile may be lost.
    pub(super) fn fade(&self) {
        for counter in self.begun.iter().chain(self.ended.iter().flatten()) {
            counter.store(
                (u64::from(counter.load(Relaxed)) * KEPT / 256) as u32,
                Relaxed,
            );
        }
    }

    /// Of pages of `class`, by age: how many uses each tick of keeping one yields, if it is kept for the time for which
    /// that is the most.
    pub(super) fn densities(&self, class: usize) -> [f32; AGES] {
        let count = |counter: &AtomicU32| counter.load(Relaxed) as f32 / ONE as f32;
        let begun = count(&self.begun[class]) + PRIOR;
        let ended: [f32; AGES] = std::array::from_fn(|age| {
            (count(&self.ended[class][age]) + PRIOR * expected(class, age)) / begun
        });
        // Pages that are left at each age; where counts fade, more may have ended than begun.
        let (mut left, mut rest) = ([0.0; AGES], 1.0_f32);
        for age in 0..AGES {
            left[age] = rest.max(0.02);
            rest -= ended[age];
        }
        std::array::from_fn(|age| {
            let (mut uses, mut kept, mut best) = (0.0, 0.0, 0.0_f32);
            for later in age..AGES {
                let width = (first(later + 1) - first(later)) as f32;
                uses += ended[later];
                kept += (left[later] - ended[later] / 2.0).max(0.01) * width;
                best = best.max(uses / kept);
            }
            best
        })
    }
}

/// Before there is experience: what part of the intervals of `class` ends at this step of age. Pages that were used again
/// will be, after about as long; of others, half as many.
fn expected(class: usize, age: usize) -> f32 {
    let (octave, part) = match class {
        0 => (7, 0.35),
        1 => (9, 0.35),
        _ => ((class - 2) / 2, 0.7),
    };
    let about = if octave < 3 { octave } else { 2 * octave - 2 };
    if age + 3 >= about && age < about + 3 {
        part / 6.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_history_fits_its_bits_and_has_a_class(bits: u16, now: u32, interval in 0..TICKS) {
            let history = History::unpack(bits);
            prop_assert_eq!(history.pack(), bits);
            let used = history.used(now, interval);
            prop_assert_eq!(History::unpack(used.pack()).age(now), 0);
            prop_assert!(used.class() < CLASSES && history.class() < CLASSES);
        }

        #[test]
        fn an_age_lies_in_its_step(ticks in 0..TICKS) {
            let step = step(ticks);
            prop_assert!(first(step) <= ticks);
            prop_assert!(ticks < first(step + 1) || step == AGES - 1);
        }
    }

    #[test]
    fn a_page_that_keeps_its_interval_has_it_as_its_code() {
        let mut page = History::new(0, true).used(5, 1);
        for _ in 0..8 {
            page = page.used(5, 16);
        }
        assert_eq!(page, History::new(0, true).used(5, 16));
    }

    #[test]
    fn what_is_used_at_a_certain_age_is_worth_more_the_nearer_it_is_and_nothing_after_it() {
        let reuse = Reuse::default();
        let page = History::new(0, true);
        for _ in 0..1000 {
            reuse.begin(page);
            reuse.end(page, 8);
        }
        let densities = reuse.densities(page.class());
        let at = |ticks| densities[step(ticks)];
        assert!(at(0) < at(4) && at(4) < at(6), "{densities:?}");
        assert!(at(12) < at(0) / 2.0, "{densities:?}");
    }
}
