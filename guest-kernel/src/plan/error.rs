//! Why a workload's line is refused.

use super::{KNOWN, Known};
use core::fmt;

/// Why a workload cannot run. The message fits on a line and says what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError<'a> {
    /// No workload of that name.
    UnknownWorkload {
        /// What was found; empty if there was nothing.
        name: &'a str,
    },
    /// The workload has no such option.
    UnknownOption {
        /// The workload.
        workload: &'static str,
        /// What was found.
        key: &'a str,
    },
    /// An option without `=`.
    NoValue {
        /// What was found.
        word: &'a str,
    },
    /// An option occurs twice.
    Twice {
        /// The option.
        key: &'a str,
    },
    /// The value is not what the option takes.
    BadValue {
        /// The option.
        key: &'static str,
        /// What was found.
        value: &'a str,
        /// What was expected.
        expected: &'static str,
    },
    /// More memory than there is, pages.
    TooLarge {
        /// Asked for.
        wanted: u64,
        /// Free.
        available: u64,
    },
    /// Less memory than the workload cannot do without, pages.
    TooSmall {
        /// What it needs.
        wanted: u64,
        /// Free.
        available: u64,
    },
    /// No accelerator for a workload that needs one.
    NoAccelerator {
        /// The workload.
        workload: &'static str,
    },
    /// No way to those who would use what is lent.
    NoPager {
        /// The workload.
        workload: &'static str,
    },
    /// More than the accelerator's memory holds, bytes.
    Lent {
        /// Asked for, with what lending it takes.
        wanted: u64,
        /// The accelerator's memory.
        memory: u64,
    },
    /// More CPUs than there are.
    TooManyCpus {
        /// Asked for.
        wanted: u64,
        /// Present.
        available: usize,
    },
}

impl fmt::Display for PlanError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownWorkload { name } => {
                match name {
                    "" => write!(f, "no workload named after \"--\"")?,
                    _ => write!(f, "unknown workload \"{name}\"")?,
                }
                write!(f, "; known: ")?;
                list(f, KNOWN.iter().map(|known| known.0))
            }
            Self::UnknownOption { workload, key } => {
                let names = KNOWN
                    .iter()
                    .filter(|known| known.0 == workload)
                    .flat_map(names);
                write!(
                    f,
                    "unknown option \"{key}\" of workload {workload}, which takes "
                )?;
                match names.clone().next() {
                    None => write!(f, "no options"),
                    Some(_) => list(f, names),
                }
            }
            Self::NoValue { word } => write!(f, "\"{word}\" is no option: expected key=value"),
            Self::Twice { key } => write!(f, "option \"{key}\" is given twice"),
            Self::BadValue {
                key,
                value,
                expected,
            } => write!(f, "{key}={value}: expected {expected}"),
            Self::TooLarge { wanted, available } => write!(
                f,
                "working_set= asks for {wanted} pages of 4 KiB, but {available} are free: ask for less, or give the microVM more memory"
            ),
            Self::TooSmall { wanted, available } => write!(
                f,
                "the workload needs {wanted} pages of 4 KiB, but {available} are free: give the microVM more memory, or a larger working_set= if there is one"
            ),
            Self::NoAccelerator { workload } => write!(
                f,
                "workload {workload} needs an accelerator, but the microVM has none: give it one with --accel"
            ),
            Self::NoPager { workload } => write!(
                f,
                "workload {workload} lends memory, but nobody can ask for it: give the microVM --donate unix:PATH"
            ),
            Self::Lent { wanted, memory } => write!(
                f,
                "lending takes {wanted} bytes of the first accelerator's memory, which has {memory}: ask for less by size=, or give it more by --accel ...,hbm=SIZE"
            ),
            Self::TooManyCpus { wanted, available } => write!(
                f,
                "cpus={wanted}, but the microVM has {available}: ask for fewer, or give it more"
            ),
        }
    }
}

/// The options of a workload.
pub(super) fn names(known: &Known) -> impl Iterator<Item = &'static str> + Clone + use<> {
    let (_, groups, own) = *known;
    groups.iter().copied().flatten().chain(own).copied()
}

fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = &'static str>) -> fmt::Result {
    for (index, item) in items.enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}{item}")?;
    }
    Ok(())
}
