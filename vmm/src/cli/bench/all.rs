//! `gmem bench all`: its options and its tables.

use clap::Args;

use super::text::{heading, host_line, markdown_row, ratio_row};
use super::workload::CommonArgs;
use crate::bench::all::{Figures, Options};
use crate::bench::{Measured, Ratios};

#[derive(Debug, Args)]
pub(super) struct AllArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,

    /// Print the table as Markdown
    #[arg(long)]
    pub(super) markdown: bool,
}

impl AllArgs {
    pub(super) fn options(&self) -> Options {
        let common = &self.common;
        Options {
            swap: common.against.is_some(),
            rounds: common.rounds.into(),
            seconds: common.seconds.into(),
            memory: common.memory,
            cpus: common.cpus.into(),
            seed: common.seed,
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
