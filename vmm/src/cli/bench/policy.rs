//! `gmem bench policy`.

use std::path::PathBuf;

use clap::Args;

use super::text::{heading, row};
use crate::bench::Measured;
use crate::bench::policy::{Figures, Options, Ratios, Row};

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    /// Of the first round's traces; those of the others follow
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Rounds, each of all traces with a seed of its own
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl PolicyArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            seed: self.seed,
            rounds: self.rounds.into(),
        }
    }
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "Misses in thousands, of {} touches of {} pages; seed {} of {}.\n\n{:<14}{:>4}",
        figures.touches,
        figures.pages,
        figures.traces.first().map_or(0, |row| row.seed),
        measured.rounds,
        "",
        "%"
    );
    let names = [
        "belady", "lru", "clock", "arc", "s3fifo", "sieve", "density", "/best", "faults",
        "sampled", "engine",
    ];
    for name in names {
        text += &format!("{name:>8}");
    }
    text += "\n";
    let first = figures.traces.first().map(|row| row.seed);
    for row in figures.traces.iter().filter(|row| Some(row.seed) == first) {
        text += &line(row);
    }
    text += "\ndensity sees all uses, as the others do; faults, sampled: it sees faults only, and with them the uses of one page in eight.\n\
             engine: the CLOCK that the engine runs, which sees faults only.\n\
             *: kept apart while the policy was designed.\n\nMisses over the fewest of the five, of all rounds\n";
    text += &heading();
    let ratios = &measured.ratios;
    let rows = [
        ("worst", &ratios.policy_worst_over_best),
        ("mean", &ratios.policy_mean_over_best),
        ("worst, kept apart", &ratios.policy_worst_over_best_held_out),
        ("mean, kept apart", &ratios.policy_mean_over_best_held_out),
        ("worst, faults", &ratios.policy_worst_over_best_faults),
        ("mean, faults", &ratios.policy_mean_over_best_faults),
        ("worst, sampled", &ratios.policy_worst_over_best_sampled),
        ("mean, sampled", &ratios.policy_mean_over_best_sampled),
        ("worst, engine", &ratios.engine_worst_over_best),
        ("mean, engine", &ratios.engine_mean_over_best),
    ];
    for (name, summary) in rows {
        text += &row(name, "", summary, 3);
    }
    text
}

fn line(row: &Row) -> String {
    let star = if row.held_out { "*" } else { "" };
    let mut line = format!(
        "{:<14}{:>4}",
        format!("{}{star}", row.trace),
        row.capacity_percent
    );
    let best = row.best();
    let misses = [
        row.belady, row.lru, row.clock, row.arc, row.s3fifo, row.sieve, row.engine,
    ];
    for misses in misses {
        line += &format!("{:>8.1}", misses as f64 / 1e3);
    }
    line += &format!("{:>8.3}", row.density as f64 / best as f64);
    for misses in [row.density_faults, row.density_sampled, row.engine] {
        line += &format!("{:>8.1}", misses as f64 / 1e3);
    }
    line + "\n"
}
