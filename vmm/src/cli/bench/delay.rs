//! `gmem bench delay`: its options and its table.

use std::path::PathBuf;

use clap::Args;

use super::memory;
use super::text::{heading, host_line, ratio_row, row};
use crate::bench::Measured;
use crate::bench::delay::{Figures, Options};
use crate::bench::result::Ratios;

#[derive(Debug, Args)]
pub(super) struct DelayArgs {
    /// Rounds, each of all delays
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How long the timed part of a run lasts
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,

    /// The guest's memory, a quarter of which is local
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = memory)]
    memory: u64,

    /// Of the first round's guests; those of the others follow
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl DelayArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            rounds: self.rounds.into(),
            seconds: self.seconds.into(),
            memory: self.memory,
            seed: self.seed,
        }
    }
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "A scan of {} MiB, {} of them local, the others far away, {} rounds.\n{}\n\n",
        figures.memory_bytes >> 20,
        figures.local_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    text += &heading();
    for (name, summary) in [
        ("no delay", &figures.none_ops_per_sec),
        ("100 us each way", &figures.delay_100us_ops_per_sec),
        ("1 ms each way", &figures.delay_1ms_ops_per_sec),
    ] {
        text += &row(name, "operations/s", summary, 0);
    }
    for (key, summary) in &measured.ratios {
        text += &ratio_row(key, summary);
    }
    text
}
