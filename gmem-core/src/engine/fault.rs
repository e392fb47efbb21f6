//! Faults: an accessor waits for a page.

use super::Engine;
use super::foresight::Foresight;
use crate::hnode::LoadError;
use crate::mmu::Obstacle;
use crate::page::{ClusterNo, PageNo, PageRange, bits};
use crate::policy::Plan;
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
    prefetch: Foresight<'e>,
    plan: Plan,
    latencies: Arc<Latencies>,
}

impl<'e> Faults<'e> {
    pub(super) fn new(engine: &'e Engine, prefetch: Foresight<'e>) -> Self {
        Self {
            engine,
            prefetch,
            plan: Plan::default(),
            latencies: engine.stats.new_latencies(),
        }
    }

    /// As [`Faults::handle_for`], for an accessor of which nothing is known.
    pub fn handle(&mut self, page: PageNo, arrived: Instant) -> Result<Outcome, FaultError> {
        self.handle_for(0, page, arrived)
    }

    /// Brings in `page`, which `accessor` touched, with what is worth coming along, and wakes the
    /// accessor: by number, a thread's for example. `arrived` is when this thread learned of the fault.
    ///
    /// Never waits for room: a fault that finds everything full is put aside.
    pub fn handle_for(
        &mut self,
        accessor: u32,
        page: PageNo,
        arrived: Instant,
    ) -> Result<Outcome, FaultError> {
        let engine = self.engine;
        if !engine.is_ram(page) {
            return Err(FaultError::NotRam { page });
        }
        let plan = &mut self.plan;
        plan.clear();
        self.prefetch.ask(accessor, |prefetch| {
            prefetch.room(engine.arena.cap());
            prefetch.plan(page, plan);
        });
        let own = engine.in_ram(ClusterNo::of(page), plan.of(ClusterNo::of(page)));
        let outcome = {
            let _passing = engine.gate.pass();
            engine.bring(page, own).and_then(|outcome| match outcome {
                Outcome::Resolved { along } => {
                    let more = engine.bring_along(page, plan)?;
                    Ok((outcome, along + more))
                }
                _ => Ok((outcome, 0)),
            })
        };
        let (outcome, along) = outcome.inspect_err(|_| engine.wake_if_there(page))?;
        if outcome == Outcome::Waiting {
            Stats::one(&engine.stats.stalls);
            engine.waiting.put_aside(page, arrived);
            engine.wake_background();
            return Ok(outcome);
        }
        if along > 0 {
            let used = self.prefetch.ask(accessor, |prefetch| {
                prefetch.brought(along as u64);
                prefetch.take_used()
            });
            let stats = &engine.stats;
            stats.prefetched.fetch_add(along as u64, Ordering::Relaxed);
            stats.prefetch_used.fetch_add(used, Ordering::Relaxed);
        }
        if self.plan.pages() > 1
            && engine.ahead.is_served()
            && let Some(task) = self.prefetch.ahead(accessor)
        {
            engine.ahead.hand_out(task);
        }
        self.latencies.record(arrived.elapsed());
        // Last but for what can wait: where handler and vCPU share a CPU, the vCPU runs from here on.
        engine.wake(page, own, outcome);
        engine.replace_room(1 + along);
        Ok(outcome)
    }
}

impl Engine {
    /// The pages in `mask` of `cluster` that are guest RAM.
    pub(super) fn in_ram(&self, cluster: ClusterNo, mask: u64) -> u64 {
        let ram = self.ram.iter().map(|range| in_cluster(range, cluster));
        mask & ram.fold(0, |all, part| all | part)
    }
}

/// The pages of `range` that lie in `cluster`.
fn in_cluster(range: &PageRange, cluster: ClusterNo) -> u64 {
    let (first, end) = (cluster.page(0).0, cluster.page(64).0);
    let from = range.start.0.clamp(first, end);
    let to = range.end().0.clamp(from, end);
    bits((from - first) as usize, (to - from) as usize)
}

/// The bit of `page` in a mask of its cluster.
pub(super) fn bit(page: PageNo) -> u64 {
    1 << ClusterNo::index(page)
}
