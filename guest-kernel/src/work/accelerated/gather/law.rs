//! The table's rows, and which of them are wanted how often.

use super::super::Machine;
use super::super::team::Team;
use crate::math::permutation::Permutation;
use crate::math::random::Random;
use crate::math::zipf::Zipf;
use crate::memory::PAGE_SIZE;

/// The table, and how it is asked.
#[derive(Clone, Copy)]
pub(in super::super) struct Shape {
    pub(in super::super) theta: f64,
    /// Bytes of a row.
    pub(in super::super) row: u64,
    /// Rows of a batch.
    pub(in super::super) batch: u64,
}

/// Which rows there are, and which of them are wanted.
pub(super) struct Law {
    pub(super) shape: Shape,
    zipf: Zipf,
    scatter: Permutation,
    /// Rows of the table.
    pub(super) all: u64,
    /// Rows of a page.
    pub(super) rows: u64,
}

impl Law {
    /// The law of the plan, on all data.
    pub(super) fn new<M: Machine>(team: &Team<'_, '_, M>, shape: Shape) -> Self {
        let rows = PAGE_SIZE / shape.row - 1;
        // Indices are of 32 bits.
        let pages = (1 << 32) / (rows + 1);
        let all = team.layout.data_pages.min(pages) * rows;
        Self {
            shape,
            zipf: Zipf::new(all, shape.theta),
            scatter: Permutation::new(all, team.crew.plan.seed, 0),
            all,
            rows,
        }
    }

    /// Page and place in it of the row of a rank.
    pub(super) fn row(&self, rank: u64) -> (u64, u64) {
        let row = self.scatter.get(rank);
        (row / self.rows, row % self.rows)
    }

    /// Page and place of the next row.
    pub(super) fn draw(&self, random: &mut Random) -> (u64, u64) {
        self.row(self.zipf.sample(random))
    }
}
