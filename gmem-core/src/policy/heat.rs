//! How many bytes of each granule crossed an accelerator's link lately, in bounded memory.
//!
//! A count-min sketch: each granule has a counter in each of two rows, shared with others that fall on it; the lower of
//! the two is at most too high. Once in a while all are halved, so that what was used long ago is forgotten.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

/// Counters of a row: the least and the most.
const COUNTERS: (u64, u64) = (1 << 10, 1 << 20);
/// Bytes that count one; an access counts at least this much, as a transfer of fewer bytes takes no less time.
const LINE: u64 = 64;
/// All are halved when a counter has, on average, this part of what makes a granule hot: what is above it, then, is
/// hotter than others, and not only in their company.
const CROWDED: u64 = 8;

/// Bytes lately, by granule.
#[derive(Debug)]
pub struct Heat {
    rows: [Box<[AtomicU16]>; 2],
    /// Lines noted since all were halved.
    noted: AtomicU64,
}

impl Heat {
    /// For an accelerator whose memory has room for `granules`: only so many can be hot. Takes 8 bytes for each.
    pub fn new(granules: u64) -> Self {
        let (least, most) = COUNTERS;
        let counters = (2 * granules.min(most)).clamp(least, most);
        let row = || (0..counters).map(|_| AtomicU16::new(0)).collect();
        Self {
            rows: [row(), row()],
            noted: AtomicU64::new(0),
        }
    }

    /// Bytes that it takes.
    pub fn metadata_bytes(&self) -> u64 {
        (2 * self.rows[0].len() * size_of::<AtomicU16>()) as u64
    }

    /// How many bytes of `granule` were noted lately.
    pub fn of(&self, granule: u64) -> u64 {
        let counters = self.counters(granule);
        let counted = counters.map(|counter| counter.load(Ordering::Relaxed));
        u64::from(counted[0].min(counted[1])) * LINE
    }

    /// Notes `bytes` of `granule`, which has `pages`; returns how many were noted lately.
    pub fn note(&self, granule: u64, pages: u64, bytes: u64) -> u64 {
        let lines = bytes.div_ceil(LINE).clamp(1, u64::from(u16::MAX)) as u16;
        let whole = pages * crate::page::PAGE_SIZE as u64 / LINE;
        let noted = self.noted.fetch_add(u64::from(lines), Ordering::Relaxed);
        if noted >= self.rows[0].len() as u64 * whole / CROWDED {
            self.halve();
        }
        let counters = self.counters(granule);
        let counted = counters.map(|counter| update(counter, |now| now.saturating_add(lines)));
        u64::from(counted[0].min(counted[1])) * LINE
    }

    /// Forgets `granule`, as far as others allow: it was brought.
    pub fn forget(&self, granule: u64) {
        let counters = self.counters(granule);
        let least = counters.map(|counter| counter.load(Ordering::Relaxed));
        let least = least[0].min(least[1]);
        for counter in counters {
            update(counter, |now| now.saturating_sub(least));
        }
    }

    fn halve(&self) {
        self.noted.store(0, Ordering::Relaxed);
        for counter in self.rows.iter().flatten() {
            update(counter, |now| now / 2);
        }
    }

    fn counters(&self, granule: u64) -> [&AtomicU16; 2] {
        let at = |seed: u64| (granule.wrapping_add(1).wrapping_mul(seed) >> 32) as usize;
        let [first, second] = &self.rows;
        [
            &first[at(0x9e37_79b9_7f4a_7c15) % first.len()],
            &second[at(0xc2b2_ae3d_27d4_eb4f) % second.len()],
        ]
    }
}

/// Changes a counter; returns what it says then.
fn update(counter: &AtomicU16, change: impl Fn(u16) -> u16) -> u16 {
    let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
    let before = counter.fetch_update(set, get, |now| Some(change(now)));
    // It always changes.
    change(before.unwrap_or_else(|now| now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_granule_is_as_hot_as_what_was_accessed_of_it() {
        let heat = Heat::new(16);
        assert_eq!(heat.note(7, 1, 4000), 4032);
        assert_eq!(heat.note(7, 1, 8), 4096);
        heat.forget(7);
        assert_eq!(heat.note(7, 1, 8), 64);
    }

    #[test]
    fn a_few_hot_granules_are_told_from_many_cold_ones() {
        let heat = Heat::new(4096);
        for n in 0..200_000 {
            // A line of each of many, and of one as much as of a thousand others.
            heat.note(100 + n % 20_000, 1, 64);
            if n % 1000 == 0 {
                heat.note(7, 1, 1024);
            }
        }
        assert!(heat.note(7, 1, 64) >= 4096);
        let cold = 100_000..101_000;
        let hot = cold.filter(|granule| heat.note(*granule, 1, 64) >= 4096);
        assert!(hot.count() < 10);
    }

    #[test]
    fn what_was_used_long_ago_is_forgotten() {
        let heat = Heat::new(512);
        heat.note(3, 1, 4096 * 8);
        for n in 0..100_000 {
            heat.note(1000 + n, 1, 64);
        }
        assert!(heat.note(3, 1, 64) < 4096);
    }
}
