//! `gmem bench scaling`: its options and its table.

use std::path::PathBuf;

use clap::Args;

use super::memory;
use super::text::{heading, host_line, ratio_row, row};
use crate::bench::Measured;
use crate::bench::scaling::{Figures, Options, Ratios};

#[derive(Debug, Args)]
pub(super) struct ScalingArgs {
    /// Rounds, each of all sides
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// The guest's memory; a quarter of it is resident
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = memory)]
    memory: u64,

    /// vCPUs to compare with one
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(2..=16))]
    cpus: u8,

    /// How often a run touches every page
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    passes: u16,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl ScalingArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            rounds: self.rounds.into(),
            memory: self.memory,
            cpus: self.cpus.into(),
            passes: self.passes.into(),
        }
    }
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "Faults a second of {} vCPUs and of one: {} MiB of memory, a quarter resident, {} rounds.\n{}\n\n",
        figures.cpus,
        figures.memory_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    text += &heading();
    for (name, rates) in [
        ("floor that moves", &figures.floor_move),
        ("floor that copies", &figures.floor_copy),
        ("engine", &figures.engine),
    ] {
        text += &row(&format!("{name}, one"), "/s", &rates.one, 0);
        text += &row(&format!("{name}, all"), "/s", &rates.all, 0);
    }
    text += &ratio_row("scaling_over_floor", &measured.ratios.scaling_over_floor);
    text += &ratio_row("rate_over_floor", &measured.ratios.rate_over_floor);
    text
}
