//! What a measurement found, and its JSON: `"schema": 1`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::host::HostFacts;
use super::statistics::{median, median_interval};

/// A series of values, one a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Lower end of the median's 95% interval; null where there are fewer than 6 rounds.
    pub low95: Option<f64>,
    /// Its upper end.
    pub high95: Option<f64>,
}

impl Summary {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let interval = median_interval(values, 0.95);
        Self {
            median: median(values).unwrap_or(f64::NAN),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            low95: interval.map(|(low, _)| low),
            high95: interval.map(|(_, high)| high),
        }
    }
}

/// Ratios by name, where not all experiments have the same.
pub type Ratios = BTreeMap<String, Summary>;

/// A measurement: `F` are the experiment's figures, `R` its ratios.
#[derive(Clone, Debug, Serialize)]
pub struct Measured<F, R> {
    /// Version of the shape: 1.
    pub schema: u32,
    /// Which experiment.
    pub bench: &'static str,
    /// How many rounds, each of both sides.
    pub rounds: usize,
    /// Where.
    pub host: HostFacts,
    /// Absolute values, of each side: not to be compared between runs.
    pub figures: F,
    /// One side over the other, within each round.
    pub ratios: R,
}

impl<F, R> Measured<F, R> {
    /// What experiment `bench` found in so many rounds on this host.
    pub(super) fn new(bench: &'static str, rounds: usize, figures: F, ratios: R) -> Self {
        Self {
            schema: 1,
            bench,
            rounds,
            host: HostFacts::this(),
            figures,
            ratios,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rounds_have_no_interval_in_json() {
        let few = serde_json::to_value(Summary::of(&[1.5, 0.5])).unwrap();
        let expected = serde_json::json!(
            {"median": 1.0, "min": 0.5, "max": 1.5, "low95": null, "high95": null});
        assert_eq!(few, expected);
        let six = Summary::of(&[6.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((six.low95, six.high95), (Some(1.0), Some(6.0)));
    }
}
