//! Weights larger than the accelerator's memory, with the next layer brought during a multiplication: against the same
//! multiplications with all weights in its memory, and against what their bytes take over the link.

use std::fmt;

use serde::Serialize;

use super::{Bench, LINK_GBPS, accelerator, summary};
use crate::accelerators::{AccelConfig, Arch};
use crate::bench::{BenchError, Summary, in_turn};

/// Layers: the next one and the one before fit beside the one that is multiplied.
const LAYERS: u64 = 16;

/// Seconds of an epoch, after the first.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// Weights that stream through the accelerator's memory.
    pub epoch_seconds: Summary,
    /// All weights in its memory: what computing takes.
    pub compute_seconds: Summary,
    /// What the weights' bytes take over the link.
    pub transfer_seconds: Summary,
}

/// A round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    streamed: f64,
    computed: f64,
    transferred: f64,
}

pub(super) fn round(bench: &Bench<'_>, arch: Arch, round: usize) -> Result<Round, BenchError> {
    let workload = |hints| {
        format!(
            "layers layers={LAYERS} rows={} epochs={} working_set={} seed={} hints={hints}",
            bench.options.rows,
            bench.options.epochs,
            bench.data(),
            bench.seed(round),
        )
    };
    let (mut seconds, mut bytes) = ([0.0; 2], 0.0);
    for side in in_turn(round, [0, 1]) {
        let (name, hints, hbm) = [
            ("weights that stream", "on", bench.options.hbm),
            ("weights that stay", "off", 2 * bench.data()),
        ][side];
        let accelerator = AccelConfig {
            gbps: Some(LINK_GBPS),
            ..accelerator(arch, hbm)
        };
        let result = bench.run(name, accelerator, &workload(hints))?;
        seconds[side] = result.number("epoch_seconds")?;
        bytes = result.number("weight_bytes")?;
    }
    let [streamed, computed] = seconds;
    Ok(Round {
        streamed,
        computed,
        transferred: bytes / (LINK_GBPS * 1e9),
    })
}

impl Round {
    pub(super) fn ratio(&self) -> f64 {
        self.streamed / self.computed.max(self.transferred)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} ms, computing {:.1}, transfer {:.1} ({:.3})",
            self.streamed * 1e3,
            self.computed * 1e3,
            self.transferred * 1e3,
            self.ratio(),
        )
    }
}

impl Figures {
    pub(super) fn of(rounds: &[Round]) -> Self {
        Self {
            epoch_seconds: summary(rounds, |round| round.streamed),
            compute_seconds: summary(rounds, |round| round.computed),
            transfer_seconds: summary(rounds, |round| round.transferred),
        }
    }
}
