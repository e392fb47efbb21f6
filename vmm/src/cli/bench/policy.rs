//! `gmem bench policy`.

use std::path::PathBuf;

use clap::Args;

use super::text::{heading, row};
use crate::bench::Measured;
use crate::bench::policy::{Figures, Options, Ratios, Recorded, Row};
use crate::cli::run::Failure;
use crate::exit_code::ExitCode;

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    /// Of the first round's traces; those of the others follow
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Rounds, each of all traces with a seed of its own; 0, to simulate none but those of --trace
    #[arg(long, value_name = "N", default_value = "3")]
    rounds: u16,

    /// Simulate this trace as well, which `gmem run --record` made; may be given several times
    #[arg(long = "trace", value_name = "FILE")]
    traces: Vec<PathBuf>,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl PolicyArgs {
    pub(super) fn options(&self) -> Result<Options, Failure> {
        if self.rounds == 0 && self.traces.is_empty() {
            let nothing = "there is nothing to simulate; give --rounds 1 or more, or --trace FILE";
            return Err(Failure::new(ExitCode::Usage, nothing));
        }
        Ok(Options {
            seed: self.seed,
            rounds: self.rounds.into(),
            traces: self.traces.clone(),
        })
    }
}

pub(super) fn text(measured: &Measured<Figures, Option<Ratios>>) -> String {
    let figures = &measured.figures;
    let mut text = String::new();
    if let Some(ratios) = &measured.ratios {
        text += &made(figures, ratios, measured.rounds);
    }
    if !figures.recorded.is_empty() {
        text += &recorded(&figures.recorded);
    }
    text
}

/// A table of the traces that are made.
fn made(figures: &Figures, ratios: &Ratios, rounds: usize) -> String {
    let first = figures.traces.first().map(|row| row.seed);
    let mut text = format!(
        "Misses in thousands, of {} touches of {} pages; seed {} of {}.\n\n{:<14}{:>4}",
        figures.touches,
        figures.pages,
        first.flatten().unwrap_or_default(),
        rounds,
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
    for row in figures.traces.iter().filter(|row| Some(row.seed) == first) {
        text += &line(row);
    }
    text += "\ndensity sees all uses, as the others do; faults, sampled: it sees faults only, and with them the uses of one page in eight.\n\
             engine: the CLOCK that the engine runs, which sees faults only.\n\
             *: kept apart while the policy was designed.\n\nMisses over the fewest of the five, of all rounds\n";
    text += &heading();
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

/// A table of recordings.
fn recorded(recordings: &[Recorded]) -> String {
    let mut text = format!(
        "\nRecorded: misses over the fewest of the five\n\n{:<14}{:>4}",
        "", "%"
    );
    let names = [
        "best", "belady", "lru", "clock", "arc", "s3fifo", "sieve", "density", "faults", "sampled",
        "engine",
    ];
    for name in names {
        text += &format!("{name:>8}");
    }
    text += "\n";
    for row in recordings.iter().flat_map(|recorded| &recorded.rows) {
        text += &format!(
            "{:<14}{:>4}{:>8}",
            row.trace,
            row.capacity_percent,
            row.best()
        );
        let misses = [
            row.belady,
            row.lru,
            row.clock,
            row.arc,
            row.s3fifo,
            row.sieve,
            row.density,
            row.density_faults,
            row.density_sampled,
            row.engine,
        ];
        for misses in misses {
            text += &format!("{:>8.3}", misses as f64 / row.best() as f64);
        }
        text += "\n";
    }
    text += "\n";
    for recorded in recordings {
        text += &format!(
            "{}: {} touches of {} pages of {}, seen through a window of {}.\n",
            recorded.trace, recorded.touches, recorded.pages, recorded.guest_pages, recorded.window
        );
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
        row.belady,
        row.lru,
        row.clock,
        row.arc,
        row.s3fifo,
        row.sieve,
        row.density,
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
