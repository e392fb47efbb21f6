//! `gmem bench accel`: its options and its table.

use std::path::PathBuf;

use clap::Args;

use super::text::{heading, host_line, row, scaled};
use crate::bench::Measured;
use crate::bench::accel::{Figures, KindFigures, KindRatios, Kinds, Options};
use crate::cli::size;

/// The least memory of an accelerator, bytes, and the most: four times as much is data.
const LEAST_HBM: u64 = 2 << 20;
const MOST_HBM: u64 = 256 << 20;

#[derive(Debug, Args)]
pub(super) struct AccelArgs {
    /// Rounds, each of all sides
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Of contents and orders in the first round; the next one has the next
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// The accelerator's memory; the guest's data is four times as much
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = hbm)]
    hbm: u64,

    /// Rows that gather looks up in a run
    #[arg(long, value_name = "N", default_value = "100000", value_parser = clap::value_parser!(u64).range(1..))]
    lookups: u64,

    /// Rows that layers multiplies by its weights
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u64).range(1..=16))]
    rows: u64,

    /// How often layers multiplies by all weights in a run; the first time does not count
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u64).range(2..))]
    epochs: u64,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl AccelArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            rounds: self.rounds.into(),
            seed: self.seed,
            hbm: self.hbm,
            lookups: self.lookups,
            rows: self.rows,
            epochs: self.epochs,
        }
    }
}

fn hbm(text: &str) -> Result<u64, String> {
    let found = size::parse(text).map_err(|error| error.to_string())?;
    if (LEAST_HBM..=MOST_HBM).contains(&found) && found.is_multiple_of(1 << 20) {
        Ok(found)
    } else {
        Err(format!(
            "{found} bytes, expected 2M to 256M in multiples of 1M"
        ))
    }
}

pub(super) fn text(measured: &Measured<Figures, Kinds<KindRatios>>) -> String {
    let (figures, ratios) = (&measured.figures, &measured.ratios);
    let mut text = format!(
        "Accelerators with {} MiB, {} MiB of data: {} rounds.\n{}\n",
        figures.hbm_bytes >> 20,
        figures.data_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    for (name, figures, ratios) in [
        ("npu", &figures.kinds.npu, &ratios.npu),
        ("gpu", &figures.kinds.gpu, &ratios.gpu),
    ] {
        text += &format!("\n{name}\n{}", heading());
        text += &kind(figures, ratios);
    }
    text
}

fn kind(figures: &KindFigures, ratios: &KindRatios) -> String {
    let mut text = String::new();
    for (link, figures, bytes, time) in [
        (
            "",
            &figures.gather,
            &ratios.gather_bytes_over_first_touch,
            &ratios.gather_time_over_first_touch,
        ),
        (
            ", 8 GB/s",
            &figures.gather_link,
            &ratios.gather_link_bytes_over_first_touch,
            &ratios.gather_link_time_over_first_touch,
        ),
    ] {
        for (place, side) in [
            ("adaptive", &figures.adaptive),
            ("first-touch", &figures.first_touch),
        ] {
            let bytes = scaled(&side.link_bytes, 1e-6);
            text += &row(&format!("{place}{link}"), "MB", &bytes, 1);
            text += &row(&format!("{place}{link}"), "s", &side.seconds, 3);
        }
        text += &row(&format!("bytes{link}, ratio"), "", bytes, 3);
        text += &row(&format!("time{link}, ratio"), "", time, 3);
    }
    let layers = &figures.layers;
    for (name, seconds) in [
        ("layers, epoch", &layers.epoch_seconds),
        ("layers, computing", &layers.compute_seconds),
        ("layers, transfer", &layers.transfer_seconds),
    ] {
        text += &row(name, "ms", &scaled(seconds, 1e3), 1);
    }
    text += &row(
        "layers, epoch over bound",
        "",
        &ratios.layers_time_over_bound,
        3,
    );
    let request = &figures.request;
    text += &row("request, p50", "us", &request.request_p50_us, 1);
    text += &row("fault, p50", "us", &request.fault_p50_us, 1);
    text += &row("fault over request", "", &ratios.fault_p50_over_request, 3);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerators_memory_is_whole_mebibytes_within_bounds() {
        assert_eq!(hbm("16M"), Ok(16 << 20));
        for text in ["1M", "512M", "3000000", "x"] {
            assert!(hbm(text).is_err(), "{text}");
        }
    }
}
