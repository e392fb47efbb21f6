//! `gmem bench resident`: what the memory system costs a guest whose memory fits its budget, against plain
//! memory.
//!
//! Both sides ask the kernel for the same page sizes: for none in particular. The guest writes all of its
//! memory and warms up before its clock runs, and checks its memory after the clock has stopped.

use std::io;

use serde::Serialize;

use super::guest::{self, Job};
use super::{BenchError, Measured, Progress, Summary, in_turn};
use crate::kvm::affinity;
use crate::machine::Setting;
use crate::memory::plan::Plan;
use crate::signals::TerminationSignals;
use gmem_core::page::Unit;
use gmem_core::policy::Prefetching;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pairs of runs; at least one.
    pub pairs: usize,
    /// The guest's memory and the host budget, bytes.
    pub memory: u64,
    /// How long the timed part of a run lasts, seconds; at least one.
    pub seconds: u64,
}

/// What the two sides did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// The guest's memory and the host budget.
    pub memory_bytes: u64,
    /// With a host tier of the memory's size.
    pub resident: Rate,
    /// With plain memory.
    pub plain: Rate,
}

/// One side's speed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    /// Operations a second in the timed part.
    pub ops_per_sec: Summary,
    /// What came before it: writing all memory, and warm-up. Seconds.
    pub warmup_seconds: Summary,
}

/// Resident over plain, within each pair.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratios {
    /// Of the operations a second.
    pub resident_over_plain: Summary,
}

#[derive(Clone, Copy)]
enum Side {
    Resident,
    Plain,
}

#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    warmup: f64,
}

/// Measures, telling `progress` about each pair.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Ratios>, BenchError> {
    let cpu = affinity::allowed_cpus()?
        .pop()
        .ok_or(io::ErrorKind::NotFound)
        .map_err(io::Error::from)?;
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for pair in 0..options.pairs {
        for side in in_turn(pair, [Side::Resident, Side::Plain]) {
            samples[side as usize].push(sample(side, options, pair, cpu, signals)?);
        }
        let [resident, plain] = [0, 1].map(|side: usize| samples[side][pair].rate);
        progress.line(format!(
            "pair {}/{}: resident {:.3} Mop/s, plain {:.3} Mop/s, ratio {:.3}",
            pair + 1,
            options.pairs,
            resident / 1e6,
            plain / 1e6,
            resident / plain,
        ));
    }
    let [resident, plain] = samples;
    let ratios: Vec<f64> = resident
        .iter()
        .zip(&plain)
        .map(|(r, p)| r.rate / p.rate)
        .collect();
    let rate = |samples: &[Sample]| {
        let of = |of: fn(&Sample) -> f64| Summary::of(&samples.iter().map(of).collect::<Vec<_>>());
        Rate {
            ops_per_sec: of(|sample| sample.rate),
            warmup_seconds: of(|sample| sample.warmup),
        }
    };
    let figures = Figures {
        memory_bytes: options.memory,
        resident: rate(&resident),
        plain: rate(&plain),
    };
    let ratios = Ratios {
        resident_over_plain: Summary::of(&ratios),
    };
    Ok(Measured::new("resident", options.pairs, figures, ratios))
}

fn sample(
    side: Side,
    options: &Options,
    pair: usize,
    cpu: usize,
    signals: &TerminationSignals,
) -> Result<Sample, BenchError> {
    let (name, plan) = match side {
        Side::Resident => {
            let plan = Plan {
                budget: options.memory,
                unit: Unit::Page,
                lower: Vec::new(),
                overcommit: false,
                huge: false,
                prefetch: Prefetching::All,
            };
            ("resident memory", Some(plan))
        }
        Side::Plain => ("plain memory", None),
    };
    let result = guest::run(
        &Job {
            side: name,
            memory: options.memory,
            plan,
            accelerators: Vec::new(),
            setting: &Setting {
                cpus: Some(vec![cpu]),
                server: None,
            },
            workload: &format!("zipf seconds={} seed={}", options.seconds, pair + 1),
        },
        signals,
    )?;
    Ok(Sample {
        rate: result.number("ops_per_sec")?,
        warmup: result.number("warmup_seconds")?,
    })
}
