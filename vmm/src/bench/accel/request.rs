//! A command that has to bring a page that the vCPU has just written, against one that does nothing: the guest sends them in
//! turn, in one run.

use std::fmt;

use serde::Serialize;

use super::{Bench, accelerator, summary};
use crate::accelerators::{AccelConfig, Arch};
use crate::bench::{BenchError, Summary};
use gmem_core::accel::Placement;

/// Medians, in microseconds of the guest's clock.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// A command that does nothing, from sending to seeing the answer.
    pub request_p50_us: Summary,
    /// One that brings a page.
    pub fault_p50_us: Summary,
}

/// A round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    request: f64,
    fault: f64,
}

pub(super) fn round(bench: &Bench<'_>, arch: Arch, round: usize) -> Result<Round, BenchError> {
    // With room for all that comes: an eviction is not to be measured.
    let accelerator = AccelConfig {
        placement: Placement::FirstTouch,
        ..accelerator(arch, 2 * bench.data())
    };
    let workload = format!(
        "pingpong ops=1 working_set={} seed={}",
        bench.data(),
        bench.seed(round)
    );
    let result = bench.run("single commands", accelerator, &workload)?;
    Ok(Round {
        request: result.number("nop_p50_us")?,
        fault: result.number("fault_p50_us_accel")?,
    })
}

impl Round {
    pub(super) fn ratio(&self) -> f64 {
        self.fault / self.request
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fault {:.1} us, request {:.1} us ({:.3})",
            self.fault,
            self.request,
            self.ratio(),
        )
    }
}

impl Figures {
    pub(super) fn of(rounds: &[Round]) -> Self {
        Self {
            request_p50_us: summary(rounds, |round| round.request),
            fault_p50_us: summary(rounds, |round| round.fault),
        }
    }
}
