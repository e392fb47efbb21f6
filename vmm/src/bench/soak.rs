//! `gmem bench soak`: one of two processes that mirror a guest's pages is killed, at random moments, again and again.
//!
//! The same seed gives the same moments, as shares of what a run takes that is left alone.

mod round;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::child::Workplace;
use super::result::Ratios;
use super::{BenchError, Measured, Progress};
use crate::signals::TerminationSignals;
use gmem_core::policy::simulation::Random;
use round::{Bench, Script};

pub use round::{Death, Round};

/// The guest's memory, bytes.
const MEMORY: u64 = 128 << 20;
/// What of it is local.
const LOCAL: u64 = 32 << 20;
/// The second of so many rounds puts an empty holder in the place of the dead one, and kills the other.
const REPLACES: u64 = 4;

/// How to do it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Processes that are killed in all.
    pub kills: u64,
    /// Of the moments, and of the guests.
    pub seed: u64,
    /// A run that takes longer is a hang.
    pub limit: Duration,
}

/// What became of the runs.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Of the moments, and of the guests.
    pub seed: u64,
    /// What a run takes that is left alone.
    pub undisturbed_seconds: f64,
    /// Processes that were killed.
    pub kills: u64,
    /// Of those, while the guest was at its workload.
    pub kills_while_running: u64,
    /// Runs by their exit codes; `signal` are those that were killed.
    pub exit_codes: BTreeMap<String, u64>,
    /// Bytes that guests compared and that were right.
    pub verified_bytes: u64,
    /// Bytes that were wrong.
    pub mismatched_bytes: u64,
    /// Runs that took longer than the limit.
    pub hangs: u64,
    /// Each round.
    pub each: Vec<Round>,
}

impl Figures {
    fn of(seed: u64, undisturbed: f64, each: Vec<Round>) -> Self {
        let deaths = || each.iter().flat_map(|round| &round.kills);
        let mut exit_codes = BTreeMap::new();
        for round in &each {
            let code = round
                .exit_code
                .map_or("signal".into(), |code| code.to_string());
            *exit_codes.entry(code).or_default() += 1;
        }
        let sum = |of: fn(&Round) -> Option<u64>| each.iter().filter_map(of).sum();
        Self {
            seed,
            undisturbed_seconds: undisturbed,
            kills: deaths().count() as u64,
            kills_while_running: deaths().filter(|death| death.running).count() as u64,
            exit_codes,
            verified_bytes: sum(|round| round.verified_bytes),
            mismatched_bytes: sum(|round| round.mismatched_bytes),
            hangs: each.iter().filter(|round| round.hang).count() as u64,
            each,
        }
    }

    /// Whether every round ended well.
    pub fn is_clean(&self) -> bool {
        self.each.iter().all(Round::is_clean)
    }
}

/// Runs guests and kills holders of their pages, telling `progress` how each round ended.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Ratios>, BenchError> {
    let place = Workplace::new()?;
    let bench = Bench {
        place: &place,
        signals,
        limit: options.limit,
    };
    let undisturbed = bench.undisturbed(options.seed)?;
    progress.line(format!("a run that is left alone takes {undisturbed:.2} s"));
    let mut random = Random::new(options.seed);
    let mut each: Vec<Round> = Vec::new();
    let mut kills = 0;
    // Rounds of either kind so far: in each kind both die first in turn.
    let mut turns = [0; 2];
    while kills < options.kills {
        let number = each.len() as u64 + 1;
        let replaces = number % REPLACES == 2 && options.kills - kills >= 2;
        let turn = &mut turns[usize::from(replaces)];
        let script = Script {
            number,
            seed: options.seed.wrapping_add(number),
            first: *turn % 2,
            replaces,
            at: undisturbed * random.unit(),
            then: undisturbed * random.unit(),
        };
        *turn += 1;
        let round = bench.round(&script)?;
        kills += round.kills.len() as u64;
        progress.line(format!("{round}; {kills} of {} kills", options.kills));
        each.push(round);
    }
    let rounds = each.len();
    let figures = Figures::of(options.seed, undisturbed, each);
    Ok(Measured::new("soak", rounds, figures, Ratios::new()))
}
