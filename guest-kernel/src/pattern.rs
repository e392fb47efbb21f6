//! What a page contains: a function of seed, address and epoch.
//!
//! Words are cheap to make (a multiplication each), so that a workload runs at the memory's speed.

use crate::math::random::{GOLDEN, mix};
use crate::memory::PAGE_SIZE;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Which kinds of content the pages have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Of eight pages in a row four compressible, two random, one same-filled, one zero. A page's kind
    /// changes from epoch to epoch.
    Mixed,
    /// All random.
    Random,
    /// All compressible.
    Compressible,
    /// All zero.
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Does not compress.
    Random,
    /// Of sixteen words five are random and the others the page's own: lz4 makes it 2 to 3 times smaller.
    Compressible,
    /// One word repeated.
    Same,
    Zero,
}

const MIXED: [Kind; 8] = [
    Kind::Compressible,
    Kind::Random,
    Kind::Compressible,
    Kind::Same,
    Kind::Compressible,
    Kind::Random,
    Kind::Compressible,
    Kind::Zero,
];

/// The content of one page.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    kind: Kind,
    base: u64,
}

/// A word that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Its address.
    pub address: u64,
    /// What was written.
    pub expected: u64,
    /// What was read.
    pub found: u64,
}

impl Mismatch {
    /// How many of the eight bytes differ.
    pub fn bytes(&self) -> u64 {
        let difference = (self.expected ^ self.found).to_le_bytes();
        difference.iter().filter(|&&byte| byte != 0).count() as u64
    }
}

impl Pattern {
    /// The content of the page at `address` in `epoch`.
    #[inline]
    pub fn new(fill: Fill, seed: u64, address: u64, epoch: u64) -> Self {
        let number = address / PAGE_SIZE;
        let kind = match fill {
            Fill::Mixed => MIXED[(number.wrapping_add(epoch) % 8) as usize],
            Fill::Random => Kind::Random,
            Fill::Compressible => Kind::Compressible,
            Fill::Zero => Kind::Zero,
        };
        // Never zero, so that a same-filled page is not a zero page.
        let base = mix(seed ^ mix(number ^ mix(epoch.wrapping_add(GOLDEN)))) | 1;
        Self { kind, base }
    }

    /// The word of the page with this index.
    #[inline]
    pub fn word(&self, index: usize) -> u64 {
        match self.kind {
            Kind::Random => random(self.base, index),
            Kind::Compressible => compressible(self.base, index),
            Kind::Same => self.base,
            Kind::Zero => 0,
        }
    }

    /// Writes the words `range` of a page, whose words are `words`.
    #[inline]
    pub fn write(&self, words: &[AtomicU64], range: Range<usize>) {
        let store = |word: fn(u64, usize) -> u64| {
            for index in range.clone() {
                words[index].store(word(self.base, index), Relaxed);
            }
        };
        match self.kind {
            Kind::Random => store(random),
            Kind::Compressible => store(compressible),
            Kind::Same => store(|base, _| base),
            Kind::Zero => store(|_, _| 0),
        }
    }

    /// Compares the words `range` of the page at `address` and calls `report` for each that differs.
    #[inline]
    pub fn check(
        &self,
        words: &[AtomicU64],
        range: Range<usize>,
        address: u64,
        report: &mut dyn FnMut(Mismatch),
    ) {
        match self.kind {
            Kind::Random => self.compare(words, range, address, report, random),
            Kind::Compressible => self.compare(words, range, address, report, compressible),
            Kind::Same => self.compare(words, range, address, report, |base, _| base),
            Kind::Zero => self.compare(words, range, address, report, |_, _| 0),
        }
    }

    #[inline(always)]
    fn compare(
        &self,
        words: &[AtomicU64],
        range: Range<usize>,
        address: u64,
        report: &mut dyn FnMut(Mismatch),
        word: impl Fn(u64, usize) -> u64,
    ) {
        // Without a branch in the loop: nearly always all words are right.
        let mut difference = 0;
        for index in range.clone() {
            difference |= words[index].load(Relaxed) ^ word(self.base, index);
        }
        if difference == 0 {
            return;
        }
        for index in range {
            let (expected, found) = (word(self.base, index), words[index].load(Relaxed));
            if expected != found {
                report(Mismatch {
                    address: address + index as u64 * 8,
                    expected,
                    found,
                });
            }
        }
    }
}

/// Multiples of the odd `base`: what two pages' words differ by changes from word to word. (Were it the same for all,
/// one page in 128 would have a byte in each word that is also the other page's.)
#[inline(always)]
fn random(base: u64, index: usize) -> u64 {
    let value = base.wrapping_mul((index as u64).wrapping_add(0xd134_2543_de82_ef95));
    value ^ (value >> 32)
}

#[inline(always)]
fn compressible(base: u64, index: usize) -> u64 {
    if index % 16 < 5 {
        random(base, index)
    } else {
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{PAGE_WORDS, Page};
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn page() -> Page {
        [const { AtomicU64::new(0x5555) }; PAGE_WORDS]
    }

    fn bytes(pattern: Pattern) -> Vec<u8> {
        let page = page();
        pattern.write(&page, 0..PAGE_WORDS);
        page.iter()
            .flat_map(|word| word.load(Relaxed).to_le_bytes())
            .collect()
    }

    #[test]
    fn what_was_written_is_found_and_one_wrong_bit_too() {
        for number in 0..8 {
            let address = 0x40_0000 + number * PAGE_SIZE;
            let pattern = Pattern::new(Fill::Mixed, 1, address, 2);
            let page = page();
            pattern.write(&page, 0..PAGE_WORDS);
            let mut found = Vec::new();
            pattern.check(&page, 0..PAGE_WORDS, address, &mut |m| found.push(m));
            assert_eq!(found, []);
            let good = page[77].fetch_xor(1 << 40 | 1, Relaxed);
            pattern.check(&page, 0..PAGE_WORDS, address, &mut |m| found.push(m));
            let [mismatch] = found[..] else {
                panic!("{found:?}")
            };
            assert_eq!((mismatch.address, mismatch.expected), (address + 616, good));
            assert_eq!(mismatch.bytes(), 2);
        }
    }

    #[test]
    fn pages_differ_by_seed_address_and_epoch() {
        let mut contents = BTreeSet::new();
        for seed in 0..4 {
            for number in 0..64 {
                for epoch in 0..4 {
                    let address = 0x20_0000 + number * PAGE_SIZE;
                    contents.insert(bytes(Pattern::new(Fill::Random, seed, address, epoch)));
                    contents.insert(bytes(Pattern::new(
                        Fill::Compressible,
                        seed,
                        address,
                        epoch,
                    )));
                }
            }
        }
        assert_eq!(contents.len(), 2 * 4 * 64 * 4);
    }

    #[test]
    fn a_page_of_another_epoch_or_address_differs_in_nearly_every_byte() {
        for number in 0..2_000 {
            let address = 0x7f00_0000_0000 + number * PAGE_SIZE;
            let here = Pattern::new(Fill::Random, 1, address, 1);
            for (other, epoch) in [(address, 0), (address + 8 * PAGE_SIZE, 1)] {
                let page = page();
                Pattern::new(Fill::Random, 1, other, epoch).write(&page, 0..PAGE_WORDS);
                let mut wrong = 0;
                here.check(&page, 0..PAGE_WORDS, address, &mut |m| wrong += m.bytes());
                assert!(wrong > 4_000, "page {number}: {wrong} bytes differ");
            }
        }
    }

    #[test]
    fn the_mixture_compresses_as_documented() {
        let mut kinds = [0; 4];
        for number in 0..8 {
            let content = bytes(Pattern::new(Fill::Mixed, 9, number * PAGE_SIZE, 0));
            let size = lz4_flex::block::compress(&content).len();
            let kind = match size {
                0..100 if content[0] == 0 => 0,
                0..100 => 1,
                1_365..2_048 => 2,
                4_096.. => 3,
                _ => panic!("page {number} takes {size} bytes"),
            };
            kinds[kind] += 1;
        }
        assert_eq!(
            kinds,
            [1, 1, 4, 2],
            "zero, same-filled, compressible, random"
        );
    }

    #[test]
    fn kinds_move_from_epoch_to_epoch() {
        let kind = |epoch| Pattern::new(Fill::Mixed, 1, 0x20_0000, epoch).kind;
        assert!((0..8).any(|epoch| kind(epoch) == Kind::Zero));
        assert!((0..8).any(|epoch| kind(epoch) == Kind::Random));
    }
}
