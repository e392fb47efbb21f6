//! Faults: an accessor waits for a page.

use super::Engine;
use crate::hnode::LoadError;
use crate::mmu::Obstacle;
use crate::page::{ClusterNo, PageNo, PageRange, bits};
use crate::policy::Prefetch;
use crate::stats::{Latencies, Stats};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// How a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The page came in, and so many others with it; whoever waited has been woken.
    Resolved {
        /// Pages that came in beside the touched one.
        along: usize,
    },
    /// The page was there already; whoever waited has been woken.
    There,
    /// Everything is full. The page is where it was, and the fault is tried again when there is room.
    Waiting,
}

/// Why a page cannot come in. The microVM cannot go on: the page's bytes are lost, or what the kernel
/// does contradicts the table.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The tier that holds the page cannot give it back.
    #[error("{page} is lost: tier {tier}: {source}")]
    Load {
        /// The page.
        page: PageNo,
        /// The tier that held it.
        tier: String,
        /// What the tier says.
        source: LoadError,
    },
    /// The kernel does not move the page.
    #[error("{page} cannot be {verb}: {obstacle}; this contradicts gmem's books, please report it")]
    Mmu {
        /// What was to be done to it.
        verb: &'static str,
        /// The page.
        page: PageNo,
        /// What stood in the way.
        obstacle: Obstacle,
    },
    /// The address is not guest RAM.
    #[error("{page} is not guest RAM")]
    NotRam {
        /// The page.
        page: PageNo,
    },
}

/// Handles faults for one thread.
pub struct Faults<'e> {
    engine: &'e Engine,
    prefetch: Box<dyn Prefetch>,
    latencies: Arc<Latencies>,
}

impl<'e> Faults<'e> {
    pub(super) fn new(engine: &'e Engine, prefetch: Box<dyn Prefetch>) -> Self {
        Self {
            engine,
            prefetch,
            latencies: engine.stats.new_latencies(),
        }
    }

    /// Brings in `page`, which an accessor touched, with what is worth coming along, and wakes the
    /// accessor. `arrived` is when this thread learned of the fault.
    ///
    /// Never waits for room: a fault that finds everything full is put aside.
    pub fn handle(&mut self, page: PageNo, arrived: Instant) -> Result<Outcome, FaultError> {
        let ram = self.engine.ram.iter().find(|range| range.contains(page));
        let ram = ram.ok_or(FaultError::NotRam { page })?;
        let plan = self.prefetch.plan(page) & in_cluster(ram, ClusterNo::of(page));
        let outcome = {
            let _passing = self.engine.gate.pass();
            self.engine.bring(page, plan)
        };
        let outcome = outcome.inspect_err(|_| self.engine.wake_if_there(page))?;
        match outcome {
            Outcome::Resolved { along } => {
                if along > 0 {
                    self.prefetch.brought(along as u64);
                    self.engine
                        .stats
                        .prefetched
                        .fetch_add(along as u64, Ordering::Relaxed);
                }
                let used = self.prefetch.take_used();
                if used > 0 {
                    self.engine
                        .stats
                        .prefetch_used
                        .fetch_add(used, Ordering::Relaxed);
                }
            }
            Outcome::There => {}
            Outcome::Waiting => {
                Stats::one(&self.engine.stats.stalls);
                self.engine.waiting.put_aside(page, arrived);
                self.engine.wake_background();
                return Ok(outcome);
            }
        }
        self.latencies.record(arrived.elapsed());
        // Last but for what can wait: where handler and vCPU share a CPU, the vCPU runs from here on.
        self.engine.wake(page, plan, outcome);
        self.engine.wake_background_if_low();
        Ok(outcome)
    }
}

/// The pages of `range` that lie in `cluster`.
fn in_cluster(range: &PageRange, cluster: ClusterNo) -> u64 {
    let (first, end) = (cluster.page(0).0, cluster.page(64).0);
    let from = range.start.0.max(first);
    let to = range.end().0.min(end);
    bits((from - first) as usize, to.saturating_sub(from) as usize)
}

/// The bit of `page` in a mask of its cluster.
pub(super) fn bit(page: PageNo) -> u64 {
    1 << ClusterNo::index(page)
}
