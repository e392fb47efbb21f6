//! The kernel's swap at its best for a workload: what it swaps to and how is tried first.

use super::{Options, Tier};
use crate::bench::BenchError;
use crate::bench::child::Run;
use crate::bench::lab::{Kind, Lab, Tuning};

/// How much faster a way must be than the one tried before, so that it is not chosen for what one run differs from the next.
const CLEARLY: f64 = 1.05;

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
        let attempt = |tuning: Tuning| -> Result<(f64, Tuning), BenchError> {
            let peer = Self { limit, tuning };
            let rate = match peer.run(lab, options, 0) {
                Ok(run) => run.number("ops_per_sec")?,
                // As slow as can be.
                Err(BenchError::OutOfMemory { .. }) => 0.0,
                Err(error) => return Err(error),
            };
            lab.progress.line(format!(
                "swap for {} beside {}, on {tuning}: {:.1} kop/s",
                options.workload.name(),
                tier.name(),
                rate / 1e3
            ));
            Ok((rate, tuning))
        };
        let faster = |a: (f64, Tuning), b: (f64, Tuning)| if b.0 > CLEARLY * a.0 { b } else { a };
        let (first, others) = candidates(tier);
        let mut best = attempt(first)?;
        for tuning in others {
            best = faster(best, attempt(tuning)?);
        }
        let huge_pages = Tuning {
            huge_pages: true,
            ..best.1
        };
        let (_, tuning) = faster(best, attempt(huge_pages)?);
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

/// What is tried without huge pages.
fn candidates(tier: Tier) -> (Tuning, Vec<Tuning>) {
    let with = |device, random, page_cluster| Tuning {
        device,
        random,
        page_cluster,
        huge_pages: false,
    };
    match tier {
        Tier::Zip => (with(Kind::Zram, false, 0), vec![with(Kind::Zram, false, 3)]),
        Tier::Hbm => (
            with(Kind::Zram, true, 0),
            [0, 3, 5]
                .map(|cluster| with(Kind::Loop, false, cluster))
                .to_vec(),
        ),
    }
}
