//! `gmem bench evict`: its options and its table.

use std::path::PathBuf;

use clap::Args;

use super::memory;
use super::text::{heading, host_line, ratio_row, row};
use super::workload::Against;
use crate::bench::evict::{Cost, Figures, Options};
use crate::bench::{Measured, Ratios};

#[derive(Debug, Args)]
pub(super) struct EvictArgs {
    /// What to compare with
    #[arg(long, value_name = "PEER")]
    against: Option<Against>,

    /// Rounds, each of both sides
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// The guest's memory: five eighths are filled, a quarter may be local
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = memory)]
    memory: u64,

    /// Of contents in the first round; the next one has the next
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl EvictArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            swap: self.against.is_some(),
            rounds: self.rounds.into(),
            memory: self.memory,
            seed: self.seed,
        }
    }
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "CPU time to evict a page: {} MiB filled, {} MiB local, {} rounds.\n{}\n\n",
        figures.filled_bytes >> 20,
        figures.local_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    text += &heading();
    let mut side = |who: &str, cost: &Cost| {
        text += &row(&format!("{who}, guest waits"), "us", &cost.waited_us, 2);
        text += &row(&format!("{who}, all threads"), "us", &cost.total_us, 2);
    };
    side("zip", &figures.ours);
    if let Some(swap) = &figures.swap {
        side("swap", swap);
    }
    for (key, ratio) in &measured.ratios {
        text += &ratio_row(key, ratio);
    }
    text
}
