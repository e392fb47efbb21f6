//! Weights: how large they are, where they lie, and what is in them.
//!
//! Each layer is a square matrix, cut by columns into one part for each accelerator, a matrix of its own.

use super::super::Machine;
use super::super::layout::GRANULE;
use super::super::team::Team;
use crate::math::random::mix;

/// Columns that are checked together, and what parts' columns are a multiple of.
pub(super) const GROUP: u64 = 32;

/// Sizes of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Size {
    /// Columns of a part.
    pub(super) columns: u64,
    /// Rows of all parts, which are the columns of all of them together.
    pub(super) rows: u64,
    /// Bytes from one part to the next.
    pub(super) stride: u64,
}

impl Size {
    fn new(columns: u64, parts: u64) -> Self {
        let rows = columns * parts;
        Self {
            columns,
            rows,
            stride: (rows * columns * 2).next_multiple_of(GRANULE),
        }
    }

    /// Words of a part, of four bf16 each.
    pub(super) fn words(&self) -> u64 {
        self.rows * self.columns / 4
    }

    /// Bytes of a part.
    pub(super) fn bytes(&self) -> u64 {
        self.rows * self.columns * 2
    }
}

/// The largest layers of `parts` parts of which `layers` fit into `bytes`; at least the smallest that there are.
pub(in super::super) fn size(bytes: u64, layers: u64, parts: u64) -> Size {
    let most = (bytes / layers / parts / parts / 2).isqrt();
    let mut columns = (most / GROUP * GROUP).max(GROUP);
    // What is rounded up may be too much.
    while columns > GROUP && Size::new(columns, parts).stride * parts * layers > bytes {
        columns -= GROUP;
    }
    Size::new(columns, parts)
}

/// Bytes of the smallest layer.
pub(in super::super) fn least(parts: u64) -> u64 {
    Size::new(GROUP, parts).stride * parts
}

/// Operands and results of an accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Area {
    /// Bytes of the input.
    x: u64,
    /// Bytes of a result.
    result: u64,
    /// Bytes of all.
    pub(in super::super) bytes: u64,
}

impl Area {
    /// For `rows` rows, an input and two results.
    pub(in super::super) fn new(rows: u64, size: Size) -> Self {
        let x = (rows * size.rows * 2).next_multiple_of(GRANULE);
        let result = (rows * size.columns * 4).next_multiple_of(GRANULE);
        Self {
            x,
            result,
            bytes: x + 2 * result,
        }
    }

    /// Where result 0 or 1 lies in it.
    pub(super) fn result(&self, which: u64) -> u64 {
        self.x + self.result * which
    }
}

/// Four bf16 of some seed: plus or minus 2^-7 to 2^-3.
pub(super) fn four(base: u64, at: u64) -> u64 {
    const RANDOM: u64 = 0x81ff_81ff_81ff_81ff;
    const EXPONENT: u64 = 0x3c00_3c00_3c00_3c00;
    mix(base.wrapping_add(at)) & RANDOM | EXPONENT
}

/// What a part of a layer contains.
#[derive(Clone, Copy)]
pub(super) struct Part {
    base: u64,
    /// Where it is.
    pub(super) address: u64,
}

impl Part {
    /// Part `part` of layer `layer`.
    pub(super) fn new<M: Machine>(
        team: &Team<'_, '_, M>,
        size: Size,
        layer: u64,
        part: usize,
    ) -> Self {
        let number = layer * team.accelerators() as u64 + part as u64;
        Self {
            base: mix(team.crew.plan.seed ^ mix(number + 1)),
            address: team.layout.data + size.stride * number,
        }
    }

    /// A word of it.
    pub(super) fn word(&self, at: u64) -> u64 {
        four(self.base, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gmem_work::f32_of_bf16;

    #[test]
    fn layers_fill_the_memory_and_fit_into_it() {
        for parts in 1..=4 {
            for layers in [1, 3, 8] {
                for bytes in [4 << 20, 100 << 20, 3 << 30] {
                    let size = size(bytes, layers, parts);
                    let used = size.stride * parts * layers;
                    assert!(used <= bytes, "{size:?}");
                    assert!(used > bytes / 2, "{size:?} of {bytes}");
                    assert_eq!(size.rows, size.columns * parts);
                }
            }
        }
        assert_eq!(size(1, 8, 2).columns, GROUP);
    }

    #[test]
    fn weights_are_small_numbers_of_both_signs() {
        let mut negative = 0;
        for at in 0..1000 {
            for bits in four(7, at).to_le_bytes().as_chunks().0 {
                let value = f32_of_bf16(u16::from_le_bytes(*bits));
                assert!((0.0078125..0.125).contains(&value.abs()), "{value}");
                negative += u32::from(value < 0.0);
            }
        }
        assert!((1800..2200).contains(&negative), "{negative}");
    }
}
