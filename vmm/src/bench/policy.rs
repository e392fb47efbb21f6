//! Who leaves memory: misses of our policies against those of the literature's best, simulated.
//!
//! Nothing here is timed: the same seed gives the same figures anywhere.

mod recorded;
mod row;

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;

use gmem_core::policy::simulation::traces::{KINDS, Kind};
use serde::Serialize;

use super::{BenchError, Measured, Progress, Summary};
use crate::signals::TerminationSignals;
use recorded::Trace;

pub use recorded::{Recorded, TraceError};
pub use row::Row;

/// Pages that a trace may touch.
const PAGES: u32 = 16384;
/// Touches of a trace.
const TOUCHES: usize = 400_000;
/// Memory, in percent of the pages.
pub const CAPACITIES: [u32; 3] = [10, 25, LAST];
const LAST: u32 = 50;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first round's seed; the others follow.
    pub seed: u64,
    /// Rounds, each of all traces with a seed of its own; none simulates recordings only.
    pub rounds: usize,
    /// Recordings to be simulated as well, by their paths.
    pub traces: Vec<PathBuf>,
}

/// Misses of hit density over the fewest of the others, of all traces in all sizes of memory; a value a round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratios {
    /// Where it is worst.
    pub policy_worst_over_best: Summary,
    /// On average.
    pub policy_mean_over_best: Summary,
    /// The worst of the traces that were held out.
    pub policy_worst_over_best_held_out: Summary,
    /// Their mean.
    pub policy_mean_over_best_held_out: Summary,
    /// The worst where it sees faults only, and the others all uses.
    pub policy_worst_over_best_faults: Summary,
    /// The mean, likewise.
    pub policy_mean_over_best_faults: Summary,
    /// The worst where it sees faults and the uses of one page in eight.
    pub policy_worst_over_best_sampled: Summary,
    /// The mean, likewise.
    pub policy_mean_over_best_sampled: Summary,
    /// The worst of what the engine runs.
    pub engine_worst_over_best: Summary,
    /// Its mean.
    pub engine_mean_over_best: Summary,
}

impl Ratios {
    /// Of `rows`, one round for each seed in them.
    fn of(rows: &[Row], seeds: &[u64]) -> Self {
        let mean = |ratios: &[f64]| ratios.iter().sum::<f64>() / ratios.len() as f64;
        let worst = |ratios: &[f64]| ratios.iter().copied().fold(0.0, f64::max);
        let summary = |policy: fn(&Row) -> u64, held_out: bool, of: &dyn Fn(&[f64]) -> f64| {
            let round = |seed: &u64| {
                let wanted = |row: &&Row| row.seed == Some(*seed) && (row.held_out || !held_out);
                let ratio = |row: &Row| policy(row) as f64 / row.best() as f64;
                of(&rows.iter().filter(wanted).map(ratio).collect::<Vec<_>>())
            };
            Summary::of(&seeds.iter().map(round).collect::<Vec<_>>())
        };
        Self {
            policy_worst_over_best: summary(|row| row.density, false, &worst),
            policy_mean_over_best: summary(|row| row.density, false, &mean),
            policy_worst_over_best_held_out: summary(|row| row.density, true, &worst),
            policy_mean_over_best_held_out: summary(|row| row.density, true, &mean),
            policy_worst_over_best_faults: summary(|row| row.density_faults, false, &worst),
            policy_mean_over_best_faults: summary(|row| row.density_faults, false, &mean),
            policy_worst_over_best_sampled: summary(|row| row.density_sampled, false, &worst),
            policy_mean_over_best_sampled: summary(|row| row.density_sampled, false, &mean),
            engine_worst_over_best: summary(|row| row.engine, false, &worst),
            engine_mean_over_best: summary(|row| row.engine, false, &mean),
        }
    }
}

/// Figures of a simulation.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Pages that a trace may touch.
    pub pages: u32,
    /// Touches of a trace.
    pub touches: usize,
    /// Each trace in each size of memory with each seed.
    pub traces: Vec<Row>,
    /// Each recording; the ratios are without them.
    pub recorded: Vec<Recorded>,
}

/// Simulates all traces, on two threads. Without rounds there are no ratios.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Option<Ratios>>, BenchError> {
    // What cannot be read is said before anything is simulated.
    let read = options.traces.iter().map(|path| Trace::read(path));
    let recordings = read.collect::<Result<Vec<_>, _>>()?;
    let seeds: Vec<u64> = (0..options.rounds as u64)
        .map(|round| options.seed.wrapping_add(round))
        .collect();
    let kinds = |seed: &u64| KINDS.iter().map(|kind| (kind, *seed)).collect::<Vec<_>>();
    let jobs: Vec<(&Kind, u64)> = seeds.iter().flat_map(kinds).collect();
    let rows = simulate(&jobs, signals, |(kind, seed), capacity| {
        let row = Row::of_kind(kind, capacity, *seed);
        if capacity == LAST {
            progress.line(format!("seed {seed}: {}", kind.name));
        }
        row
    })?;
    let mut recorded = Vec::new();
    for trace in recordings {
        let rows = simulate(&[&trace], signals, |trace, capacity| trace.row(capacity))?;
        progress.line(format!("recorded: {}", trace.name()));
        recorded.push(trace.into_figures(rows));
    }
    let ratios = (!seeds.is_empty()).then(|| Ratios::of(&rows, &seeds));
    let figures = Figures {
        pages: PAGES,
        touches: TOUCHES,
        traces: rows,
        recorded,
    };
    Ok(Measured::new("policy", options.rounds, figures, ratios))
}

/// A row of each of `traces` in each size of memory, in this order.
fn simulate<T: Sync>(
    traces: &[T],
    signals: &TerminationSignals,
    row: impl Fn(&T, u32) -> Row + Sync,
) -> Result<Vec<Row>, BenchError> {
    let sizes = |trace| CAPACITIES.map(|capacity| (trace, capacity));
    let jobs: Vec<(&T, u32)> = traces.iter().flat_map(sizes).collect();
    let ended = OnceLock::new();
    let one = |(trace, capacity): &(&T, u32)| {
        if let Some(name) = signals.take() {
            let _ = ended.set(name);
        }
        ended.get().is_none().then(|| row(trace, *capacity))
    };
    let (first, second) = jobs.split_at(jobs.len() / 2);
    let rows: Vec<Row> = thread::scope(|scope| {
        let other = scope.spawn(|| second.iter().filter_map(one).collect::<Vec<_>>());
        let mut rows: Vec<Row> = first.iter().filter_map(one).collect();
        // A panic there is one here.
        rows.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        rows
    });
    match ended.into_inner() {
        Some(name) => {
            let abandoned = false;
            Err(BenchError::Signal { name, abandoned })
        }
        None => Ok(rows),
    }
}
