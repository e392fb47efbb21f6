//! `gmem bench pager`: its options and its table.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::memory;
use super::text::{heading, host_line, ratio_row, row};
use crate::bench::Measured;
use crate::bench::pager::{Figures, Options};
use crate::bench::result::Ratios;

#[derive(Debug, Args)]
pub(super) struct PagerArgs {
    /// Rounds, each of all sides
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How long one thing is measured in a round
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=60))]
    seconds: u16,

    /// Memory that pages are read from
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = memory)]
    memory: u64,

    /// Do not start and measure a redis-server
    #[arg(long)]
    no_redis: bool,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl PagerArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            rounds: self.rounds.into(),
            time: Duration::from_secs(self.seconds.into()),
            memory: self.memory,
            redis: !self.no_redis,
        }
    }
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "Pages that somebody else holds, {} MiB of them, in batches of 64 and alone, {} rounds.\n{}\n\n",
        figures.memory_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    text += &heading();
    for (name, unit, summary, digits) in [
        ("memcpy", "GB/s", Some(&figures.memcpy_gbps), 2),
        ("unix, batches", "GB/s", Some(&figures.unix_gbps), 2),
        (
            "unix, a tier's batches",
            "GB/s",
            Some(&figures.unix_tier_gbps),
            2,
        ),
        (
            "socket, there and back",
            "us",
            Some(&figures.pingpong_us),
            1,
        ),
        ("unix, a page", "us", Some(&figures.unix_page_us), 1),
        ("TCP, bare", "GB/s", Some(&figures.tcp_bare_gbps), 2),
        ("TCP, batches", "GB/s", Some(&figures.tcp_gbps), 2),
        (
            "TCP, a tier's batches",
            "GB/s",
            Some(&figures.tcp_tier_gbps),
            2,
        ),
        ("99 clients, p99", "us", Some(&figures.crowd_p99_us), 0),
        (
            "99 and a hostile one, p99",
            "us",
            Some(&figures.crowd_hostile_p99_us),
            0,
        ),
        (
            "redis-benchmark get",
            "/s",
            figures.redis_benchmark_get.as_ref(),
            0,
        ),
        ("redis get", "/s", figures.redis_get.as_ref(), 0),
        (
            "redis-benchmark set",
            "/s",
            figures.redis_benchmark_set.as_ref(),
            0,
        ),
        ("redis set", "/s", figures.redis_set.as_ref(), 0),
    ] {
        if let Some(summary) = summary {
            text += &row(name, unit, summary, digits);
        }
    }
    for (key, summary) in &measured.ratios {
        text += &ratio_row(key, summary);
    }
    text
}
