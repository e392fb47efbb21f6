//! Sums.
//!
//! The order of an f32 sum: elements are grouped in blocks of 1024 (a page), the last one may be shorter. In a block, lane
//! `i` of 16 adds up elements `i`, `i + 16`, `i + 32` ... to 0, one after the other. The lanes' sums are added in pairs, lane
//! `i` and lane `i + 8`, then those `i` and `i + 4`, `i + 2`, `i + 1`. The blocks' sums are the leaves of a [`Tree`].

use crate::float::canonical;
use crate::{Error, elements};

/// Lanes in which a block is added up.
pub const LANES: usize = 16;
/// Elements of a block.
pub const BLOCK: usize = 1024;

/// The lanes' sum.
pub(crate) fn across(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Leaves added in pairs, the pairs' sums in pairs, and so on; a subtree that is not full yet when the leaves end is
/// added to the full one before it, the last first.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Bit `i` is set while `levels[i]` waits for its pair.
    leaves: u64,
    levels: [f32; u64::BITS as usize],
}

impl Tree {
    /// Without a leaf.
    pub const fn new() -> Self {
        Self {
            leaves: 0,
            levels: [0.0; u64::BITS as usize],
        }
    }

    /// The next leaf.
    pub fn push(&mut self, leaf: f32) {
        let pairs = self.leaves.trailing_ones() as usize;
        let full = self.levels.iter().take(pairs);
        let sum = full.fold(leaf, |sum, earlier| earlier + sum);
        if let Some(level) = self.levels.get_mut(pairs) {
            *level = sum;
        }
        self.leaves = self.leaves.wrapping_add(1);
    }

    /// The sum of all leaves; +0 if there are none.
    pub fn total(&self) -> f32 {
        let waiting = self.levels.iter().enumerate();
        let waiting = waiting.filter(|(level, _)| self.leaves >> level & 1 == 1);
        let sums = waiting.map(|(_, sum)| *sum);
        canonical(sums.reduce(|later, earlier| earlier + later).unwrap_or(0.0))
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

/// The sum of f32 that come in chunks.
#[derive(Clone, Debug)]
pub struct Sum {
    lanes: [f32; LANES],
    /// Elements of the block so far.
    filled: usize,
    blocks: Tree,
}

impl Sum {
    /// Of nothing so far.
    pub const fn new() -> Self {
        Self {
            lanes: [0.0; LANES],
            filled: 0,
            blocks: Tree::new(),
        }
    }

    /// Adds a chunk's elements.
    ///
    /// # Errors
    ///
    /// The length is no multiple of 4 bytes. Nothing is added.
    pub fn add(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let mut rest = elements(chunk)?;
        // To where a row of lanes begins, whole rows, and what is left.
        let head = (LANES - self.filled % LANES) % LANES;
        let (head, rows) = rest.split_at(head.min(rest.len()));
        self.add_row(head);
        rest = rows;
        let (rows, tail) = rest.as_chunks::<LANES>();
        for row in rows {
            for (lane, element) in self.lanes.iter_mut().zip(row) {
                *lane += f32::from_le_bytes(*element);
            }
            self.advance(LANES);
        }
        self.add_row(tail);
        Ok(())
    }

    /// The sum.
    pub fn total(mut self) -> f32 {
        if self.filled > 0 {
            self.blocks.push(across(self.lanes));
        }
        self.blocks.total()
    }

    /// Adds elements that do not go beyond the row of lanes that they begin in.
    fn add_row(&mut self, elements: &[[u8; 4]]) {
        let first = self.filled % LANES;
        for (lane, element) in self.lanes[first..].iter_mut().zip(elements) {
            *lane += f32::from_le_bytes(*element);
        }
        self.advance(elements.len());
    }

    fn advance(&mut self, elements: usize) {
        self.filled += elements;
        if self.filled == BLOCK {
            self.blocks.push(across(self.lanes));
            (self.lanes, self.filled) = ([0.0; LANES], 0);
        }
    }
}

impl Default for Sum {
    fn default() -> Self {
        Self::new()
    }
}

/// The sum of a block: at most [`BLOCK`] elements. Several units may each add up blocks; pushed to a [`Tree`] in order, they
/// give what [`Sum`] gives.
///
/// # Errors
///
/// The length is no multiple of 4 bytes, or that of more than a block.
pub fn block_sum(block: &[u8]) -> Result<f32, Error> {
    let (bytes, most) = (block.len(), BLOCK * 4);
    crate::of_length("block", bytes, Some(bytes.min(most)))?;
    let mut lanes = [0.0; LANES];
    for row in elements::<4>(block)?.chunks(LANES) {
        for (lane, element) in lanes.iter_mut().zip(row) {
            *lane += f32::from_le_bytes(*element);
        }
    }
    Ok(across(lanes))
}

/// The sum of a chunk's u64, modulo 2^64. Chunks' sums are added the same way.
///
/// # Errors
///
/// The length is no multiple of 8 bytes.
pub fn sum_u64(chunk: &[u8]) -> Result<u64, Error> {
    let values = elements(chunk)?
        .iter()
        .map(|word| u64::from_le_bytes(*word));
    Ok(values.fold(0, u64::wrapping_add))
}
