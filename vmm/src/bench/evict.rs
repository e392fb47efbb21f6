//! `gmem bench evict`: CPU time that it takes to evict a page.
//!
//! A guest fills memory, page after page, each for the first time, and nothing comes back: with room for a fraction of it,
//! and with room for all. What the first takes beyond the second, divided by the pages that left, is what it costs
//! that one leaves. Both runs have the same faults, and both are armed on our side (memory is larger than the
//! budget, though what is filled is not).

use serde::Serialize;

use super::child::{Run, Seen};
use super::lab::{Kind, Lab, Tuning};
use super::{BenchError, Measured, Progress, Ratios, Summary, in_turn};
use crate::signals::TerminationSignals;

/// Runs of a kind within a round. The one that took least CPU time counts: whatever else runs on the host slows threads down,
/// and nothing speeds them up.
const REPEATS: usize = 3;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Compare with the kernel's swap on zram.
    pub swap: bool,
    /// Rounds, each of both sides; at least one.
    pub rounds: usize,
    /// The guest's memory, bytes. Five eighths are filled, a quarter may be local.
    pub memory: u64,
    /// Of contents in the first round; each has its own.
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// The guest's memory.
    pub memory_bytes: u64,
    /// What it fills.
    pub filled_bytes: u64,
    /// What of that may be local where pages are evicted.
    pub local_bytes: u64,
    /// To the tier `zip`.
    pub ours: Cost,
    /// To swap on zram.
    pub swap: Option<Cost>,
}

/// One side's cost of a page that leaves.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// CPU time of threads that the guest waits for, vCPUs and fault handlers; microseconds a page.
    pub waited_us: Summary,
    /// CPU time of all threads; microseconds a page.
    pub total_us: Summary,
    /// Pages that left.
    pub evicted_pages: Summary,
}

/// One round of one side.
#[derive(Clone, Copy, Debug)]
struct Sample {
    waited: f64,
    total: f64,
    evicted: f64,
}

/// What all runs have in common.
struct Evict<'a> {
    lab: Lab<'a>,
    memory: u64,
    filled: u64,
    local: u64,
    /// Room for all that is filled, and less than all memory.
    roomy: u64,
    /// What the monitor has for itself.
    monitor: u64,
}

/// Measures, telling `progress` about each round.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Ratios>, BenchError> {
    let pages = options.memory / 4096;
    let mut evict = Evict {
        lab: Lab::new(options.memory, 1, options.swap, signals, progress)?,
        memory: options.memory,
        filled: pages * 5 / 8 * 4096,
        local: pages / 4 * 4096,
        roomy: pages * 3 / 4 * 4096,
        monitor: 0,
    };
    if options.swap {
        evict.monitor = evict.plain(options.seed)?.beyond_guest();
    }
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for round in 0..options.rounds {
        let seed = options.seed.wrapping_add(round as u64);
        for swap in in_turn(round, [false, true]) {
            if swap && !options.swap {
                continue;
            }
            let mut fillings: [Option<Filling>; 2] = [None; 2];
            for repeat in 0..REPEATS {
                for roomy in in_turn(repeat, [false, true]) {
                    let local = if roomy { evict.roomy } else { evict.local };
                    let filling = Filling::of(swap, &evict.run(swap, local, seed)?)?;
                    let least = &mut fillings[usize::from(roomy)];
                    *least = Some(least.map_or(filling, |least| least.min(filling)));
                }
            }
            let [Some(few), Some(many)] = fillings else {
                unreachable!("each is run at least once");
            };
            let sample = Sample::of(few, many);
            progress.line(format!(
                "round {}/{}: a page to {} costs {:.2} us where the guest waits, {:.2} us in all",
                round + 1,
                options.rounds,
                if swap { "swap" } else { "zip" },
                sample.waited,
                sample.total,
            ));
            samples[usize::from(swap)].push(sample);
        }
    }
    let [ours, swap] = samples;
    let figures = Figures {
        memory_bytes: options.memory,
        filled_bytes: evict.filled,
        local_bytes: evict.local,
        ours: Cost::of(&ours),
        swap: options.swap.then(|| Cost::of(&swap)),
    };
    let mut ratios = Ratios::new();
    if options.swap {
        // All that the kernel does it does where the guest waits: its total is the one to compare with.
        let over = |of: fn(&Sample) -> f64| {
            let pairs = ours.iter().zip(&swap);
            Summary::of(
                &pairs
                    .map(|(ours, swap)| of(ours) / swap.total)
                    .collect::<Vec<_>>(),
            )
        };
        ratios.insert("evict_cpu_over_swap".into(), over(|sample| sample.waited));
        ratios.insert("evict_total_over_swap".into(), over(|sample| sample.total));
    }
    Ok(Measured::new("evict", options.rounds, figures, ratios))
}

impl Evict<'_> {
    /// Filling takes place before the timed part.
    fn words(&self, seed: u64) -> String {
        format!(
            "scan warmup=0 ops=1 working_set={} seed={seed}",
            self.filled
        )
    }

    fn plain(&self, seed: u64) -> Result<Run, BenchError> {
        let tiers = [format!("host:{}", self.memory)];
        let job = ("plain memory", self.words(seed));
        self.lab.managed((job.0, &job.1), self.memory, &tiers, None)
    }

    fn run(&self, swap: bool, local: u64, seed: u64) -> Result<Run, BenchError> {
        let words = self.words(seed);
        if swap {
            let tuning = Tuning {
                device: Kind::Zram,
                random: false,
                page_cluster: 0,
                huge_pages: false,
            };
            return self
                .lab
                .swapped(&words, self.memory, local + self.monitor, tuning);
        }
        let tiers = [format!("host:{local}"), format!("zip:{}", self.memory)];
        self.lab.managed(("zip", &words), self.memory, &tiers, None)
    }
}

/// What filling took.
#[derive(Clone, Copy, Debug)]
struct Filling {
    /// CPU seconds.
    waited: f64,
    /// CPU seconds.
    total: f64,
    /// Pages.
    evicted: f64,
}

impl Filling {
    fn of(swap: bool, run: &Run) -> Result<Self, BenchError> {
        let end = run.number("warmup_seconds")?;
        let took = |what: fn(&Seen) -> f64| run.seen(end, what) - run.seen(0.0, what);
        Ok(Self {
            waited: took(|seen| seen.cpu_waited),
            total: took(|seen| seen.cpu_total),
            evicted: match swap {
                true => took(|seen| seen.swapped) / 4096.0,
                false => run.told(end, |told| told.evicted),
            },
        })
    }

    fn min(self, other: Self) -> Self {
        Self {
            waited: self.waited.min(other.waited),
            total: self.total.min(other.total),
            evicted: self.evicted.min(other.evicted),
        }
    }
}

impl Sample {
    /// What filling took with room for `few` pages beyond what it took with room for `many`.
    fn of(few: Filling, many: Filling) -> Self {
        Self {
            waited: (few.waited - many.waited) * 1e6 / few.evicted,
            total: (few.total - many.total) * 1e6 / few.evicted,
            evicted: few.evicted,
        }
    }
}

impl Cost {
    fn of(samples: &[Sample]) -> Self {
        let of = |of: fn(&Sample) -> f64| Summary::of(&samples.iter().map(of).collect::<Vec<_>>());
        Self {
            waited_us: of(|sample| sample.waited),
            total_us: of(|sample| sample.total),
            evicted_pages: of(|sample| sample.evicted),
        }
    }
}
