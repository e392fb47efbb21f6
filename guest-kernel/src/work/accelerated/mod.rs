//! Workloads on accelerators: `gather`, `layers`, `kvcache`, `pingpong`.
//!
//! Accelerator `n` is driven by CPU `n` modulo the number of CPUs; the others work on the same memory meanwhile. What
//! accelerators have computed is compared bit for bit with what a CPU computes, from contents that it makes anew: it
//! need not take the pages away from an accelerator to know what is in them.

pub mod account;
mod gather;
mod kvcache;
mod layers;
mod layout;
mod measure;
mod pingpong;
mod team;

use super::{Crew, Machine, Tally};
use crate::accel::Present;
use crate::memory::WorkingSet;
use crate::plan::{Plan, PlanError, Workload};
use gmem_wire::layout::VIRTIO_DEVICES;
use layout::Layout;
use team::{Own, Team};

/// Streams of random numbers: the CPUs' own begin after these.
const FIRST_CPU: u64 = 1 << 32;

/// Whether the plan's workload, if it is one of these, can run with the machine's accelerators in `set`, which is in one
/// piece.
///
/// # Errors
///
/// There is no accelerator, or too little memory.
pub fn fits<M: Machine>(
    plan: &Plan,
    set: &WorkingSet,
    machine: &M,
) -> Result<(), PlanError<'static>> {
    if !plan.workload.accelerated() {
        return Ok(());
    }
    let present = Present::find(machine);
    Layout::new(plan, set, present.accelerators().len()).map(drop)
}

pub(super) fn run<M: Machine>(crew: &Crew<'_, M>, tally: &mut Tally) {
    if let Some(team) = Team::new(crew) {
        let mut own: Own<'_, M> = [const { None }; VIRTIO_DEVICES];
        // What failed is in the tally.
        let _ = work(&team, &mut own, tally);
        team.stop(&own, tally);
        crew.machine.barrier();
    }
}

fn work<'c, M: Machine>(
    team: &Team<'_, 'c, M>,
    own: &mut Own<'c, M>,
    tally: &mut Tally,
) -> Option<()> {
    team.phase(tally, |tally| team.start(own, tally))?;
    match team.crew.plan.workload {
        Workload::Gather {
            theta,
            row,
            batch,
            hints,
        } => gather::run(team, own, gather::Shape { theta, row, batch }, hints, tally)?,
        Workload::Layers {
            layers,
            rows,
            epochs,
            hints,
        } => {
            let shape = layers::Shape {
                layers,
                rows,
                epochs,
            };
            layers::run(team, own, shape, hints, tally)?;
        }
        Workload::KvCache {
            sequences,
            width,
            check,
            theta,
            hints,
        } => {
            let shape = kvcache::Shape {
                sequences,
                width,
                theta,
                check,
                hints,
            };
            kvcache::run(team, own, shape, tally)?;
        }
        Workload::PingPong { burst } => pingpong::run(team, own, burst, tally)?,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests;
