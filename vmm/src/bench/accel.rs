//! `gmem bench accel`: what it costs accelerators to share the guest's memory.
//!
//! | ratio | compares |
//! |---|---|
//! | gather | placement by use with placement by first touch, of a table four times the accelerator's memory |
//! | layers | weights that stream through an accelerator's memory with the larger of computing and of transferring them |
//! | fault | a command that has to bring a page with one that does nothing |
//!
//! Each kind of accelerator is measured in runs of its own.

mod gather;
mod layers;
mod request;

use std::io;

use serde::Serialize;

use super::guest::{self, GuestResult, Job};
use super::{BenchError, Measured, Progress, Summary};
use crate::accelerators::{AccelConfig, Arch};
use crate::kvm::affinity;
use crate::machine::Setting;
use crate::memory::plan::{Lower, Plan};
use crate::signals::TerminationSignals;
use gmem_core::accel::Placement;
use gmem_core::page::Unit;
use gmem_core::policy::Prefetching;

/// Bandwidth of the link where it is modelled, 10^9 bytes a second.
const LINK_GBPS: f64 = 8.0;
/// The guest's data over the accelerator's memory.
const OVER_HBM: u64 = 4;
/// Memory of the guest that is not data: its image, rings, operands.
const BESIDE: u64 = 16 << 20;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds, each of all sides; at least one.
    pub rounds: usize,
    /// Of the first round; each has its own.
    pub seed: u64,
    /// The accelerator's memory, bytes.
    pub hbm: u64,
    /// Rows that `gather` looks up.
    pub lookups: u64,
    /// Rows that `layers` multiplies.
    pub rows: u64,
    /// Times that they go through all layers; at least two.
    pub epochs: u64,
}

/// One thing for each kind of accelerator.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Kinds<T> {
    /// With pages of 4 KiB.
    pub npu: T,
    /// With pages of 64 KiB.
    pub gpu: T,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// The accelerator's memory.
    pub hbm_bytes: u64,
    /// The guest's data.
    pub data_bytes: u64,
    /// By kinds.
    #[serde(flatten)]
    pub kinds: Kinds<KindFigures>,
}

/// What was measured of one kind.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KindFigures {
    /// A link without limits.
    pub gather: gather::Figures,
    /// A link of 8 GB/s.
    pub gather_link: gather::Figures,
    /// Weights over a link of 8 GB/s.
    pub layers: layers::Figures,
    /// Single commands.
    pub request: request::Figures,
}

/// One side over the other, within each round, of one kind.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KindRatios {
    /// Bytes that crossed the link, placed by use over placed by first touch.
    pub gather_bytes_over_first_touch: Summary,
    /// The same of times.
    pub gather_time_over_first_touch: Summary,
    /// Bytes, with a link of 8 GB/s.
    pub gather_link_bytes_over_first_touch: Summary,
    /// Times, with a link of 8 GB/s.
    pub gather_link_time_over_first_touch: Summary,
    /// An epoch over the larger of what computing and what transferring takes.
    pub layers_time_over_bound: Summary,
    /// The median command that brings a page over the median one that does nothing.
    pub fault_p50_over_request: Summary,
}

/// What all runs have in common.
struct Bench<'a> {
    options: &'a Options,
    cpu: usize,
    signals: &'a TerminationSignals,
}

/// Rounds of one kind.
#[derive(Default)]
struct Samples {
    gather: Vec<gather::Round>,
    gather_link: Vec<gather::Round>,
    layers: Vec<layers::Round>,
    request: Vec<request::Round>,
}

/// Measures, telling `progress` about each round.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Kinds<KindRatios>>, BenchError> {
    // One CPU for the vCPU of every run: handing out another one to each would compare CPUs.
    let cpu = affinity::allowed_cpus()?
        .pop()
        .ok_or(io::ErrorKind::NotFound)
        .map_err(io::Error::from)?;
    let bench = Bench {
        options,
        cpu,
        signals,
    };
    let mut samples: [Samples; 2] = Default::default();
    for round in 0..options.rounds {
        for (arch, samples) in [Arch::Npu, Arch::Gpu].into_iter().zip(&mut samples) {
            let gather = gather::round(&bench, arch, round, None)?;
            let gather_link = gather::round(&bench, arch, round, Some(LINK_GBPS))?;
            let layers = layers::round(&bench, arch, round)?;
            let request = request::round(&bench, arch, round)?;
            progress.line(format!(
                "round {}/{}, {}: gather {gather}; over {LINK_GBPS} GB/s {gather_link}; layers {layers}; {request}",
                round + 1,
                options.rounds,
                arch.name(),
            ));
            samples.gather.push(gather);
            samples.gather_link.push(gather_link);
            samples.layers.push(layers);
            samples.request.push(request);
        }
    }
    let [npu, gpu] = samples;
    let figures = Figures {
        hbm_bytes: options.hbm,
        data_bytes: OVER_HBM * options.hbm,
        kinds: Kinds {
            npu: npu.figures(),
            gpu: gpu.figures(),
        },
    };
    let ratios = Kinds {
        npu: npu.ratios(),
        gpu: gpu.ratios(),
    };
    Ok(Measured::new("accel", options.rounds, figures, ratios))
}

impl Samples {
    fn figures(&self) -> KindFigures {
        KindFigures {
            gather: gather::Figures::of(&self.gather),
            gather_link: gather::Figures::of(&self.gather_link),
            layers: layers::Figures::of(&self.layers),
            request: request::Figures::of(&self.request),
        }
    }

    fn ratios(&self) -> KindRatios {
        KindRatios {
            gather_bytes_over_first_touch: summary(&self.gather, gather::Round::bytes_ratio),
            gather_time_over_first_touch: summary(&self.gather, gather::Round::time_ratio),
            gather_link_bytes_over_first_touch: summary(
                &self.gather_link,
                gather::Round::bytes_ratio,
            ),
            gather_link_time_over_first_touch: summary(
                &self.gather_link,
                gather::Round::time_ratio,
            ),
            layers_time_over_bound: summary(&self.layers, layers::Round::ratio),
            fault_p50_over_request: summary(&self.request, request::Round::ratio),
        }
    }
}

fn summary<R>(rounds: &[R], of: impl Fn(&R) -> f64) -> Summary {
    Summary::of(&rounds.iter().map(of).collect::<Vec<_>>())
}

impl Bench<'_> {
    /// Bytes of the guest's data.
    fn data(&self) -> u64 {
        OVER_HBM * self.options.hbm
    }

    fn seed(&self, round: usize) -> u64 {
        self.options.seed.wrapping_add(round as u64)
    }

    /// Runs `workload` with one accelerator, on memory of which all fits the host's budget: what is compared is the
    /// accelerator's link.
    fn run(
        &self,
        side: &'static str,
        accelerator: AccelConfig,
        workload: &str,
    ) -> Result<GuestResult, BenchError> {
        let memory = self.data() + BESIDE;
        let plan = Plan {
            budget: memory + memory / 4,
            unit: Unit::Page,
            // For pages that leave an accelerator: they are staged, and what is staged wants to be passed on.
            lower: vec![Lower::Hbm {
                bytes: memory,
                latency_us: 0.0,
                gbps: None,
            }],
            overcommit: false,
            huge: false,
            prefetch: Prefetching::All,
        };
        guest::run(
            &Job {
                side,
                memory,
                plan: Some(plan),
                accelerators: vec![accelerator],
                setting: &Setting {
                    cpus: Some(vec![self.cpu]),
                    server: None,
                },
                workload,
            },
            self.signals,
        )
    }
}

/// An accelerator as it is unless an option says otherwise.
fn accelerator(arch: Arch, hbm: u64) -> AccelConfig {
    AccelConfig {
        arch,
        hbm,
        latency_us: 0.0,
        gbps: None,
        remote_latency_us: 0.0,
        hbm_latency_us: 0.0,
        hbm_gbps: None,
        faults: true,
        streams: 4,
        placement: Placement::Adaptive,
    }
}
