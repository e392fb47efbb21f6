//! Misses of one trace in one size of memory, under all policies.

use gmem_core::page::CLUSTER_PAGES;
use gmem_core::policy::simulation::traces::{Kind, Shape};
use gmem_core::policy::simulation::{
    Arc, Clock, Lru, Managed, Replacement, S3Fifo, Seen, Sieve, belady, misses,
};
use gmem_core::policy::{self, Eviction};
use serde::Serialize;

use super::{PAGES, TOUCHES};

/// Of how many pages one's uses are seen, where they are sampled.
const SAMPLED: u32 = 8;

/// Misses of one trace in one size of memory.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The trace's kind, or of a recording the file's name.
    pub trace: String,
    /// Whether it was kept apart while the policy was designed.
    pub held_out: bool,
    /// Memory, in percent of the pages.
    pub capacity_percent: u32,
    /// The trace's seed; `None` of a recording.
    pub seed: Option<u64>,
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

    /// Of a trace that is made.
    pub(super) fn of_kind(kind: &Kind, capacity_percent: u32, seed: u64) -> Self {
        let trace = kind.generate(&Shape {
            pages: PAGES,
            capacity: PAGES * capacity_percent / 100,
            touches: TOUCHES,
            seed,
        });
        Self {
            held_out: kind.held_out,
            seed: Some(seed),
            ..Self::of(kind.name, &trace, PAGES, PAGES, capacity_percent)
        }
    }

    /// Of `touches` of pages below `pages`, of which `touched` are touched.
    pub(super) fn of(
        name: &str,
        touches: &[u32],
        pages: u32,
        touched: u32,
        capacity_percent: u32,
    ) -> Self {
        let capacity = (u64::from(touched) * u64::from(capacity_percent) / 100) as usize;
        let other = |policy: &mut dyn Replacement| misses(policy, touches);
        let managed = |eviction: &dyn Eviction, seen| {
            let mut managed = Managed::new(eviction, pages, capacity, seen);
            (misses(&mut managed, touches), managed.rescues())
        };
        let density = |seen| {
            let density =
                policy::Density::new(u64::from(pages) / CLUSTER_PAGES as u64, capacity as u64);
            managed(&density, seen)
        };
        let (all, rescues_density) = density(Seen::All);
        let (faults, rescues_density_faults) = density(Seen::Faults);
        let (sampled, rescues_density_sampled) = density(Seen::Sampled(SAMPLED));
        let (engine, rescues_engine) = managed(&policy::Clock::default(), Seen::Faults);
        Self {
            trace: name.to_owned(),
            held_out: false,
            capacity_percent,
            seed: None,
            belady: belady(touches, pages, capacity),
            lru: other(&mut Lru::new(pages, capacity)),
            clock: other(&mut Clock::new(pages, capacity)),
            arc: other(&mut Arc::new(pages, capacity)),
            s3fifo: other(&mut S3Fifo::new(pages, capacity)),
            sieve: other(&mut Sieve::new(pages, capacity)),
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
