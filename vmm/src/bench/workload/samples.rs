//! What one side did, round by round.

use serde::Serialize;

use crate::bench::child::Run;
use crate::bench::{BenchError, Summary};

/// One run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) rate: f64,
    /// See [`Side::avoided`].
    pub(super) avoided: f64,
    stored: f64,
    swapped: f64,
    peak: f64,
}

/// One side's runs, one a round.
#[derive(Default)]
pub(super) struct Samples(pub(super) Vec<Sample>);

/// One side, summed up.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Side {
    /// Operations a second in the timed part.
    pub ops_per_sec: Summary,
    /// Time of an operation over the one on plain memory, within each round.
    pub slowdown: Summary,
    /// The most bytes that were taken for pages beyond the local ones, with metadata.
    pub stored_bytes: Summary,
    /// The most bytes of the guest that the kernel had swapped.
    pub swapped_bytes: Summary,
    /// The most bytes that the control group had in memory; a tier's are among them, a device's are not. Zero
    /// without groups.
    pub peak_bytes: Summary,
    /// Share of the timed part's operations that needed no fault in user space: with swap none does.
    pub avoided: Summary,
}

impl Sample {
    /// A run with a tier of ours.
    pub(super) fn of_ours(run: &Run) -> Result<Self, BenchError> {
        let (warmup, seconds) = (run.number("warmup_seconds")?, run.number("seconds")?);
        let until = |end| run.told(end, |told| told.faults);
        let faults = until(warmup + seconds) - until(warmup);
        Ok(Self {
            avoided: 1.0 - faults / run.number("ops")?,
            stored: run.tier(1, "peak_bytes"),
            ..Self::of(run)?
        })
    }

    /// A run on plain memory that was swapped.
    pub(super) fn of_swap(run: &Run) -> Result<Self, BenchError> {
        Self::of(run)
    }

    fn of(run: &Run) -> Result<Self, BenchError> {
        let swapped = run.swapped_bytes as f64;
        Ok(Self {
            rate: run.number("ops_per_sec")?,
            avoided: 1.0,
            stored: run.stored.map_or(swapped, |[_, _, used]| used as f64),
            swapped,
            peak: run.peak_bytes as f64,
        })
    }
}

impl Samples {
    /// Ours over theirs, within each round.
    pub(super) fn over(&self, theirs: &Self) -> Summary {
        let pairs = self.0.iter().zip(&theirs.0);
        Summary::of(&pairs.map(|(a, b)| a.rate / b.rate).collect::<Vec<_>>())
    }

    /// Time of an operation over the one on plain memory, whose operations a second are given.
    pub(super) fn slowdown(&self, plain: &[f64]) -> Summary {
        let pairs = self.0.iter().zip(plain);
        Summary::of(
            &pairs
                .map(|(own, plain)| plain / own.rate)
                .collect::<Vec<_>>(),
        )
    }

    pub(super) fn side(&self, plain: &[f64]) -> Side {
        let of = |of: fn(&Sample) -> f64| Summary::of(&self.0.iter().map(of).collect::<Vec<_>>());
        Side {
            ops_per_sec: of(|sample| sample.rate),
            slowdown: self.slowdown(plain),
            stored_bytes: of(|sample| sample.stored),
            swapped_bytes: of(|sample| sample.swapped),
            peak_bytes: of(|sample| sample.peak),
            avoided: of(|sample| sample.avoided),
        }
    }
}
