//! Which blocks the guest has.

use std::ops::Range;

use serde::{Deserialize, Serialize};

const BITS: usize = u64::BITS as usize;

/// A bit for each block: set while it is plugged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plugged {
    blocks: usize,
    words: Vec<u64>,
}

impl Plugged {
    /// None of `blocks`.
    pub(super) fn none_of(blocks: usize) -> Self {
        Self {
            blocks,
            words: vec![0; blocks.div_ceil(BITS)],
        }
    }

    /// Whether this is about `blocks` blocks, as a snapshot may not be.
    pub(super) fn fits(&self, blocks: usize) -> bool {
        self.blocks == blocks
            && self.words.len() == blocks.div_ceil(BITS)
            && (blocks..self.words.len() * BITS).all(|beyond| !self.has(beyond))
    }

    fn has(&self, block: usize) -> bool {
        self.words
            .get(block / BITS)
            .is_some_and(|word| word >> (block % BITS) & 1 == 1)
    }

    /// Whether all of `blocks` are plugged.
    pub(super) fn all(&self, mut blocks: Range<usize>) -> bool {
        blocks.all(|block| self.has(block))
    }

    /// Whether any of `blocks` is plugged.
    pub(super) fn any(&self, mut blocks: Range<usize>) -> bool {
        blocks.any(|block| self.has(block))
    }

    /// Notes that `blocks`, all of them within the region, are plugged or not.
    pub(super) fn set(&mut self, blocks: Range<usize>, plugged: bool) {
        for block in blocks {
            let bit = 1 << (block % BITS);
            match plugged {
                true => self.words[block / BITS] |= bit,
                false => self.words[block / BITS] &= !bit,
            }
        }
    }

    /// How many are plugged.
    pub(super) fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// The first run of plugged blocks at or after `from`.
    pub(super) fn run(&self, from: usize) -> Option<Range<usize>> {
        let start = (from..self.blocks).find(|block| self.has(*block))?;
        let end = (start..self.blocks).find(|block| !self.has(*block));
        Some(start..end.unwrap_or(self.blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_go_across_words_and_end_with_the_region() {
        let mut plugged = Plugged::none_of(130);
        plugged.set(60..70, true);
        plugged.set(128..130, true);
        assert_eq!(plugged.run(0), Some(60..70));
        assert_eq!(plugged.run(65), Some(65..70));
        assert_eq!(plugged.run(70), Some(128..130));
        assert_eq!(plugged.run(130), None);
        assert_eq!(plugged.count(), 12);
        plugged.set(60..130, false);
        assert_eq!(plugged.run(0), None);
    }

    #[test]
    fn a_map_of_other_blocks_does_not_fit() {
        let mut plugged = Plugged::none_of(65);
        plugged.set(64..65, true);
        assert!(plugged.fits(65));
        assert!(!plugged.fits(64));
        assert!(!plugged.fits(66));
        plugged.words[1] = 2;
        assert!(!plugged.fits(65), "a bit beyond the last block");
        let mut whole = Plugged::none_of(64);
        whole.set(0..64, true);
        assert!(whole.fits(64));
    }
}
