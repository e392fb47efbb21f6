//! The rows that go through the layers: the first layer's input is made up, the next one's is what came out of the one before,
//! each row scaled to at most 1 and rounded to bf16.

use super::super::Machine;
use super::super::team::Team;
use super::weights::{Area, GROUP, Size, four};
use crate::math::random::mix;
use gmem_work::bf16_of_f32;

/// Rows, at most.
pub(super) const ROWS: usize = 16;
/// Words of a group's bf16.
const WORDS: u64 = GROUP / 4;

/// The input of a layer.
#[derive(Clone, Copy)]
pub(super) enum Input {
    /// Made up, of this seed.
    Made(u64),
    /// What came out before: which of two results, and by what each row is multiplied.
    Came { which: u64, scales: [f32; ROWS] },
}

/// Rows on their way, as every CPU sees them.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) count: u64,
    pub(super) size: Size,
    pub(super) area: Area,
}

impl Rows {
    pub(super) fn new(count: u64, size: Size) -> Self {
        let area = Area::new(count, size);
        Self { count, size, area }
    }

    /// Where an accelerator's input is.
    pub(super) fn x<M: Machine>(&self, team: &Team<'_, '_, M>, part: usize) -> u64 {
        team.layout.area(part)
    }

    /// Where columns `column`... of a row of an accelerator's result are.
    pub(super) fn result<M: Machine>(
        &self,
        team: &Team<'_, '_, M>,
        part: usize,
        which: u64,
        (row, column): (u64, u64),
    ) -> u64 {
        let at = 4 * (row * self.size.columns + column);
        team.layout.area(part) + self.area.result(which) + at
    }

    /// The input of layer `layer`, when all accelerators are done with the one before.
    pub(super) fn input<M: Machine>(
        &self,
        team: &Team<'_, '_, M>,
        epoch: u64,
        layer: u64,
    ) -> Input {
        if layer == 0 {
            return Input::Made(mix(team.crew.plan.seed ^ mix(!epoch)));
        }
        let which = (layer - 1) % 2;
        let mut scales = [1.0; ROWS];
        for (row, scale) in (0..self.count).zip(&mut scales) {
            let mut max = 0f32;
            for part in 0..team.accelerators() {
                for column in (0..self.size.columns).step_by(2) {
                    let at = self.result(team, part, which, (row, column));
                    for value in pair(team.ram.get64(at)) {
                        max = max.max(value.abs());
                    }
                }
            }
            if max > 0.0 && max.is_finite() {
                *scale = 1.0 / max;
            }
        }
        Input::Came { which, scales }
    }

    /// A group of 32 elements of a row of the input, as bf16.
    pub(super) fn group<M: Machine>(
        &self,
        team: &Team<'_, '_, M>,
        input: &Input,
        (row, group): (u64, u64),
        into: &mut [u8; 2 * GROUP as usize],
    ) {
        match input {
            Input::Made(base) => {
                let first = (row * self.size.rows + group * GROUP) / 4;
                for (at, word) in (0..WORDS).zip(into.as_chunks_mut().0) {
                    *word = four(*base, first + at).to_le_bytes();
                }
            }
            Input::Came { which, scales } => {
                let first = group * GROUP;
                let (part, column) = (first / self.size.columns, first % self.size.columns);
                let at = self.result(team, part as usize, *which, (row, column));
                let scale = scales[row as usize];
                for (at, two) in (at..).step_by(8).zip(into.as_chunks_mut::<4>().0) {
                    let [low, high] =
                        pair(team.ram.get64(at)).map(|value| u32::from(bf16_of_f32(value * scale)));
                    *two = (low | high << 16).to_le_bytes();
                }
            }
        }
    }

    /// Writes the input to where an accelerator reads it, and zeros to where it adds up.
    pub(super) fn write<M: Machine>(
        &self,
        team: &Team<'_, '_, M>,
        input: &Input,
        part: usize,
        which: u64,
    ) {
        let x = self.x(team, part);
        for row in 0..self.count {
            for group in 0..self.size.rows / GROUP {
                let mut bytes = [0; 2 * GROUP as usize];
                self.group(team, input, (row, group), &mut bytes);
                let at = x + 2 * (row * self.size.rows + group * GROUP);
                team.ram.put_words(at, &bytes);
            }
        }
        let result = self.result(team, part, which, (0, 0));
        let bytes = 4 * self.count * self.size.columns;
        team.ram.clear(result..result + bytes);
    }
}

fn pair(word: u64) -> [f32; 2] {
    [
        f32::from_bits(word as u32),
        f32::from_bits((word >> 32) as u32),
    ]
}
