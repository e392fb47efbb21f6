//! `gmem bench scaling`: how many more faults a second several vCPUs have than one, with the engine and with the least that could
//! serve them.
//!
//! The guest is that of `gmem bench fault`, its pages shared out among its vCPUs, each of which touches its own. What
//! limits them is what they have in common: page tables, interrupts to other CPUs for each page that leaves, the evictor.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::floor::{Bringing, Floor};
use super::guest::{self, Job};
use super::{BenchError, Measured, Progress, Summary};
use crate::kvm::affinity;
use crate::machine::Setting;
use crate::memory::plan::{Lower, Plan};
use crate::memory::server::Server;
use crate::signals::TerminationSignals;
use gmem_core::page::Unit;
use gmem_core::policy::Prefetching;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds, each of all sides; at least one.
    pub rounds: usize,
    /// The guest's memory, bytes; a quarter of it is resident.
    pub memory: u64,
    /// vCPUs that are compared with one; at least two.
    pub cpus: usize,
    /// Times that every page is touched in the timed part.
    pub passes: u64,
}

/// Faults a second, medians over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// The guest's memory.
    pub memory_bytes: u64,
    /// vCPUs that are compared with one.
    pub cpus: usize,
    /// The least handler, which moves frames.
    pub floor_move: Rates,
    /// The least handler, which copies pages.
    pub floor_copy: Rates,
    /// The engine.
    pub engine: Rates,
}

/// One side's faults a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Of one vCPU.
    pub one: Summary,
    /// Of all of them together.
    pub all: Summary,
}

/// All over one.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratios {
    /// The engine's, over that of the least handler that scales better in the same round.
    pub scaling_over_floor: Summary,
    /// The engine's faults a second of all vCPUs, over the most of either least handler in the same round.
    pub rate_over_floor: Summary,
}

const SIDES: [Side; 3] = [
    Side::Floor(Bringing::Move),
    Side::Floor(Bringing::Copy),
    Side::Engine,
];

#[derive(Clone, Copy)]
enum Side {
    Floor(Bringing),
    Engine,
}

/// Faults a second of one side in one round: of one vCPU, of all.
#[derive(Clone, Copy, Debug)]
struct Sample([f64; 2]);

impl Sample {
    fn scaling(self) -> f64 {
        self.0[1] / self.0[0]
    }
}

/// Measures, telling `progress` about each round.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Ratios>, BenchError> {
    let cpus: Vec<usize> = affinity::allowed_cpus()?
        .into_iter()
        .rev()
        .cycle()
        .take(options.cpus)
        .collect();
    if cpus.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound).into());
    }
    let distinct = cpus.iter().collect::<BTreeSet<_>>().len();
    if distinct < options.cpus {
        progress.line(format!(
            "{} vCPUs share {distinct} CPU(s): they cannot all run at once",
            options.cpus
        ));
    }
    let mut samples: [Vec<Sample>; 3] = Default::default();
    for round in 0..options.rounds {
        for turn in 0..SIDES.len() {
            let at = (round + turn) % SIDES.len();
            let mut sample = Sample([0.0; 2]);
            for which in super::in_turn(round, [0, 1]) {
                let cpus = if which == 0 { &cpus[..1] } else { &cpus[..] };
                sample.0[which] = rate(SIDES[at], options, round, cpus, signals)?;
            }
            samples[at].push(sample);
        }
        let [moving, copying, engine] = [0, 1, 2].map(|side: usize| samples[side][round]);
        progress.line(format!(
            "round {}/{}: {} vCPUs over one: moving {:.2}, copying {:.2}, engine {:.2}; engine {:.0} faults/s",
            round + 1,
            options.rounds,
            options.cpus,
            moving.scaling(),
            copying.scaling(),
            engine.scaling(),
            engine.0[1],
        ));
    }
    let [moving, copying, engine] = &samples;
    let over = |of: fn(Sample) -> f64| {
        let rounds = moving.iter().zip(copying).zip(engine);
        let ratio = |((m, c), e): ((&Sample, &Sample), &Sample)| of(*e) / of(*m).max(of(*c));
        Summary::of(&rounds.map(ratio).collect::<Vec<_>>())
    };
    let ratios = Ratios {
        scaling_over_floor: over(Sample::scaling),
        rate_over_floor: over(|sample| sample.0[1]),
    };
    let figures = Figures {
        memory_bytes: options.memory,
        cpus: options.cpus,
        floor_move: rates(moving),
        floor_copy: rates(copying),
        engine: rates(engine),
    };
    Ok(Measured::new("scaling", options.rounds, figures, ratios))
}

fn rates(samples: &[Sample]) -> Rates {
    let of = |which: usize| {
        let rates: Vec<f64> = samples.iter().map(|sample| sample.0[which]).collect();
        Summary::of(&rates)
    };
    Rates {
        one: of(0),
        all: of(1),
    }
}

/// Faults a second of one run.
fn rate(
    side: Side,
    options: &Options,
    round: usize,
    cpus: &[usize],
    signals: &TerminationSignals,
) -> Result<f64, BenchError> {
    let budget = options.memory / 4;
    let mut setting = Setting {
        cpus: Some(cpus.to_vec()),
        server: None,
    };
    let (name, plan) = match side {
        Side::Floor(bringing) => {
            let floor: Arc<dyn Server> = Arc::new(Floor { budget, bringing });
            setting.server = Some(floor);
            ("the floor", None)
        }
        Side::Engine => {
            let lower = vec![Lower::Hbm {
                bytes: options.memory,
                latency_us: 0.0,
                gbps: None,
            }];
            let plan = Plan {
                budget,
                unit: Unit::Page,
                lower,
                overcommit: false,
                huge: false,
                prefetch: Prefetching::All,
            };
            ("the engine", Some(plan))
        }
    };
    let job = Job {
        side: name,
        memory: options.memory,
        plan,
        accelerators: Vec::new(),
        setting: &setting,
        workload: &format!("faults passes={} seed={}", options.passes, round + 1),
    };
    let result = guest::run(&job, signals)?;
    Ok(result.number("fault_count")? / result.number("seconds")?)
}
