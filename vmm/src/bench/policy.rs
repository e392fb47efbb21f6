//! Who leaves memory: misses of our policies against those of the literature's best, simulated.
//!
//! Nothing here is timed: the same seed gives the same figures anywhere.

use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::thread;

use gmem_core::page::CLUSTER_PAGES;
use gmem_core::policy::simulation::traces::{KINDS, Kind, Shape};
use gmem_core::policy::simulation::{
    Arc, Clock, Lru, Managed, Replacement, S3Fifo, Seen, Sieve, belady, misses,
};
use gmem_core::policy::{self, Eviction};
use serde::Serialize;

use super::{BenchError, Measured, Progress, Summary};
use crate::signals::TerminationSignals;

/// Pages that a trace may touch.
const PAGES: u32 = 16384;
/// Touches of a trace.
const TOUCHES: usize = 400_000;
/// Of how many pages one's uses are seen, where they are sampled.
const SAMPLED: u32 = 8;
/// Memory, in percent of the pages.
pub const CAPACITIES: [u32; 3] = [10, 25, 50];

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The first round's seed; the others follow.
    pub seed: u64,
    /// Rounds, each of all traces with a seed of its own.
    pub rounds: usize,
}

/// Misses of one trace in one size of memory.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The trace's kind.
    pub trace: &'static str,
    /// Whether it was kept apart while the policy was designed.
    pub held_out: bool,
    /// Memory, in percent of the pages.
    pub capacity_percent: u32,
    /// The trace's seed.
    pub seed: u64,
    /// The least that is possible.
    pub belady: u64,
    /// LRU.
    pub lru: u64,
    /// CLOCK.
    pub clock: u64,
    /// ARC.
    pub arc: u64,
    /// S3-FIFO.
    pub s3fifo: u64,
    /// SIEVE.
    pub sieve: u64,
    /// Hit density, where it sees all uses.
    pub density: u64,
    /// Where it sees faults only.
    pub density_faults: u64,
    /// Where it sees faults, and all uses of one page in eight.
    pub density_sampled: u64,
    /// What the engine runs, where it sees faults only: as it does.
    pub engine: u64,
    /// Touches that found a page staged, likewise: no misses.
    pub rescues_density: u64,
    /// Where it sees faults only.
    pub rescues_density_faults: u64,
    /// Where it sees a part.
    pub rescues_density_sampled: u64,
    /// With what the engine runs.
    pub rescues_engine: u64,
}

impl Row {
    /// The fewest misses of the five from the literature.
    pub fn best(&self) -> u64 {
        let others = [self.clock, self.arc, self.s3fifo, self.sieve];
        others.into_iter().fold(self.lru, u64::min)
    }

    fn of(kind: &Kind, capacity_percent: u32, seed: u64) -> Self {
        let capacity = PAGES * capacity_percent / 100;
        let trace = kind.generate(&Shape {
            pages: PAGES,
            capacity,
            touches: TOUCHES,
            seed,
        });
        let room = capacity as usize;
        let other = |policy: &mut dyn Replacement| misses(policy, &trace);
        let managed = |eviction: &dyn Eviction, seen| {
            let mut managed = Managed::new(eviction, PAGES, room, seen);
            (misses(&mut managed, &trace), managed.rescues())
        };
        let density = |seen| {
            let density =
                policy::Density::new(u64::from(PAGES) / CLUSTER_PAGES as u64, room as u64);
            managed(&density, seen)
        };
        let (all, rescues_density) = density(Seen::All);
        let (faults, rescues_density_faults) = density(Seen::Faults);
        let (sampled, rescues_density_sampled) = density(Seen::Sampled(SAMPLED));
        let (engine, rescues_engine) = managed(&policy::Clock::default(), Seen::Faults);
        Self {
            trace: kind.name,
            held_out: kind.held_out,
            capacity_percent,
            seed,
            belady: belady(&trace, PAGES, room),
            lru: other(&mut Lru::new(PAGES, room)),
            clock: other(&mut Clock::new(PAGES, room)),
            arc: other(&mut Arc::new(PAGES, room)),
            s3fifo: other(&mut S3Fifo::new(PAGES, room)),
            sieve: other(&mut Sieve::new(PAGES, room)),
            density: all,
            density_faults: faults,
            density_sampled: sampled,
            engine,
            rescues_density,
            rescues_density_faults,
            rescues_density_sampled,
            rescues_engine,
        }
    }
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
                let wanted = |row: &&Row| row.seed == *seed && (row.held_out || !held_out);
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
}

/// Simulates all traces, on two threads.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Ratios>, BenchError> {
    let seeds: Vec<u64> = (0..options.rounds as u64)
        .map(|round| options.seed.wrapping_add(round))
        .collect();
    let kinds = |seed: &u64| KINDS.iter().map(|kind| (kind, *seed)).collect::<Vec<_>>();
    let jobs: Vec<(&Kind, u64)> = seeds.iter().flat_map(kinds).collect();
    let ended = OnceLock::new();
    let simulate = |(kind, seed): &(&Kind, u64)| {
        let rows = CAPACITIES.map(|capacity| {
            if let Some(name) = signals.take() {
                let _ = ended.set(name);
            }
            ended
                .get()
                .is_none()
                .then(|| Row::of(kind, capacity, *seed))
        });
        progress.line(format!("seed {seed}: {}", kind.name));
        rows.into_iter().flatten().collect::<Vec<_>>()
    };
    let (first, second) = jobs.split_at(jobs.len() / 2);
    let rows: Vec<Row> = thread::scope(|scope| {
        let other = scope.spawn(|| second.iter().flat_map(simulate).collect::<Vec<_>>());
        let mut rows: Vec<Row> = first.iter().flat_map(simulate).collect();
        // A panic there is one here.
        rows.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        rows
    });
    if let Some(name) = ended.into_inner() {
        let abandoned = false;
        return Err(BenchError::Signal { name, abandoned });
    }
    let ratios = Ratios::of(&rows, &seeds);
    let figures = Figures {
        pages: PAGES,
        touches: TOUCHES,
        traces: rows,
    };
    Ok(Measured::new("policy", options.rounds, figures, ratios))
}
