//! `gmem bench scan`, `stride`, `uniform`, `zipf`, `hotscan`, `phase`: oversubscribed memory.
//!
//! The bundled guest works on memory of which a share is local, on top of a tier of this product or of the
//! kernel's swap in a control group: docs/bench.md says what both have.

mod kind;
mod peer;
mod samples;

use std::collections::BTreeMap;

use serde::Serialize;

use super::lab::{Lab, Tuning};
use super::{BenchError, Measured, Progress, Ratios, Summary, in_turn};
use crate::signals::TerminationSignals;
use peer::Peer;
use samples::{Sample, Samples};

pub use kind::{Tier, Workload};
pub use samples::Side;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the guest does.
    pub workload: Workload,
    /// Compare with the kernel's swap.
    pub swap: bool,
    /// Local shares of the guest's memory, percent.
    pub shares: Vec<u8>,
    /// What holds the rest.
    pub tiers: Vec<Tier>,
    /// Rounds, each of all sides; at least one.
    pub rounds: usize,
    /// How long the timed part of a run lasts.
    pub seconds: u64,
    /// The guest's memory, bytes.
    pub memory: u64,
    /// Its vCPUs.
    pub cpus: usize,
    /// Of the first round; each has its own.
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The guest's memory.
    pub memory_bytes: u64,
    /// What a run's control group had in memory beyond the guest's own, where there are groups.
    pub monitor_bytes: Option<u64>,
    /// Plain memory without a limit: operations a second.
    pub plain_ops_per_sec: Summary,
    /// By local share in percent and tier: `25_zip`.
    pub shares: BTreeMap<String, Share>,
}

/// Both sides with the same share of local memory.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// The share, percent.
    pub percent: u8,
    /// The tier's name.
    pub tier: &'static str,
    /// Local bytes of the guest.
    pub local_bytes: u64,
    /// This product.
    pub ours: Side,
    /// The kernel's swap.
    pub swap: Option<Side>,
    /// What it swaps to, and how: the fastest of those tried.
    pub tuning: Option<Tuning>,
}

/// One pair of sides, and what they did.
struct Pair {
    percent: u8,
    tier: Tier,
    local: u64,
    peer: Option<Peer>,
    ours: Samples,
    swap: Samples,
}

/// Measures, telling `progress` about each round.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Ratios>, BenchError> {
    let lab = Lab::new(
        options.memory,
        options.cpus,
        options.swap,
        signals,
        progress,
    )?;
    // What the monitor has for itself is measured once: everything else depends on it.
    let first = options.plain(&lab, 0)?;
    let monitor_bytes = lab.has_swap().then(|| first.beyond_guest());
    let mut pairs: Vec<Pair> = Vec::new();
    for &percent in &options.shares {
        for &tier in &options.tiers {
            let local = options.memory / 4096 * u64::from(percent) / 100 * 4096;
            let known = pairs.iter().find(|pair| pair.tier == tier);
            let known = known.and_then(|pair| pair.peer.as_ref());
            let peer = match (monitor_bytes, known) {
                (Some(monitor), Some(known)) => Some(Peer {
                    limit: local + monitor,
                    ..*known
                }),
                (Some(monitor), None) => Some(Peer::choose(&lab, options, tier, local + monitor)?),
                (None, _) => None,
            };
            pairs.push(Pair {
                percent,
                tier,
                local,
                peer,
                ours: Samples::default(),
                swap: Samples::default(),
            });
        }
    }
    let mut plain = Vec::new();
    for round in 0..options.rounds {
        plain.push(options.plain(&lab, round)?.number("ops_per_sec")?);
        for pair in &mut pairs {
            pair.round(&lab, options, round)?;
            let rate = |samples: &Samples| samples.0.last().map_or(0.0, |sample| sample.rate) / 1e3;
            let [ours, swap] = [rate(&pair.ours), rate(&pair.swap)];
            let against = match &pair.peer {
                Some(peer) => format!(
                    ", swap on {} {swap:.1}, ratio {:.3}",
                    peer.tuning,
                    ours / swap
                ),
                None => String::new(),
            };
            lab.progress.line(format!(
                "round {}/{}, {} {}% {}: {ours:.1} kop/s{against}; plain memory {:.1}",
                round + 1,
                options.rounds,
                options.workload.name(),
                pair.percent,
                pair.tier.name(),
                plain[round] / 1e3,
            ));
        }
    }
    let figures = Figures {
        memory_bytes: options.memory,
        monitor_bytes,
        plain_ops_per_sec: Summary::of(&plain),
        shares: pairs.iter().map(|pair| pair.figures(&plain)).collect(),
    };
    let ratios = ratios(options.workload, &pairs, &plain);
    let name = options.workload.name();
    Ok(Measured::new(name, options.rounds, figures, ratios))
}

impl Options {
    fn seed(&self, round: usize) -> u64 {
        self.seed.wrapping_add(round as u64)
    }

    /// What the guest is told.
    fn words(&self, round: usize, random: bool) -> String {
        format!(
            "{} seconds={} seed={} fill={}",
            self.workload.name(),
            self.seconds,
            self.seed(round),
            if random { "random" } else { "mixed" },
        )
    }

    /// Memory that fits its budget is plain memory, and its report says how much of it there is.
    fn plain(&self, lab: &Lab<'_>, round: usize) -> Result<super::child::Run, BenchError> {
        let tiers = [format!("host:{}", self.memory)];
        let words = self.words(round, false);
        lab.managed(("plain memory", &words), self.memory, &tiers, None)
    }
}

impl Pair {
    fn round(&mut self, lab: &Lab<'_>, options: &Options, round: usize) -> Result<(), BenchError> {
        for swap in in_turn(round, [false, true]) {
            match (&self.peer, swap) {
                (Some(peer), true) => {
                    let run = peer.run(lab, options, round)?;
                    self.swap.0.push(Sample::of_swap(&run)?);
                }
                (None, true) => {}
                (peer, false) => {
                    let random = peer.as_ref().is_some_and(|peer| peer.tuning.random);
                    let limit = peer.as_ref().map(|peer| peer.limit + options.memory);
                    let tiers = [
                        format!("host:{}", self.local),
                        format!("{}:{}", self.tier.name(), options.memory),
                    ];
                    let words = options.words(round, random);
                    let side = (self.tier.name(), words.as_str());
                    let run = lab.managed(side, options.memory, &tiers, limit)?;
                    self.ours.0.push(Sample::of_ours(&run)?);
                }
            }
        }
        Ok(())
    }

    fn key(&self) -> String {
        format!("{}_{}", self.percent, self.tier.name())
    }

    fn figures(&self, plain: &[f64]) -> (String, Share) {
        let share = Share {
            percent: self.percent,
            tier: self.tier.name(),
            local_bytes: self.local,
            ours: self.ours.side(plain),
            swap: self.peer.as_ref().map(|_| self.swap.side(plain)),
            tuning: self.peer.as_ref().map(|peer| peer.tuning),
        };
        (self.key(), share)
    }
}

fn ratios(workload: Workload, pairs: &[Pair], plain: &[f64]) -> Ratios {
    let name = workload.name();
    let mut ratios = Ratios::new();
    for pair in pairs {
        let key = format!("{name}_{}", pair.key());
        match pair.peer {
            Some(_) => ratios.insert(key, pair.ours.over(&pair.swap)),
            None => ratios.insert(format!("{key}_slowdown"), pair.ours.slowdown(plain)),
        };
    }
    if workload.is_foreseeable() {
        let least: Vec<f64> = (0..plain.len())
            .map(|round| {
                let avoided = pairs.iter().map(|pair| pair.ours.0[round].avoided);
                avoided.fold(f64::INFINITY, f64::min)
            })
            .collect();
        ratios.insert(format!("{name}_avoided"), Summary::of(&least));
    }
    ratios
}
