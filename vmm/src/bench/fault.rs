//! `gmem bench fault`: what one unpredicted fault costs the vCPU, with the engine and with the least that
//! could serve it.
//!
//! The guest touches each of its pages once, in a random order, and times each touch by the TSC. A quarter
//! of its memory is resident, so that three touches in four are faults, and each is paid for by an eviction:
//! both sides are in steady state when the timed part begins.

use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::floor::{Bringing, Floor};
use super::guest::{self, Job};
use super::{BenchError, Measured, Progress, Summary, in_turn};
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
    /// Rounds, each of both sides; at least one.
    pub rounds: usize,
    /// The guest's memory, bytes.
    pub memory: u64,
    /// How much of it host RAM may hold, bytes.
    pub budget: u64,
    /// Times that every page is touched in the timed part.
    pub passes: u64,
}

/// Medians over the rounds, in microseconds of the guest's clock.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// The guest's memory.
    pub memory_bytes: u64,
    /// How much of it host RAM may hold.
    pub budget_bytes: u64,
    /// Of the least handler.
    pub floor: Latency,
    /// Of the engine.
    pub engine: Latency,
}

/// One side's faults.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Median fault.
    pub fault_p50_us: Summary,
    /// 99th percentile.
    pub fault_p99_us: Summary,
    /// Faults of a round.
    pub faults: Summary,
}

/// Engine over floor, within each round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratios {
    /// Of the median faults.
    pub fault_p50_over_floor: Summary,
    /// Of the 99th percentiles.
    pub fault_p99_over_floor: Summary,
}

/// One run of one side.
#[derive(Clone, Copy, Debug)]
struct Sample {
    p50: f64,
    p99: f64,
    count: f64,
}

#[derive(Clone, Copy)]
enum Side {
    Floor,
    Engine,
}

/// Measures, telling `progress` about each round.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Ratios>, BenchError> {
    // One CPU for every run: handing out another one to each would compare CPUs.
    let cpu = affinity::allowed_cpus()?
        .pop()
        .ok_or(io::ErrorKind::NotFound)
        .map_err(io::Error::from)?;
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for round in 0..options.rounds {
        for side in in_turn(round, [Side::Floor, Side::Engine]) {
            samples[side as usize].push(sample(side, options, round, cpu, signals)?);
        }
        let [floor, engine] = [0, 1].map(|side: usize| samples[side][round]);
        progress.line(format!(
            "round {}/{}: p50 floor {:.1} us, engine {:.1} us, ratio {:.3}; p99 {:.1} us, {:.1} us, {:.3}",
            round + 1,
            options.rounds,
            floor.p50,
            engine.p50,
            engine.p50 / floor.p50,
            floor.p99,
            engine.p99,
            engine.p99 / floor.p99,
        ));
    }
    let [floor, engine] = samples;
    let over = |of: fn(&Sample) -> f64| {
        let ratios: Vec<f64> = engine
            .iter()
            .zip(&floor)
            .map(|(e, f)| of(e) / of(f))
            .collect();
        Summary::of(&ratios)
    };
    let ratios = Ratios {
        fault_p50_over_floor: over(|sample| sample.p50),
        fault_p99_over_floor: over(|sample| sample.p99),
    };
    let figures = Figures {
        memory_bytes: options.memory,
        budget_bytes: options.budget,
        floor: latency(&floor),
        engine: latency(&engine),
    };
    Ok(Measured::new("fault", options.rounds, figures, ratios))
}

fn latency(samples: &[Sample]) -> Latency {
    let of = |of: fn(&Sample) -> f64| Summary::of(&samples.iter().map(of).collect::<Vec<_>>());
    Latency {
        fault_p50_us: of(|sample| sample.p50),
        fault_p99_us: of(|sample| sample.p99),
        faults: of(|sample| sample.count),
    }
}

fn sample(
    side: Side,
    options: &Options,
    round: usize,
    cpu: usize,
    signals: &TerminationSignals,
) -> Result<Sample, BenchError> {
    // The same order of touches for both sides of a round, another one in the next.
    let workload = format!("faults passes={} seed={}", options.passes, round + 1);
    let mut setting = Setting {
        cpus: Some(vec![cpu]),
        server: None,
    };
    let mut plan = None;
    match side {
        Side::Floor => {
            let floor: Arc<dyn Server> = Arc::new(Floor {
                budget: options.budget,
                bringing: Bringing::Move,
            });
            setting.server = Some(floor);
        }
        Side::Engine => {
            plan = Some(Plan {
                budget: options.budget,
                unit: Unit::Page,
                lower: vec![Lower::Hbm {
                    bytes: options.memory,
                    latency_us: 0.0,
                    gbps: None,
                }],
                overcommit: false,
                huge: false,
                prefetch: Prefetching::All,
            });
        }
    }
    let result = guest::run(
        &Job {
            side: match side {
                Side::Floor => "the floor",
                Side::Engine => "the engine",
            },
            memory: options.memory,
            plan,
            accelerators: Vec::new(),
            setting: &setting,
            workload: &workload,
        },
        signals,
    )?;
    Ok(Sample {
        p50: result.number("fault_p50_us")?,
        p99: result.number("fault_p99_us")?,
        count: result.number("fault_count")?,
    })
}
