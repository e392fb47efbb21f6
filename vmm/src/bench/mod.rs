//! Measurements of this product against what it could at best be, alternated in one run.
//!
//! Shared machines are noisy: absolute times differ from minute to minute by more than what is to be
//! measured. So each experiment runs its two sides one after the other, in changing order, takes the ratio
//! of the two within each round, and reports the median of the ratios.

pub mod accel;
pub mod all;
mod child;
pub mod delay;
pub mod evict;
pub mod fault;
mod floor;
mod guest;
pub mod host;
pub mod lab;
mod lender;
pub mod pager;
pub mod plot;
pub mod policy;
pub mod resident;
pub mod result;
pub mod scaling;
pub mod soak;
pub mod statistics;
pub mod swap;
pub mod target;
pub mod workload;

use crate::exit_code::ExitCode;
use crate::machine::BuildError;
use crate::outcome::{Outcome, Reason};
use gmem_wire::exit;

pub use result::{Measured, Ratios, Summary};

/// Where an experiment tells how far it is, and learns that it should end.
pub trait Progress: Sync {
    /// One line about what has been done.
    fn line(&self, text: String);
}

/// Why a measurement ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A microVM could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The host gave something up.
    #[error("{0}; run `gmem check`")]
    Host(#[from] std::io::Error),
    /// The host has no swap to compare with.
    #[error(transparent)]
    Swap(#[from] swap::SwapError),
    /// There are no two hosts to be far from each other.
    #[error(transparent)]
    Hosts(#[from] delay::HostsError),
    /// A recording cannot be simulated.
    #[error(transparent)]
    Trace(#[from] policy::TraceError),
    /// A guest's group had nothing left to reclaim.
    #[error(
        "the guest on {side} was killed: its control group was out of memory; give it a larger --local"
    )]
    OutOfMemory {
        /// Which side of the comparison.
        side: &'static str,
    },
    /// A guest did not end well.
    #[error("the guest on {side} did not succeed: {message}")]
    Guest {
        /// Which side of the comparison.
        side: &'static str,
        /// How it ended.
        message: String,
        /// The workload's options do not make sense.
        usage: bool,
        /// One of its vCPU threads is stuck: the process has to be left by `_exit`.
        abandoned: bool,
    },
    /// A guest's result lacks a figure.
    #[error("the guest on {side} reported no {key} above zero: found {found}; give it more to do")]
    NoFigure {
        /// Which side of the comparison.
        side: &'static str,
        /// The member of the guest's result.
        key: &'static str,
        /// What was there.
        found: String,
    },
    /// A signal asked for the end.
    #[error("ended by {name} before there was a result")]
    Signal {
        /// Its name.
        name: &'static str,
        /// As for a guest that did not succeed.
        abandoned: bool,
    },
}

impl BenchError {
    fn of(side: &'static str, outcome: &Outcome) -> Self {
        let abandoned = outcome.abandoned;
        if let Reason::Signal { name, .. } = outcome.reason {
            return Self::Signal { name, abandoned };
        }
        Self::Guest {
            side,
            message: outcome.message().unwrap_or_else(|| "no result".into()),
            usage: outcome.reason == Reason::Verdict(exit::BAD_WORKLOAD),
            abandoned,
        }
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Build(error) => error.exit_code(),
            Self::Host(_) | Self::Hosts(_) | Self::Swap(_) => ExitCode::HostLacks,
            Self::Guest { usage: true, .. } | Self::NoFigure { .. } | Self::Trace(_) => {
                ExitCode::Usage
            }
            Self::Guest { .. } | Self::OutOfMemory { .. } | Self::Signal { .. } => ExitCode::Failed,
        }
    }

    /// Whether a vCPU thread is stuck, so that destructors might hang.
    pub fn is_abandoned(&self) -> bool {
        matches!(
            self,
            Self::Guest {
                abandoned: true,
                ..
            } | Self::Signal {
                abandoned: true,
                ..
            }
        )
    }
}

/// The two sides in the order of round `round` (from 0): AB, BA, AB, ...
fn in_turn<T>(round: usize, sides: [T; 2]) -> [T; 2] {
    let [first, second] = sides;
    if round.is_multiple_of(2) {
        [first, second]
    } else {
        [second, first]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_goes_first_as_often() {
        let order: Vec<_> = (0..4).map(|round| in_turn(round, ["a", "b"])).collect();
        assert_eq!(order, [["a", "b"], ["b", "a"], ["a", "b"], ["b", "a"]]);
    }
}
