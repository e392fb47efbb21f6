//! One guest, the two that hold its pages, and who kills them.

use std::fmt;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::{LOCAL, MEMORY};
use crate::bench::BenchError;
use crate::bench::child::{Asking, Workplace};
use crate::bench::lender::Lender;
use crate::poll::poll;
use crate::signals::TerminationSignals;

/// How often it is looked whether a guest has ended.
const LOOK: Duration = Duration::from_millis(2);
/// How often a guest is asked how its memory is.
const ASK: Duration = Duration::from_millis(20);
/// What the two are called.
const NAMES: [&str; 2] = ["a", "b"];

/// What is done in a round.
pub(super) struct Script {
    pub(super) number: u64,
    /// Of the guest.
    pub(super) seed: u64,
    /// Which one dies, or dies first.
    pub(super) first: usize,
    /// Whether an empty one takes its place, and the other is killed later.
    pub(super) replaces: bool,
    /// When the first one dies, in seconds of the workload.
    pub(super) at: f64,
    /// When the other one does, after the empty one has been filled.
    pub(super) then: f64,
}

/// The end of a holder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Death {
    /// `a` or `b`.
    pub which: &'static str,
    /// When, in seconds since the workload began.
    pub at_seconds: f64,
    /// Whether the guest was at its workload then.
    pub running: bool,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// Its number, from 1 on.
    pub round: u64,
    /// The guest's seed.
    pub seed: u64,
    /// Who was killed.
    pub kills: Vec<Death>,
    /// An empty one took the place of the first; it was filled after so many seconds, or the guest ended before that.
    pub filled_seconds: Option<f64>,
    /// What the run took from its workload on.
    pub seconds: f64,
    /// The run's exit code; null if it was killed.
    pub exit_code: Option<i32>,
    /// It took longer than the limit, and was killed.
    pub hang: bool,
    /// Bytes that the guest compared and that were right; null if it did not say.
    pub verified_bytes: Option<u64>,
    /// Bytes that were wrong; null if it did not say.
    pub mismatched_bytes: Option<u64>,
    /// Why it did not succeed.
    pub message: Option<String>,
}

impl Round {
    /// Whether the guest succeeded, all of its bytes right.
    pub fn is_clean(&self) -> bool {
        !self.hang && self.exit_code == Some(0) && self.mismatched_bytes == Some(0)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}:", self.round)?;
        for (death, before) in self.kills.iter().zip(["", ", filled,"]) {
            let Death {
                which, at_seconds, ..
            } = death;
            write!(f, "{before} {which} killed at {at_seconds:.2} s")?;
            if !death.running {
                write!(f, " (the guest had ended)")?;
            }
        }
        write!(f, "; {:.2} s, ", self.seconds)?;
        match (self.hang, self.exit_code) {
            (true, _) => write!(f, "hung")?,
            (false, Some(code)) => write!(f, "exit code {code}")?,
            (false, None) => write!(f, "ended by a signal")?,
        }
        match self.mismatched_bytes {
            Some(bytes) => write!(f, ", {bytes} bytes mismatched")?,
            None => write!(f, ", nothing verified")?,
        }
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

/// What rounds have in common.
pub(super) struct Bench<'a> {
    pub(super) place: &'a Workplace,
    pub(super) signals: &'a TerminationSignals,
    pub(super) limit: Duration,
}

impl Bench<'_> {
    /// How long a run's workload takes if nobody is killed, seconds.
    pub(super) fn undisturbed(&self, seed: u64) -> Result<f64, BenchError> {
        let _lenders = [self.lender(0)?, self.lender(1)?];
        let mut run = self.start(seed, 1)?;
        while !run.has_ended()? {
            self.pause(LOOK)?;
        }
        let round = run.into_round(0, seed);
        match round.is_clean() {
            true => Ok(round.seconds),
            false => Err(BenchError::Guest {
                side: "two holders",
                message: round.to_string(),
                usage: false,
                abandoned: false,
            }),
        }
    }

    pub(super) fn round(&self, script: &Script) -> Result<Round, BenchError> {
        let mut lenders = [Some(self.lender(0)?), Some(self.lender(1)?)];
        // Long enough that one can be filled and the other one killed.
        let mut run = self.start(script.seed, if script.replaces { 4 } else { 1 })?;
        let (first, second) = (script.first, 1 - script.first);
        self.wait(&mut run, Duration::from_secs_f64(script.at))?;
        run.kill(first, &mut lenders)?;
        if script.replaces {
            lenders[first] = Some(self.lender(first)?);
            let begun = Instant::now();
            if self.filled(&mut run)? {
                run.filled = Some(begun.elapsed().as_secs_f64());
                let until = run.began.elapsed() + Duration::from_secs_f64(script.then);
                self.wait(&mut run, until)?;
                run.kill(second, &mut lenders)?;
            }
        }
        while !run.has_ended()? {
            self.pause(LOOK)?;
        }
        Ok(run.into_round(script.number, script.seed))
    }

    fn socket(&self, which: usize) -> PathBuf {
        self.place.path().join(NAMES[which])
    }

    fn lender(&self, which: usize) -> Result<Lender, BenchError> {
        let listen = format!("unix:{}", self.socket(which).display());
        let command = Command::new("/proc/self/exe");
        Ok(Lender::start(command, &listen, MEMORY, &[])?)
    }

    /// Starts a guest; returns when it is at its workload, or has ended.
    fn start(&self, seed: u64, longer: u32) -> Result<Run, BenchError> {
        let [report, socket] = ["report.json", "control.sock"].map(|it| self.place.path().join(it));
        let _ = fs::remove_file(&report);
        let urls = [0, 1].map(|which| format!(",url=unix:{}", self.socket(which).display()));
        let child = Command::new("/proc/self/exe")
            .args(["run", "--memory", &MEMORY.to_string()])
            .args(["--tier", &format!("host:{LOCAL}")])
            .args(["--tier", &format!("remote:{MEMORY}{}", urls.concat())])
            .arg("--workload")
            .arg(format!("verify epochs={} seed={seed}", 3 * longer))
            .arg("--report")
            .arg(&report)
            .arg("--api-sock")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let started = Instant::now();
        let mut run = Run {
            guest: Guest(child),
            report,
            socket,
            asking: Asking::default(),
            began: started,
            limit: started + self.limit,
            ended: None,
            hang: false,
            kills: Vec::new(),
            filled: None,
        };
        while !run.has_ended()? && run.faults() == 0 {
            self.pause(LOOK)?;
        }
        run.began = Instant::now();
        Ok(run)
    }

    /// Waits until so long after the begin of the workload, or the end of the run.
    fn wait(&self, run: &mut Run, until: Duration) -> Result<(), BenchError> {
        while !run.has_ended()? {
            let rest = until.saturating_sub(run.began.elapsed());
            if rest.is_zero() {
                break;
            }
            // The last bit without milliseconds, in which poll counts.
            match rest < LOOK {
                true => std::thread::sleep(rest),
                false => self.pause(LOOK.min(rest - LOOK))?,
            }
        }
        Ok(())
    }

    /// Waits until the one that came back empty has everything; false if the run ends before.
    fn filled(&self, run: &mut Run) -> Result<bool, BenchError> {
        while !run.has_ended()? {
            let status = run.asking.status(&run.socket);
            let tiers = status
                .as_ref()
                .and_then(|it| it["memory"]["tiers"].as_array());
            let mut peers = tiers.into_iter().flatten().map(|tier| &tier["peers"]);
            if peers.any(|it| it["lives"] == 1 && it["whole"] == true) {
                return Ok(true);
            }
            self.pause(ASK)?;
        }
        Ok(false)
    }

    /// A moment, unless somebody wants the end.
    fn pause(&self, time: Duration) -> Result<(), BenchError> {
        if let Some(name) = self.signals.take() {
            return Err(BenchError::Signal {
                name,
                abandoned: false,
            });
        }
        poll([self.signals.as_raw_fd()], Some(time))?;
        Ok(())
    }
}

/// A guest that is, or was, at its workload.
struct Run {
    guest: Guest,
    report: PathBuf,
    socket: PathBuf,
    asking: Asking,
    /// When the workload began, as far as can be seen.
    began: Instant,
    /// Later it is a hang.
    limit: Instant,
    ended: Option<(ExitStatus, Duration)>,
    hang: bool,
    kills: Vec<Death>,
    filled: Option<f64>,
}

impl Run {
    /// Whether it has ended, of which sees to it that it does.
    fn has_ended(&mut self) -> Result<bool, BenchError> {
        if self.ended.is_none() {
            if Instant::now() > self.limit {
                self.hang = true;
                self.guest.0.kill()?;
                self.guest.0.wait()?;
            }
            let status = self.guest.0.try_wait()?;
            self.ended = status.map(|status| (status, self.began.elapsed()));
        }
        Ok(self.ended.is_some())
    }

    /// Faults that it has had.
    fn faults(&mut self) -> u64 {
        let told = self.asking.ask(&self.socket);
        told.map_or(0, |told| told.faults as u64)
    }

    /// Kills a holder.
    fn kill(&mut self, which: usize, lenders: &mut [Option<Lender>; 2]) -> Result<(), BenchError> {
        let at_seconds = self.began.elapsed().as_secs_f64();
        if let Some(lender) = lenders[which].take() {
            lender.kill();
        }
        // Looked at afterwards: it was there all the while.
        let running = !self.has_ended()?;
        self.kills.push(Death {
            which: NAMES[which],
            at_seconds,
            running,
        });
        Ok(())
    }

    fn into_round(self, round: u64, seed: u64) -> Round {
        let text = fs::read(&self.report).unwrap_or_default();
        let report: Value = serde_json::from_slice(&text).unwrap_or_default();
        let (status, took) = self.ended.unzip();
        Round {
            round,
            seed,
            kills: self.kills,
            filled_seconds: self.filled,
            seconds: took.unwrap_or_default().as_secs_f64(),
            exit_code: status.and_then(|status| status.code()),
            hang: self.hang,
            verified_bytes: report["guest"]["verified_bytes"].as_u64(),
            mismatched_bytes: report["guest"]["mismatched_bytes"].as_u64(),
            message: report["message"].as_str().map(str::to_owned),
        }
    }
}

/// A process that ends with this value.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // After its end both do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
