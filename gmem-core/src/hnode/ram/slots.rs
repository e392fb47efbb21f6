//! Which slots of an area are free, with a frame in them or without.

use crate::page::{bits, runs};

/// Slots of one size. A slot is *full* (free, with a frame to be used again), *empty* (free, without a
/// frame), or in use.
#[derive(Debug)]
pub(super) struct Slots {
    full: Set,
    empty: Set,
}

/// A set of slot numbers.
#[derive(Debug)]
struct Set {
    words: Vec<u64>,
    count: usize,
}

impl Slots {
    /// `total` slots, all empty.
    pub(super) fn new(total: usize) -> Self {
        let mut empty = Set {
            words: vec![0; total.div_ceil(64)],
            count: 0,
        };
        empty.insert(0, total);
        Self {
            full: Set {
                words: vec![0; total.div_ceil(64)],
                count: 0,
            },
            empty,
        }
    }

    /// How many free slots have a frame.
    pub(super) fn full(&self) -> usize {
        self.full.count
    }

    /// How many free slots have none.
    pub(super) fn empty(&self) -> usize {
        self.empty.count
    }

    /// Takes up to `most` (at least 1, at most 64) consecutive full slots: as (first, how many).
    pub(super) fn take_full(&mut self, most: usize) -> Option<(usize, usize)> {
        self.full.take(most)
    }

    /// Takes up to `most` consecutive empty slots.
    pub(super) fn take_empty(&mut self, most: usize) -> Option<(usize, usize)> {
        self.empty.take(most)
    }

    /// Gives back slots with frames in them.
    pub(super) fn give_full(&mut self, first: usize, count: usize) {
        self.full.insert(first, count);
    }

    /// Gives back slots without frames.
    pub(super) fn give_empty(&mut self, first: usize, count: usize) {
        self.empty.insert(first, count);
    }

    /// Memory of the sets themselves, bytes.
    pub(super) fn metadata_bytes(&self) -> usize {
        (self.full.words.len() + self.empty.words.len()) * size_of::<u64>()
    }
}

impl Set {
    fn insert(&mut self, first: usize, count: usize) {
        let mut slot = first;
        while slot < first + count {
            let (word, bit) = (slot / 64, slot % 64);
            let here = (64 - bit).min(first + count - slot);
            debug_assert!(
                self.words[word] & bits(bit, here) == 0,
                "a slot is given back twice"
            );
            self.words[word] |= bits(bit, here);
            slot += here;
        }
        self.count += count;
    }

    /// One slot is taken where the set is broken already, many where it is whole: so that whole groups
    /// stay for those who want many.
    fn take(&mut self, most: usize) -> Option<(usize, usize)> {
        if self.count == 0 {
            return None;
        }
        let mut best: Option<(usize, usize)> = None;
        for (number, word) in self
            .words
            .iter()
            .enumerate()
            .filter(|(_, word)| **word != 0)
        {
            if most == 1 {
                best = Some((number * 64 + word.trailing_zeros() as usize, 1));
                if *word != u64::MAX {
                    break;
                }
                continue;
            }
            for (first, length) in runs(*word) {
                if best.is_none_or(|(_, longest)| length > longest) {
                    best = Some((number * 64 + first, length));
                }
            }
            if best.is_some_and(|(_, longest)| longest >= most) {
                break;
            }
        }
        let (first, length) = best?;
        let taken = length.min(most);
        self.words[first / 64] &= !bits(first % 64, taken);
        self.count -= taken;
        Some((first, taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_slot_is_taken_where_the_set_is_broken_already() {
        let mut slots = Slots::new(128);
        assert_eq!(slots.take_empty(64), Some((0, 64)));
        slots.give_empty(3, 2);
        assert_eq!(slots.take_empty(1), Some((3, 1)));
        assert_eq!(
            slots.take_empty(64),
            Some((64, 64)),
            "the whole group stayed"
        );
    }

    proptest! {
        #[test]
        fn a_slot_is_full_or_empty_or_in_use_and_never_two_of_them(ops in prop::collection::vec((0u8..4, 1usize..65), 1..200)) {
            let mut slots = Slots::new(300);
            let (mut used, mut seen) = (Vec::new(), [false; 300]);
            for (op, most) in ops {
                let taken = match op {
                    0 => slots.take_full(most),
                    1 => slots.take_empty(most),
                    _ => {
                        if let Some((first, count)) = used.pop() {
                            let _: &mut [bool] = { seen[first..first + count].fill(false); &mut seen };
                            if op == 2 { slots.give_full(first, count) } else { slots.give_empty(first, count) }
                        }
                        None
                    }
                };
                if let Some((first, count)) = taken {
                    prop_assert!(count >= 1 && count <= most);
                    prop_assert!(seen[first..first + count].iter().all(|seen| !seen), "taken twice");
                    seen[first..first + count].fill(true);
                    used.push((first, count));
                }
                let in_use: usize = used.iter().map(|(_, count)| count).sum();
                prop_assert_eq!(slots.full() + slots.empty() + in_use, 300);
            }
        }
    }
}
