//! `gmem bench soak`: its options, and what it says at the end.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::text::host_line;
use crate::bench::Measured;
use crate::bench::result::Ratios;
use crate::bench::soak::{Figures, Options};

#[derive(Debug, Args)]
pub(super) struct SoakArgs {
    /// How many holders are killed, one or two in a round
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u16).range(1..))]
    kills: u16,

    /// Of the moments, and of the guests
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// A run that takes longer is killed, and counts as a hang
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl SoakArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            kills: self.kills.into(),
            seed: self.seed,
            limit: Duration::from_secs(self.limit.into()),
        }
    }
}

pub(super) fn text(measured: &Measured<Figures, Ratios>) -> String {
    let figures = &measured.figures;
    let codes: Vec<String> = figures
        .exit_codes
        .iter()
        .map(|(code, runs)| format!("{code} ({runs})"))
        .collect();
    let filled = figures
        .each
        .iter()
        .filter(|round| round.filled_seconds.is_some())
        .count();
    format!(
        "One of two holders of a guest's pages killed, again and again; seed {}.\n{}\n\n\
         rounds                  {}\n\
         kills                   {}\n\
         while the guest ran     {}\n\
         filled again            {filled}\n\
         exit codes              {}\n\
         bytes verified          {}\n\
         bytes mismatched        {}\n\
         hangs                   {}\n",
        figures.seed,
        host_line(&measured.host),
        measured.rounds,
        figures.kills,
        figures.kills_while_running,
        codes.join(", "),
        figures.verified_bytes,
        figures.mismatched_bytes,
        figures.hangs,
    )
}
