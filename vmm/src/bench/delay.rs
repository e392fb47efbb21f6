//! `gmem bench delay`: whether a scan keeps its speed where the holder of its pages is far away.
//!
//! Not every kernel can delay packets, so a process between guest and holder does: the guest is on one host (a network
//! namespace), holder and relay are on another, and every byte that arrives at the relay goes on a given time later. It is there with
//! every delay, with none too, so what it costs itself is on both sides.

mod hosts;
pub mod relay;

use std::env;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::child::{self, Job, Workplace};
use super::lender::Lender;
use super::result::Ratios;
use super::{BenchError, Measured, Progress, Summary};
use crate::kvm::affinity;
use crate::signals::TerminationSignals;
use hosts::Hosts;

pub use hosts::HostsError;

/// What each direction takes longer, with names; the first is what the others are compared with.
const DELAYS: [(&str, Duration); 3] = [
    ("none", Duration::ZERO),
    ("100us", Duration::from_micros(100)),
    ("1ms", Duration::from_millis(1)),
];

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds of all delays; at least one.
    pub rounds: usize,
    /// How long the timed part lasts.
    pub seconds: u64,
    /// The guest's memory, bytes; a quarter of it is local.
    pub memory: u64,
    /// Of the first round; each has its own.
    pub seed: u64,
}

/// What was measured, with each delay alone.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The guest's memory.
    pub memory_bytes: u64,
    /// What of it is local.
    pub local_bytes: u64,
    /// Operations a second without any delay but the relay's own.
    pub none_ops_per_sec: Summary,
    /// With 100 us each way.
    pub delay_100us_ops_per_sec: Summary,
    /// With 1 ms each way.
    pub delay_1ms_ops_per_sec: Summary,
}

/// Measures, telling `progress` about each round.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Ratios>, BenchError> {
    // Not /proc/self/exe: that would be `ip`, which becomes the binary.
    let binary = env::current_exe()?;
    let hosts = Hosts::new()?;
    let lender = Lender::start(
        hosts.far(&binary),
        &format!("tcp://{}:0", hosts.address()),
        2 * options.memory,
        &["--no-tls"],
    )?;
    let holder = lender.address().trim_start_matches("tcp://");
    let start = |(_, delay): (&str, Duration)| {
        Relay::start(hosts.far(&binary), hosts.address(), holder, delay)
    };
    let relays = DELAYS
        .into_iter()
        .map(start)
        .collect::<io::Result<Vec<_>>>()?;
    let place = Workplace::new()?;
    let cpus: Vec<usize> = affinity::allowed_cpus()?
        .into_iter()
        .next_back()
        .into_iter()
        .collect();
    let local = options.memory / 4;
    let mut samples: [Vec<f64>; DELAYS.len()] = Default::default();
    for round in 0..options.rounds {
        for turn in 0..DELAYS.len() {
            let which = (turn + round) % DELAYS.len();
            let tiers = [
                format!("host:{local}"),
                format!(
                    "remote:{},url=tcp://{},tls=off",
                    options.memory, relays[which].address
                ),
            ];
            let seed = options.seed.wrapping_add(round as u64);
            let job = Job {
                side: DELAYS[which].0,
                memory: options.memory,
                tiers: &tiers,
                cpus: &cpus,
                workload: &format!("scan seconds={} seed={seed}", options.seconds),
                device: None,
                starter: Some(&|| hosts.near(&binary)),
            };
            let run = child::run(&job, None, &place, signals)?;
            samples[which].push(run.number("ops_per_sec")?);
        }
        let last = |which: usize| samples[which].last().copied().unwrap_or(f64::NAN) / 1e3;
        progress.line(format!(
            "round {}/{}: {:.0} thousand operations a second, {:.0} with 100 us each way, {:.0} with 1 ms",
            round + 1,
            options.rounds,
            last(0),
            last(1),
            last(2),
        ));
    }
    let all = |which: usize| Summary::of(&samples[which]);
    let figures = Figures {
        memory_bytes: options.memory,
        local_bytes: local,
        none_ops_per_sec: all(0),
        delay_100us_ops_per_sec: all(1),
        delay_1ms_ops_per_sec: all(2),
    };
    let mut ratios = Ratios::new();
    for (which, (name, _)) in DELAYS.into_iter().enumerate().skip(1) {
        let pairs = samples[which].iter().zip(&samples[0]);
        let each: Vec<f64> = pairs.map(|(delayed, none)| delayed / none).collect();
        ratios.insert(format!("delay_{name}_over_none"), Summary::of(&each));
    }
    Ok(Measured::new("delay", options.rounds, figures, ratios))
}

/// A process that relays, and ends with this value.
struct Relay {
    child: Child,
    address: String,
}

impl Relay {
    /// Starts it by `command`, which becomes the binary, on a host's `address`.
    fn start(mut command: Command, address: &str, to: &str, delay: Duration) -> io::Result<Self> {
        let mut child = command
            .args(["relay", &format!("{address}:0"), to])
            .arg(delay.as_micros().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take();
        let mut relay = Self {
            child,
            address: String::new(),
        };
        let stdout = stdout.ok_or(io::ErrorKind::BrokenPipe)?;
        // It says where it listens, and nothing else.
        BufReader::new(stdout).read_line(&mut relay.address)?;
        relay.address.truncate(relay.address.trim_end().len());
        match relay.address.is_empty() {
            false => Ok(relay),
            true => Err(io::Error::other(
                "the relay between the two hosts did not start",
            )),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that becomes `binary` on the host `name`.
fn on(name: &str, binary: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name]).arg(binary);
    command
}
