//! The kernel's swap at its best for a workload: what it swaps to and how is tried first.

use super::{Options, Tier};
use crate::bench::BenchError;
use crate::bench::child::Run;
use crate::bench::lab::{Kind, Lab, Tuning};

/// A guest on plain memory in a control group with a limit.
pub(super) struct Peer {
    /// What it and its monitor may have in memory, bytes.
    pub(super) limit: u64,
    pub(super) tuning: Tuning,
}

impl Peer {
    /// The fastest way to swap what a tier of ours would hold, found by one run of each way.
    pub(super) fn choose(
        lab: &Lab<'_>,
        options: &Options,
        tier: Tier,
        limit: u64,
    ) -> Result<Self, BenchError> {
        let mut best: Option<(f64, Tuning)> = None;
        let mut attempt = |tuning: Tuning| -> Result<Tuning, BenchError> {
            let peer = Self { limit, tuning };
            let rate = match peer.run(lab, options, 0) {
                Ok(run) => run.number("ops_per_sec")?,
                // As slow as can be.
                Err(BenchError::OutOfMemory { .. }) => 0.0,
                Err(error) => return Err(error),
            };
            lab.progress.line(format!(
                "swap for {} beside {}, on {}: {:.1} kop/s",
                options.workload.name(),
                tier.name(),
                tuning,
                rate / 1e3
            ));
            let fastest = best
                .filter(|(fastest, _)| *fastest >= rate)
                .unwrap_or((rate, tuning));
            best = Some(fastest);
            Ok(fastest.1)
        };
        let mut fastest = None;
        for tuning in candidates(tier) {
            fastest = Some(attempt(tuning)?);
        }
        let fastest = fastest.expect("there are candidates for each tier");
        let tuning = attempt(Tuning {
            huge_pages: true,
            ..fastest
        })?;
        Ok(Self { limit, tuning })
    }

    /// One run, as the best of those tried.
    pub(super) fn run(
        &self,
        lab: &Lab<'_>,
        options: &Options,
        round: usize,
    ) -> Result<Run, BenchError> {
        let words = options.words(round, self.tuning.random);
        lab.swapped(&words, options.memory, self.limit, self.tuning)
    }
}

/// What is tried, first without huge pages.
fn candidates(tier: Tier) -> Vec<Tuning> {
    let with = |device, random, page_cluster| Tuning {
        device,
        random,
        page_cluster,
        huge_pages: false,
    };
    match tier {
        Tier::Zip => vec![with(Kind::Zram, false, 0), with(Kind::Zram, false, 3)],
        Tier::Hbm => vec![
            with(Kind::Zram, true, 0),
            with(Kind::Loop, false, 0),
            with(Kind::Loop, false, 3),
            with(Kind::Loop, false, 5),
        ],
    }
}
