//! How a run ended, and what is said about it.

use std::time::Instant;

use gmem_wire::exit;

use crate::exit_code::ExitCode;
use crate::kvm::exits::{Cause, End, GuestFailure, Position, VcpuError};
use crate::report::{Boot, Integrity, OutcomeKind, Report};

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The guest gave its verdict, see [`gmem_wire::exit`].
    Verdict(u32),
    /// The guest reset the machine: it has rebooted or powered off.
    Reset,
    /// The guest failed.
    Guest {
        /// What it did.
        failure: GuestFailure,
        /// Which vCPU, from 0.
        vcpu: usize,
        /// Where that vCPU was.
        position: Option<Position>,
    },
    /// A signal asked for the end.
    Signal {
        /// Its name.
        name: &'static str,
        /// Where the first vCPU was.
        boot_vcpu: Option<Position>,
    },
    /// Somebody asked for the end over the control socket: who.
    Control(String),
    /// The monitor ended the run for a reason of its own.
    Asked,
    /// The guest's memory cannot go on: a page is lost.
    Memory(String),
    /// The monitor or the host failed.
    Error {
        /// How.
        error: VcpuError,
        /// Which vCPU found out, from 0.
        vcpu: usize,
        /// Where that vCPU was.
        position: Option<Position>,
    },
}

impl Reason {
    /// The reason that the end of vCPU `vcpu` is.
    pub(crate) fn of_end(vcpu: usize, end: End) -> Self {
        let position = end.position;
        match end.cause {
            Cause::Stopped => Self::Asked,
            Cause::Exit(verdict) => Self::Verdict(verdict),
            Cause::Reset => Self::Reset,
            Cause::Guest(failure) => Self::Guest {
                failure,
                vcpu,
                position,
            },
            Cause::Error(error) => Self::Error {
                error,
                vcpu,
                position,
            },
        }
    }
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why it ended.
    pub reason: Reason,
    /// When the guest was entered.
    pub entered: Option<Instant>,
    /// When the guest said that its workload begins.
    pub workload_began: Option<Instant>,
    /// The guest's result line.
    pub result: Option<Vec<u8>>,
    /// The guest is the bundled one, whose verdicts mean more than success or not.
    pub bundled: bool,
    /// What else is to be said about it.
    pub note: Option<String>,
    /// A vCPU thread did not end: the process has to be left by `_exit`.
    pub abandoned: bool,
}

impl Outcome {
    /// What the report calls it.
    pub fn kind(&self) -> OutcomeKind {
        match self.reason {
            Reason::Verdict(exit::SUCCESS) | Reason::Reset => OutcomeKind::Success,
            Reason::Verdict(_) | Reason::Guest { .. } => OutcomeKind::GuestFailure,
            Reason::Signal { .. } | Reason::Control(_) | Reason::Asked => OutcomeKind::Killed,
            Reason::Error { .. } | Reason::Memory(_) => OutcomeKind::Error,
        }
    }

    /// Whether the process is to end now, whoever reads its last words when.
    pub fn is_urgent(&self) -> bool {
        self.abandoned || self.kind() == OutcomeKind::Killed
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self.kind() {
            OutcomeKind::Success => ExitCode::Success,
            OutcomeKind::GuestFailure | OutcomeKind::Killed | OutcomeKind::Error => {
                ExitCode::Failed
            }
        }
    }

    /// One line about what went wrong; `None` after success.
    pub fn message(&self) -> Option<String> {
        let at = |vcpu: usize, position: &Option<Position>| match position {
            Some(position) => format!(" (vCPU {vcpu} at {position})"),
            None => format!(" (vCPU {vcpu})"),
        };
        let message = match &self.reason {
            Reason::Verdict(verdict) => return verdict_message(*verdict, self.bundled),
            Reason::Reset => return None,
            Reason::Guest {
                failure,
                vcpu,
                position,
            } => format!("{failure}{}", at(*vcpu, position)),
            Reason::Error {
                error,
                vcpu,
                position,
            } => format!("{error}{}", at(*vcpu, position)),
            Reason::Signal {
                name,
                boot_vcpu: Some(position),
            } => format!("killed by {name}; vCPU 0 was at {position}"),
            Reason::Signal {
                name,
                boot_vcpu: None,
            } => format!("killed by {name}; vCPU 0 did not leave the guest"),
            Reason::Memory(failure) => failure.clone(),
            Reason::Control(by) => format!("stopped by {by}"),
            Reason::Asked => "the run was ended by the monitor".into(),
        };
        Some(match &self.note {
            Some(note) => format!("{message}; {note}"),
            None => message,
        })
    }

    /// The guest's own result, if it printed one.
    fn guest(&self) -> Option<serde_json::Value> {
        let line = self.result.as_deref()?;
        serde_json::from_slice(line).ok()
    }

    /// What the guest verified, by its own result.
    pub fn integrity(&self) -> Integrity {
        self.guest()
            .as_ref()
            .map(Integrity::of_guest)
            .unwrap_or_default()
    }

    /// What is known about the run without its memory: times from `started`, the guest's own result.
    pub fn report(&self, started: Instant) -> Report {
        let micros = |at: Instant| at.saturating_duration_since(started).as_micros() as u64;
        let guest = self.guest();
        Report {
            message: self.message(),
            boot: Boot {
                to_entry_us: self.entered.map(micros),
                to_workload_us: self.workload_began.map(micros),
            },
            integrity: guest.as_ref().map(Integrity::of_guest).unwrap_or_default(),
            guest,
            ..Report::new(self.kind())
        }
    }
}

fn verdict_message(verdict: u32, bundled: bool) -> Option<String> {
    Some(match verdict {
        exit::SUCCESS => return None,
        other if !bundled => format!("the guest reported failure {other}; its console may say why"),
        exit::MISMATCH => "the guest found bytes that are not what it wrote".into(),
        exit::BAD_WORKLOAD => {
            "the guest does not know this workload or one of its options; check --workload".into()
        }
        exit::PANIC => "the guest panicked; its console says why".into(),
        exit::TRAP => "the guest took an unexpected exception; its console says which".into(),
        other => format!("the guest reported failure {other}; its console may say why"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(reason: Reason, result: Option<&[u8]>) -> Outcome {
        Outcome {
            reason,
            entered: None,
            workload_began: None,
            result: result.map(<[u8]>::to_vec),
            bundled: true,
            note: None,
            abandoned: false,
        }
    }

    #[test]
    fn only_a_zero_verdict_is_success() {
        let success = outcome(Reason::Verdict(0), None);
        assert_eq!(success.kind(), OutcomeKind::Success);
        assert_eq!(success.message(), None);
        for verdict in [1, 2, 77, 101, 102, u32::MAX] {
            let failure = outcome(Reason::Verdict(verdict), None);
            assert_eq!(failure.kind(), OutcomeKind::GuestFailure);
            assert_eq!(failure.exit_code(), ExitCode::Failed);
            assert!(failure.message().is_some());
        }
    }

    #[test]
    fn verdicts_have_a_meaning_only_where_the_guest_is_the_bundled_one() {
        let bundled = outcome(Reason::Verdict(exit::MISMATCH), None);
        assert!(bundled.message().unwrap().contains("not what it wrote"));
        let other = Outcome {
            bundled: false,
            ..bundled
        };
        assert!(other.message().unwrap().contains("failure 1"));
    }

    #[test]
    fn a_result_that_is_not_json_is_no_result() {
        let started = Instant::now();
        let garbage = outcome(Reason::Verdict(0), Some(b"{\"workload\":oops"));
        assert_eq!(garbage.report(started).guest, None);
        let deep = [b"{\"workload\":".as_slice(), &[b'['; 10_000]].concat();
        assert_eq!(
            outcome(Reason::Verdict(0), Some(&deep))
                .report(started)
                .guest,
            None
        );
    }

    #[test]
    fn the_guests_integrity_reaches_the_report() {
        let line = br#"{"workload":"verify","verified_bytes":7,"mismatched_bytes":1}"#;
        let report = outcome(Reason::Verdict(1), Some(line)).report(Instant::now());
        assert_eq!(report.integrity.verified_bytes, 7);
        assert_eq!(report.integrity.mismatched_bytes, 1);
        assert_eq!(report.guest.unwrap()["workload"], "verify");
    }
}
