//! One run of the bundled guest in a process and a control group of its own, looked at while it runs.
//!
//! The kernel decides by a group's statistics whether to look for idle pages among the active ones, and brings
//! them up to date every two seconds at most by itself. A guest fills its group in a fraction of that: all of its
//! pages are active (the vCPU has just used them), the statistics say that there are none yet, nothing is deactivated,
//! nothing found to reclaim, and the group is killed as out of memory. Whoever reads the statistics brings
//! them up to date. So they are read every few milliseconds, on both sides of a comparison.

mod looks;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, process};

use serde_json::Value;

use super::BenchError;
use super::swap::cgroup::Group;
use super::swap::device::Device;
use crate::poll::poll;
use crate::signals::TerminationSignals;
use looks::Trace;

pub(super) use looks::{Asking, Seen, Told};

/// How often the group's statistics are read at first, when the guest may fill it in a few milliseconds, and for how long.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const FIRST: Duration = Duration::from_secs(1);
/// How often they are read later.
const LOOK: Duration = Duration::from_millis(5);
/// How often the memory system is asked, in such looks: an answer takes it a moment.
const ASK: u32 = 10;

/// A directory of this process' own, removed with what is in it when it is dropped.
#[derive(Debug)]
pub(super) struct Workplace(PathBuf);

impl Workplace {
    /// Makes it, among temporary files.
    pub(super) fn new() -> io::Result<Self> {
        let path = env::temp_dir().join(format!("gmem-bench-{}", process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a guest is to do, and on what.
pub(super) struct Job<'a> {
    /// Which side of the comparison it is, for messages.
    pub(super) side: &'static str,
    /// Its memory, bytes.
    pub(super) memory: u64,
    /// What holds it: values of `--tier`.
    pub(super) tiers: &'a [String],
    /// The host CPU of each of its vCPUs.
    pub(super) cpus: &'a [usize],
    /// `NAME key=value ...`
    pub(super) workload: &'a str,
    /// Where the kernel swaps to, if it does.
    pub(super) device: Option<&'a Device>,
    /// What starts the binary, if it is not started as it is.
    pub(super) starter: Option<&'a dyn Fn() -> Command>,
}

/// A run that succeeded.
#[derive(Debug)]
pub(super) struct Run {
    side: &'static str,
    /// Its report.
    pub(super) report: Value,
    /// The most bytes that its group had in memory.
    pub(super) peak_bytes: u64,
    /// The most bytes that the kernel had swapped, and of a compressing device what it took for them: before,
    /// after, with metadata.
    pub(super) swapped_bytes: u64,
    /// See `swapped_bytes`.
    pub(super) stored: Option<[u64; 3]>,
    seen: Trace<Seen>,
    told: Trace<Told>,
}

impl Run {
    /// The number `key` of the guest's result, which must be above zero.
    pub(super) fn number(&self, key: &'static str) -> Result<f64, BenchError> {
        let found = &self.report["guest"][key];
        match found.as_f64() {
            Some(number) if number > 0.0 => Ok(number),
            _ => Err(BenchError::NoFigure {
                side: self.side,
                key,
                found: found.to_string(),
            }),
        }
    }

    /// The most bytes that its group had in memory beyond the guest's own, of a guest that had all of it there.
    pub(super) fn beyond_guest(&self) -> u64 {
        self.peak_bytes
            .saturating_sub(self.tier(0, "used_bytes") as u64)
    }

    /// The `member` of tier number `index`; 0 if there is none.
    pub(super) fn tier(&self, index: usize, member: &str) -> f64 {
        let tier = &self.report["memory"]["tiers"][index];
        tier[member].as_f64().unwrap_or(0.0)
    }

    /// How much of `what` there was after so many seconds of the workload.
    pub(super) fn seen(&self, seconds: f64, what: fn(&Seen) -> f64) -> f64 {
        self.seen.at(self.began() + seconds, what)
    }

    /// See [`Run::seen`].
    pub(super) fn told(&self, seconds: f64, what: fn(&Told) -> f64) -> f64 {
        self.told.at(self.began() + seconds, what)
    }

    /// When the workload began, in seconds since the process was started.
    fn began(&self) -> f64 {
        let micros = self.report["boot"]["to_workload_us"].as_f64();
        micros.unwrap_or(0.0) / 1e6
    }
}

/// Runs the job to its end, in `group` if there is one, with files in `place`. The guest must succeed.
pub(super) fn run(
    job: &Job<'_>,
    group: Option<&Group>,
    place: &Workplace,
    signals: &TerminationSignals,
) -> Result<Run, BenchError> {
    let [report, socket] = ["report.json", "control.sock"].map(|name| place.path().join(name));
    let _ = fs::remove_file(&report);
    let started = Instant::now();
    let mut guest = Guest(command(job, group, &report, &socket).spawn()?);
    let mut run = Run {
        side: job.side,
        report: Value::Null,
        peak_bytes: 0,
        swapped_bytes: 0,
        stored: None,
        seen: Trace::new(),
        told: Trace::new(),
    };
    let mut asking = Asking::default();
    let mut looks = 0;
    let status = loop {
        if let Some(status) = guest.0.try_wait()? {
            break status;
        }
        if let Some(name) = signals.take() {
            return Err(BenchError::Signal {
                name,
                abandoned: false,
            });
        }
        let at = started.elapsed().as_secs_f64();
        let swapped = group.map_or(0, Group::swapped_bytes);
        if swapped >= run.swapped_bytes {
            run.swapped_bytes = swapped;
            run.stored = job.device.and_then(Device::stored);
        }
        if let Ok(seen) = Seen::of(guest.0.id(), swapped) {
            run.seen.add(at, seen);
        }
        if looks % ASK == 0
            && let Some(told) = asking.ask(&socket)
        {
            run.told.add(at, told);
        }
        looks += 1;
        let pause = match started.elapsed() < FIRST {
            true => FIRST_LOOK,
            false => LOOK,
        };
        poll([signals.as_raw_fd()], Some(pause))?;
    };
    run.peak_bytes = group.map_or(0, Group::peak_bytes);
    let text = fs::read(&report).unwrap_or_default();
    run.report = serde_json::from_slice(&text).unwrap_or_default();
    match status.success() {
        true => Ok(run),
        false => {
            let killed = group.is_some_and(|group| group.killed() > 0);
            Err(failure(job.side, status, &run.report, killed))
        }
    }
}

fn command(job: &Job<'_>, group: Option<&Group>, report: &Path, socket: &Path) -> Command {
    let mut command = match job.starter {
        Some(starter) => starter(),
        None => Command::new("/proc/self/exe"),
    };
    if let Some(group) = group {
        command.arg("enter").arg(group.members());
    }
    command
        .arg("run")
        .arg("--memory")
        .arg(job.memory.to_string());
    command.arg("--cpus").arg(job.cpus.len().to_string());
    for cpu in job.cpus {
        command.arg("--vcpu-cpu").arg(cpu.to_string());
    }
    for tier in job.tiers {
        command.arg("--tier").arg(tier);
    }
    command.arg("--workload").arg(job.workload);
    command.arg("--report").arg(report);
    command.arg("--api-sock").arg(socket);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn failure(side: &'static str, status: ExitStatus, report: &Value, killed: bool) -> BenchError {
    let message = match report["message"].as_str() {
        Some(message) => message.to_owned(),
        None if killed => return BenchError::OutOfMemory { side },
        None => format!("its process ended without a report: {status}"),
    };
    BenchError::Guest {
        side,
        message,
        usage: status.code() == Some(crate::exit_code::ExitCode::Usage.into()),
        abandoned: false,
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
