//! What a CPU computes of a layer, and whether an accelerator found the same bits.

use super::super::team::Team;
use super::super::{Machine, Tally};
use super::rows::{Input, ROWS, Rows};
use super::weights::{GROUP, Part};
use crate::math::random::mix;
use crate::pattern::Mismatch;
use core::ops::Range;
use gmem_work::{Shape, gemm_bf16};

/// After the first epoch one in so many groups of columns is checked.
const SAMPLE: u64 = 16;
const COLUMNS: usize = GROUP as usize;

/// Which groups of columns are checked: all in the first epoch, later those of a sample that changes.
pub(super) struct Sample {
    stride: u64,
    offset: u64,
}

impl Sample {
    pub(super) fn new(seed: u64, epoch: u64, layer: u64, groups: u64) -> Self {
        let stride = if epoch == 0 { 1 } else { SAMPLE.min(groups) };
        let offset = mix(seed ^ mix(epoch << 32 | layer)) % stride;
        Self { stride, offset }
    }

    fn has(&self, group: u64) -> bool {
        group % self.stride == self.offset
    }
}

/// Checks those groups of columns of `groups`, numbered through all parts, that are in the sample.
pub(super) fn check<M: Machine>(
    team: &Team<'_, '_, M>,
    (rows, input): (&Rows, &Input),
    layer: u64,
    sample: &Sample,
    groups: Range<u64>,
    tally: &mut Tally,
) {
    let of_part = rows.size.columns / GROUP;
    for number in groups {
        let (part, group) = ((number / of_part) as usize, number % of_part);
        if !sample.has(group) {
            continue;
        }
        let weights = Part::new(team, rows.size, layer, part);
        let mut sums = [0; ROWS * COLUMNS * 4];
        let sums = &mut sums[..rows.count as usize * COLUMNS * 4];
        compute(team, (rows, input), &weights, group, sums);
        for (row, sums) in (0..rows.count).zip(sums.chunks_exact(COLUMNS * 4)) {
            let at = rows.result(team, part, layer % 2, (row, group * GROUP));
            for (address, expected) in (at..).step_by(8).zip(sums.as_chunks().0) {
                let expected = u64::from_le_bytes(*expected);
                let found = team.ram.get64(address);
                if found != expected {
                    tally.mismatch(Mismatch {
                        address,
                        expected,
                        found,
                    });
                }
            }
            tally.compared += sums.len() as u64;
        }
    }
}

/// A group of columns of the product, from weights made anew.
fn compute<M: Machine>(
    team: &Team<'_, '_, M>,
    (rows, input): (&Rows, &Input),
    weights: &Part,
    group: u64,
    sums: &mut [u8],
) {
    let tile = Shape {
        m: rows.count as usize,
        n: COLUMNS,
        k: COLUMNS,
    };
    let mut left = [0; ROWS * COLUMNS * 2];
    let mut right = [0; COLUMNS * COLUMNS * 2];
    for step in 0..rows.size.rows / GROUP {
        let left = &mut left[..tile.m * COLUMNS * 2];
        for (row, into) in (0..).zip(left.as_chunks_mut().0) {
            rows.group(team, input, (row, step), into);
        }
        for (row, into) in (step * GROUP..).zip(right.chunks_exact_mut(COLUMNS * 2)) {
            let first = (row * rows.size.columns + group * GROUP) / 4;
            for (at, word) in (first..).zip(into.as_chunks_mut().0) {
                *word = weights.word(at).to_le_bytes();
            }
        }
        // The lengths are the tile's.
        let _ = gemm_bf16(tile, left, &right, sums);
    }
}
