//! `gmem bench fault`: its options and its table.

use std::path::PathBuf;

use clap::Args;

use super::memory;
use super::text::{heading, host_line, row};
use crate::bench::Measured;
use crate::bench::fault::{Figures, Options, Ratios};

#[derive(Debug, Args)]
pub(super) struct FaultArgs {
    /// Rounds, each of both sides
    #[arg(long, value_name = "N", default_value = "7", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// The guest's memory; a quarter of it is resident
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = memory)]
    memory: u64,

    /// How often a run touches every page
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    passes: u16,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl FaultArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            rounds: self.rounds.into(),
            memory: self.memory,
            budget: self.memory / 4,
            passes: self.passes.into(),
        }
    }
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "One fault of 4 KiB as the vCPU sees it: {} MiB of memory, {} MiB resident, {} rounds.\n{}\n\n",
        figures.memory_bytes >> 20,
        figures.budget_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    text += &heading();
    text += &row("floor, p50", "us", &figures.floor.fault_p50_us, 1);
    text += &row("engine, p50", "us", &figures.engine.fault_p50_us, 1);
    text += &row("floor, p99", "us", &figures.floor.fault_p99_us, 1);
    text += &row("engine, p99", "us", &figures.engine.fault_p99_us, 1);
    let ratios = &measured.ratios;
    text += &row(
        "p50, engine over floor",
        "",
        &ratios.fault_p50_over_floor,
        3,
    );
    text += &row(
        "p99, engine over floor",
        "",
        &ratios.fault_p99_over_floor,
        3,
    );
    text
}
