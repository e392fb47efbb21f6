//! `gmem bench scan`, `stride`, `uniform`, `zipf`, `hotscan` and `phase`: their options and their table.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::memory;
use super::text::{heading, host_line, ratio_row, row, scaled};
use crate::bench::workload::{Figures, Options, Side, Tier, Workload};
use crate::bench::{Measured, Ratios, Summary};

/// What to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Against {
    /// The kernel's swap, on devices in memory; needs root
    Swap,
}

/// What all measurements of workloads are given.
#[derive(Debug, Args)]
pub(super) struct CommonArgs {
    /// What to compare oversubscribed memory with instead of plain memory
    #[arg(long, value_name = "PEER")]
    pub(super) against: Option<Against>,

    /// Rounds of each experiment, each of all sides
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) rounds: u16,

    /// Length of the timed part of a workload
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) seconds: u16,

    /// The guest's memory in a workload
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = memory)]
    pub(super) memory: u64,

    /// Its vCPUs
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) cpus: u8,

    /// Of contents and orders in the first round; the next one has the next
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) seed: u64,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Draw slowdowns of workloads here, as SVG
    #[arg(long, value_name = "FILE.svg")]
    pub(super) plot: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct WorkloadArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,

    /// Shares of the memory that are local, percent [default: 25 for scan and stride, 50 for uniform and zipf, both for
    /// hotscan and phase]
    #[arg(long, value_name = "PCT[,PCT..]", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(5..=95))]
    local: Vec<u8>,

    /// What holds the rest
    #[arg(
        long,
        value_name = "TIER[,TIER]",
        value_delimiter = ',',
        default_value = "zip,hbm"
    )]
    tiers: Vec<Tier>,
}

impl WorkloadArgs {
    pub(super) fn options(&self, workload: Workload) -> Options {
        let shares = match self.local.as_slice() {
            [] => workload.shares().to_vec(),
            asked => distinct(asked),
        };
        let common = &self.common;
        Options {
            workload,
            swap: common.against.is_some(),
            shares,
            tiers: distinct(&self.tiers),
            rounds: common.rounds.into(),
            seconds: common.seconds.into(),
            memory: common.memory,
            cpus: common.cpus.into(),
            seed: common.seed,
        }
    }
}

/// Each once, in the order of the first mention.
fn distinct<T: Copy + PartialEq>(all: &[T]) -> Vec<T> {
    let mut found = Vec::new();
    for it in all {
        if !found.contains(it) {
            found.push(*it);
        }
    }
    found
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "{} on {} MiB: {} rounds.\n{}\n\n",
        measured.bench,
        figures.memory_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    text += &heading();
    let thousands = |summary: &Summary| scaled(summary, 1e-3);
    text += &row(
        "plain memory",
        "kop/s",
        &thousands(&figures.plain_ops_per_sec),
        1,
    );
    for share in figures.shares.values() {
        let name = format!("{}% {}", share.percent, share.tier);
        let mut side = |who: &str, side: &Side| {
            text += &row(
                &format!("{name}, {who}"),
                "kop/s",
                &thousands(&side.ops_per_sec),
                1,
            );
            text += &row(
                &format!("{name}, {who}"),
                "MiB stored",
                &scaled(&side.stored_bytes, 2f64.powi(-20)),
                1,
            );
        };
        side("gmem", &share.ours);
        if let Some(swap) = &share.swap {
            side("swap", swap);
        }
    }
    for (key, ratio) in &measured.ratios {
        text += &ratio_row(key, ratio);
    }
    for share in figures.shares.values() {
        if let Some(tuning) = &share.tuning {
            text += &format!("{}% {}: swap on {tuning}\n", share.percent, share.tier);
        }
    }
    text
}
