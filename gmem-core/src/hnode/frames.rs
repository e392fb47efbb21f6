//! Which frames of a tier are free: a bitmap, in which blocks are kept whole for as long as possible.

use super::{Frame, Usage};
use crate::page::{BLOCK_PAGES, PAGE_SIZE, Unit};
use std::sync::Mutex;

const WORDS_PER_BLOCK: usize = BLOCK_PAGES / 64;

/// Frames numbered from 0, of which some are free.
#[derive(Debug)]
pub(super) struct Frames {
    inner: Mutex<Inner>,
    total: u64,
}

#[derive(Debug)]
struct Inner {
    /// A set bit is a free frame.
    free: Vec<u64>,
    free_pages: u64,
    least_free: u64,
    /// The block from which pages are taken, so that others stay whole.
    open: usize,
    /// No block before this one is whole.
    whole_from: usize,
}

impl Frames {
    /// `total` frames, all free.
    pub(super) fn new(total: u64) -> Self {
        let mut free = vec![u64::MAX; (total as usize).div_ceil(64)];
        if let Some(last) = free.last_mut()
            && !total.is_multiple_of(64)
        {
            *last = (1 << (total % 64)) - 1;
        }
        let inner = Inner {
            free,
            free_pages: total,
            least_free: total,
            open: 0,
            whole_from: 0,
        };
        Self {
            inner: Mutex::new(inner),
            total,
        }
    }

    /// How many frames there are.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// How many are free.
    pub(super) fn free_pages(&self) -> u64 {
        self.lock().free_pages
    }

    /// How much is in use, where every frame takes a page's bytes.
    pub(super) fn usage(&self) -> Usage {
        let inner = self.lock();
        let bytes = |pages: u64| pages * PAGE_SIZE as u64;
        let pages = self.total - inner.free_pages;
        Usage {
            capacity_bytes: bytes(self.total),
            used_bytes: bytes(pages),
            peak_bytes: bytes(self.total - inner.least_free),
            pages,
        }
    }

    /// Takes a frame of this unit; a block's is aligned.
    pub(super) fn take(&self, unit: Unit) -> Option<Frame> {
        let mut inner = self.lock();
        let frame = match unit {
            Unit::Page => inner.take_page(),
            Unit::Block => inner.take_block(),
        }?;
        inner.free_pages -= unit.pages() as u64;
        inner.least_free = inner.least_free.min(inner.free_pages);
        Some(Frame(frame as u64))
    }

    /// Takes `pages` consecutive frames (a power of two of at most 64), aligned to their number.
    pub(super) fn take_run(&self, pages: usize) -> Option<Frame> {
        let mut inner = self.lock();
        let frame = match pages {
            1 => inner.take_page(),
            _ => inner.take_run(pages),
        }?;
        inner.free_pages -= pages as u64;
        inner.least_free = inner.least_free.min(inner.free_pages);
        Some(Frame(frame as u64))
    }

    /// Whether that could be had now. Free frames that do not lie together are no room.
    pub(super) fn has_run(&self, pages: usize) -> bool {
        let inner = self.lock();
        match pages {
            1 => inner.free_pages > 0,
            _ => inner.find_run(pages).is_some(),
        }
    }

    /// Gives back the frame.
    pub(super) fn give_back(&self, frame: Frame, unit: Unit) {
        let mut inner = self.lock();
        let first = frame.0 as usize;
        match unit {
            Unit::Page => {
                debug_assert!(
                    inner.free[first / 64] & 1 << (first % 64) == 0,
                    "freed twice"
                );
                inner.free[first / 64] |= 1 << (first % 64);
                inner.page_came_back(first / BLOCK_PAGES);
            }
            Unit::Block => {
                inner.free[first / 64..first / 64 + WORDS_PER_BLOCK].fill(u64::MAX);
                inner.whole_from = inner.whole_from.min(first / BLOCK_PAGES);
            }
        }
        inner.free_pages += unit.pages() as u64;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn take_page(&mut self) -> Option<usize> {
        let block = self.block_words(self.open);
        let word = self.free[block.clone()]
            .iter()
            .position(|word| *word != 0)
            .map(|at| block.start + at)
            .or_else(|| self.reopen())?;
        self.open = word / WORDS_PER_BLOCK;
        let bit = self.free[word].trailing_zeros() as usize;
        self.free[word] &= !(1 << bit);
        Some(word * 64 + bit)
    }

    fn take_run(&mut self, pages: usize) -> Option<usize> {
        let (word, at) = self.find_run(pages)?;
        self.free[word] &= !(u64::MAX >> (64 - pages) << at);
        Some(word * 64 + at)
    }

    /// A run within a word, from the open block on and then from the start.
    fn find_run(&self, pages: usize) -> Option<(usize, usize)> {
        let run = u64::MAX >> (64 - pages);
        let start = self.block_words(self.open).start;
        let free_at = |word: u64| (0..64).step_by(pages).find(|at| word >> at & run == run);
        let mut order = (start..self.free.len()).chain(0..start);
        order.find_map(|word| Some((word, free_at(self.free[word])?)))
    }

    /// Keeps the next take from searching: a tier that is nearly full frees one frame and takes it again.
    fn page_came_back(&mut self, block: usize) {
        let exhausted = |words: &[u64]| words.iter().all(|word| *word == 0);
        if exhausted(&self.free[self.block_words(self.open)]) {
            self.open = block;
        }
        if self.free[self.block_words(block)]
            .iter()
            .all(|word| *word == u64::MAX)
        {
            self.whole_from = self.whole_from.min(block);
        }
    }

    /// The first word with a free frame, in a block that is already broken if there is one.
    fn reopen(&self) -> Option<usize> {
        if self.free_pages == 0 {
            return None;
        }
        let mut whole = None;
        for (number, block) in self.free.chunks(WORDS_PER_BLOCK).enumerate() {
            let Some(at) = block.iter().position(|word| *word != 0) else {
                continue;
            };
            let word = number * WORDS_PER_BLOCK + at;
            if block.iter().any(|word| *word != u64::MAX) {
                return Some(word);
            }
            whole = whole.or(Some(word));
        }
        whole
    }

    fn take_block(&mut self) -> Option<usize> {
        if self.free_pages < BLOCK_PAGES as u64 {
            return None;
        }
        let blocks = self.free.chunks_exact(WORDS_PER_BLOCK).enumerate();
        let whole = |(_, block): &(usize, &[u64])| block.iter().all(|word| *word == u64::MAX);
        let found = blocks
            .skip(self.whole_from)
            .find(whole)
            .map(|(number, _)| number);
        self.whole_from = found.map_or(self.free.len() / WORDS_PER_BLOCK, |number| number + 1);
        let number = found?;
        let words = self.block_words(number);
        self.free[words].fill(0);
        Some(number * BLOCK_PAGES)
    }

    fn block_words(&self, number: usize) -> std::ops::Range<usize> {
        let start = (number * WORDS_PER_BLOCK).min(self.free.len());
        start..(start + WORDS_PER_BLOCK).min(self.free.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_frame_is_given_once_to_the_last() {
        let frames = Frames::new(1000);
        let mut seen: Vec<_> = std::iter::from_fn(|| frames.take(Unit::Page)).collect();
        seen.sort();
        assert_eq!(seen, (0..1000).map(Frame).collect::<Vec<_>>());
        assert_eq!(
            (frames.free_pages(), frames.usage().peak_bytes),
            (0, 4_096_000)
        );
    }

    #[test]
    fn pages_leave_other_blocks_whole() {
        let frames = Frames::new(4 * 512);
        for _ in 0..512 {
            frames.take(Unit::Page).expect("there is room");
        }
        assert_eq!((0..3).filter_map(|_| frames.take(Unit::Block)).count(), 3);
    }

    proptest! {
        #[test]
        fn no_frame_has_two_owners_and_none_is_forgotten(ops in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..300)) {
            let frames = Frames::new(3 * 512 + 100);
            let mut owned: BTreeMap<u64, Unit> = BTreeMap::new();
            for (op, which) in ops {
                if op < 3 {
                    let unit = if op == 0 { Unit::Block } else { Unit::Page };
                    if let Some(frame) = frames.take(unit) {
                        let end = frame.0 + unit.pages() as u64;
                        prop_assert!(end <= frames.total());
                        let before = owned.range(..end).next_back().map(|(start, unit)| start + unit.pages() as u64);
                        prop_assert!(before.is_none_or(|before| before <= frame.0));
                        owned.insert(frame.0, unit);
                    }
                } else if !owned.is_empty() {
                    let frame = *owned.keys().nth(which.index(owned.len())).unwrap();
                    frames.give_back(Frame(frame), owned.remove(&frame).unwrap());
                }
                let used: u64 = owned.values().map(|unit| unit.pages() as u64).sum();
                prop_assert_eq!(frames.free_pages(), frames.total() - used);
            }
        }
    }
}
