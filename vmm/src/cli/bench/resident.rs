//! `gmem bench resident`: its options and its table.

use std::path::PathBuf;

use clap::Args;

use super::memory;
use super::text::{heading, host_line, row, scaled};
use crate::bench::Measured;
use crate::bench::resident::{Figures, Options, Rate, Ratios};

#[derive(Debug, Args)]
pub(super) struct ResidentArgs {
    /// Pairs of runs
    #[arg(long, value_name = "N", default_value = "15", value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,

    /// The guest's memory, and the budget of the side that has one
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = memory)]
    memory: u64,

    /// Length of the timed part of a run
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl ResidentArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            pairs: self.pairs.into(),
            memory: self.memory,
            seconds: self.seconds.into(),
        }
    }
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "Zipf on {} MiB that fit their budget, against plain memory: {} pairs.\n{}\n\n",
        figures.memory_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    text += &heading();
    let rate = |name, rate: &Rate| row(name, "Mop/s", &scaled(&rate.ops_per_sec, 1e-6), 3);
    text += &rate("resident", &figures.resident);
    text += &rate("plain", &figures.plain);
    let ratio = &measured.ratios.resident_over_plain;
    text += &row("resident over plain", "", ratio, 3);
    text
}
