//! `gmem bench pager`: what pages cost that somebody else holds, against the least that could carry them.
//!
//! Client, server and what they are compared with run in this process, in threads of their own; Redis in one of its own.
//! Everything is measured in each round, one thing after the other.

mod crowd;
mod floor;
mod ours;
mod redis;

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::result::Ratios;
use super::{BenchError, Measured, Progress, Summary};
use crate::signals::TerminationSignals;
use gmem_core::page::PAGE_SIZE;
use ours::Over;

/// Pages of a batch.
pub const BATCH: usize = 64;
/// Bytes of one.
const BATCH_BYTES: usize = BATCH * PAGE_SIZE;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds of everything; at least one.
    pub rounds: usize,
    /// How long one thing is measured in a round.
    pub time: Duration,
    /// Memory that pages are read from, bytes.
    pub memory: u64,
    /// Whether a `redis-server` is started and measured.
    pub redis: bool,
}

/// What was measured, each side alone.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Memory that pages are read from.
    pub memory_bytes: u64,
    /// Copying batches from that memory, 10^9 bytes a second.
    pub memcpy_gbps: Summary,
    /// Reading batches over a Unix socket with shared memory.
    pub unix_gbps: Summary,
    /// The same, as a remote tier does: each page checked.
    pub unix_tier_gbps: Summary,
    /// A small message over a socket and back, between two threads, microseconds.
    pub pingpong_us: Summary,
    /// One page over a Unix socket with shared memory.
    pub unix_page_us: Summary,
    /// One thread that sends and one that receives over TCP on the loopback.
    pub tcp_bare_gbps: Summary,
    /// Reading batches over TCP.
    pub tcp_gbps: Summary,
    /// The same with TLS, and as a remote tier does: decrypted.
    pub tcp_tier_gbps: Summary,
    /// A page read by one of 99 clients of a server in turn, 99th percentile, microseconds.
    pub crowd_p99_us: Summary,
    /// The same, with a hundredth that does what it can to be in the way.
    pub crowd_hostile_p99_us: Summary,
    /// Values of 4 KiB that `redis-benchmark` reads, pipelined by 64, a second.
    pub redis_benchmark_get: Option<Summary>,
    /// Pages that this reads from the same server.
    pub redis_get: Option<Summary>,
    /// The same, written.
    pub redis_benchmark_set: Option<Summary>,
    /// The same, written.
    pub redis_set: Option<Summary>,
}

/// Names of the figures, in the order in which they are measured.
const NAMES: [&str; 14] = [
    "memcpy",
    "unix",
    "unix_tier",
    "pingpong",
    "unix_page",
    "tcp_bare",
    "tcp",
    "tcp_tier",
    "redis_benchmark_get",
    "redis_get",
    "redis_benchmark_set",
    "redis_set",
    "crowd",
    "crowd_hostile",
];

/// Measures, telling `progress` about each round.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<Measured<Figures, Ratios>, BenchError> {
    let memory = options.memory as usize;
    let mut source = floor::Source::new(memory);
    let unix = ours::Reader::new(Over::Unix, memory)?;
    let tcp = ours::Reader::new(Over::Tcp, memory)?;
    let unix_tier = ours::Tier::new(Over::Unix, memory)?;
    let tcp_tier = ours::Tier::new(Over::Tcp, memory)?;
    let server = options.redis.then(redis::Server::start).transpose()?;
    let crowd = crowd::Crowd::new()?;
    let mut samples: [Vec<f64>; NAMES.len()] = Default::default();
    for round in 0..options.rounds {
        for turn in 0..NAMES.len() {
            if let Some(name) = signals.take() {
                return Err(BenchError::Signal {
                    name,
                    abandoned: false,
                });
            }
            let which = (turn + round) % NAMES.len();
            let time = options.time;
            let found = match (which, &server) {
                (0, _) => Some(source.copy(time)),
                (1, _) => Some(unix.batches(time)?),
                (2, _) => Some(unix_tier.batches(time)?),
                (3, _) => Some(floor::pingpong(time)?),
                (4, _) => Some(unix.single(time)?),
                (5, _) => Some(floor::tcp(time)?),
                (6, _) => Some(tcp.batches(time)?),
                (7, _) => Some(tcp_tier.batches(time)?),
                (8, Some(server)) => Some(server.benchmark("get", time)?),
                (9, Some(server)) => Some(server.read(time)?),
                (10, Some(server)) => Some(server.benchmark("set", time)?),
                (11, Some(server)) => Some(server.write(time)?),
                (12, _) => Some(crowd.p99(time, false)?),
                (13, _) => Some(crowd.p99(time, true)?),
                _ => None,
            };
            samples[which].extend(found);
        }
        let last = |which: usize| samples[which].last().copied().unwrap_or(f64::NAN);
        progress.line(format!(
            "round {}/{}: memcpy {:.1} GB/s, unix {:.1}, tier {:.1}; ping-pong {:.0} us, a page {:.0}; bare TCP {:.1} GB/s, ours {:.1}, tier {:.1}",
            round + 1, options.rounds, last(0), last(1), last(2), last(3), last(4), last(5), last(6), last(7),
        ));
    }
    let all = |which: usize| Summary::of(&samples[which]);
    let some = |which: usize| (!samples[which].is_empty()).then(|| all(which));
    let figures = Figures {
        memory_bytes: options.memory,
        memcpy_gbps: all(0),
        unix_gbps: all(1),
        unix_tier_gbps: all(2),
        pingpong_us: all(3),
        unix_page_us: all(4),
        tcp_bare_gbps: all(5),
        tcp_gbps: all(6),
        tcp_tier_gbps: all(7),
        crowd_p99_us: all(12),
        crowd_hostile_p99_us: all(13),
        redis_benchmark_get: some(8),
        redis_get: some(9),
        redis_benchmark_set: some(10),
        redis_set: some(11),
    };
    let mut ratios = Ratios::new();
    for (name, over, under) in [
        ("pager_unix_over_memcpy", 1, 0),
        ("pager_unix_tier_over_memcpy", 2, 0),
        ("pager_page_over_pingpong", 4, 3),
        ("pager_tcp_over_bare", 6, 5),
        ("pager_tcp_tier_over_bare", 7, 5),
        ("pager_hostile_p99_over_none", 13, 12),
        ("pager_redis_get_over_benchmark", 9, 8),
        ("pager_redis_set_over_benchmark", 11, 10),
    ] {
        let pairs = samples[over].iter().zip(&samples[under]);
        let each: Vec<f64> = pairs.map(|(over, under)| over / under).collect();
        if !each.is_empty() {
            ratios.insert(name.into(), Summary::of(&each));
        }
    }
    Ok(Measured::new("pager", options.rounds, figures, ratios))
}

/// Calls `step`, which moves bytes, again and again for `time`; 10^9 bytes a second.
fn rate(time: Duration, mut step: impl FnMut() -> io::Result<usize>) -> io::Result<f64> {
    let begun = Instant::now();
    let mut bytes = 0;
    loop {
        bytes += step()?;
        let taken = begun.elapsed();
        if taken >= time {
            return Ok(bytes as f64 / taken.as_secs_f64() / 1e9);
        }
    }
}

/// Calls `step` again and again for `time`; the median of what a call takes, microseconds.
fn typical(time: Duration, mut step: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let begun = Instant::now();
    let mut each = Vec::new();
    while begun.elapsed() < time {
        let start = Instant::now();
        step()?;
        each.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(super::statistics::median(&each).unwrap_or(f64::NAN))
}
