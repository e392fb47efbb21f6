//! Rows of a table looked up by Zipf's law: where they are placed by use, and where whatever is touched comes.

use std::fmt;

use serde::Serialize;

use super::{Bench, accelerator, summary};
use crate::accelerators::{AccelConfig, Arch};
use crate::bench::{BenchError, Summary, in_turn};
use gmem_core::accel::Placement;

/// Both placements.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// By access, room, and use.
    pub adaptive: Side,
    /// Whatever is touched comes.
    pub first_touch: Side,
}

/// One placement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Side {
    /// Of the lookups.
    pub seconds: Summary,
    /// What crossed the accelerator's link, both ways.
    pub link_bytes: Summary,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    seconds: f64,
    bytes: f64,
}

/// A round: both placements, the same lookups.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    adaptive: Sample,
    first_touch: Sample,
}

pub(super) fn round(
    bench: &Bench<'_>,
    arch: Arch,
    round: usize,
    gbps: Option<f64>,
) -> Result<Round, BenchError> {
    let workload = format!(
        "gather theta=0.99 working_set={} ops={} seed={}",
        bench.data(),
        bench.options.lookups,
        bench.seed(round),
    );
    let mut samples = [Sample::default(); 2];
    for side in in_turn(round, [0, 1]) {
        let (name, placement) = [
            ("place=adaptive", Placement::Adaptive),
            ("place=first-touch", Placement::FirstTouch),
        ][side];
        let accelerator = AccelConfig {
            gbps,
            placement,
            ..accelerator(arch, bench.options.hbm)
        };
        let result = bench.run(name, accelerator, &workload)?;
        samples[side] = Sample {
            seconds: result.number("seconds")?,
            bytes: result.link_bytes(),
        };
    }
    let [adaptive, first_touch] = samples;
    Ok(Round {
        adaptive,
        first_touch,
    })
}

impl Round {
    pub(super) fn bytes_ratio(&self) -> f64 {
        self.adaptive.bytes / self.first_touch.bytes
    }

    pub(super) fn time_ratio(&self) -> f64 {
        self.adaptive.seconds / self.first_touch.seconds
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} of {:.1} MB ({:.3}), {:.3} of {:.3} s ({:.3})",
            self.adaptive.bytes / 1e6,
            self.first_touch.bytes / 1e6,
            self.bytes_ratio(),
            self.adaptive.seconds,
            self.first_touch.seconds,
            self.time_ratio(),
        )
    }
}

impl Figures {
    pub(super) fn of(rounds: &[Round]) -> Self {
        let side = |of: fn(&Round) -> Sample| Side {
            seconds: summary(rounds, |round| of(round).seconds),
            link_bytes: summary(rounds, |round| of(round).bytes),
        };
        Self {
            adaptive: side(|round| round.adaptive),
            first_touch: side(|round| round.first_touch),
        }
    }
}
