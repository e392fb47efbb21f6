//! `gmem bench all`: its options and its tables.

use std::path::PathBuf;

use clap::Args;

use super::memory;
use super::text::{heading, host_line, markdown_row, ratio_row};
use super::workload::Against;
use crate::bench::all::{Figures, Options};
use crate::bench::{Measured, Ratios};

#[derive(Debug, Args)]
pub(super) struct AllArgs {
    /// What to compare oversubscribed memory with instead of plain memory
    #[arg(long, value_name = "PEER")]
    against: Option<Against>,

    /// Rounds of each experiment
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Length of the timed part of a workload
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,

    /// The guest's memory in the workloads
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = memory)]
    memory: u64,

    /// vCPUs of the workloads
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=16))]
    cpus: u8,

    /// Of contents and orders in the first round; the next one has the next
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Draw slowdowns of the workloads here, as SVG
    #[arg(long, value_name = "FILE.svg")]
    pub(super) plot: Option<PathBuf>,

    /// Print the table as Markdown
    #[arg(long)]
    pub(super) markdown: bool,
}

impl AllArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            swap: self.against.is_some(),
            rounds: self.rounds.into(),
            seconds: self.seconds.into(),
            memory: self.memory,
            cpus: self.cpus.into(),
            seed: self.seed,
        }
    }
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let mut text = format!(
        "{} rounds.\n{}\n\n",
        measured.rounds,
        host_line(&measured.host)
    );
    text += &heading();
    for (key, ratio) in &measured.ratios {
        text += &ratio_row(key, ratio);
    }
    text
}

pub(super) fn markdown(measured: &Measured<Figures, Ratios>) -> String {
    let mut text =
        "| ratio | median (least to largest) | target | |\n|---|---|---|---|\n".to_owned();
    for (key, ratio) in &measured.ratios {
        text += &markdown_row(key, ratio);
    }
    text
}
