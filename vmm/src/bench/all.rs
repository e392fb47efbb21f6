//! `gmem bench all`: one experiment after the other, and what they are to show.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::plot::Panel;
use super::workload::{self, Tier, Workload};
use super::{BenchError, Measured, Progress, Ratios, evict, fault, policy, resident, scaling};
use crate::signals::TerminationSignals;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Compare with the kernel's swap.
    pub swap: bool,
    /// Rounds of each experiment; at least one.
    pub rounds: usize,
    /// How long the timed part of a workload lasts.
    pub seconds: u64,
    /// The guest's memory in the workloads, bytes. Other experiments have their own.
    pub memory: u64,
    /// vCPUs of the workloads.
    pub cpus: usize,
    /// Of the first round; each has its own.
    pub seed: u64,
}

/// By experiments, what they found.
pub type Figures = BTreeMap<String, Value>;

/// All that was found.
#[derive(Clone, Debug)]
pub struct All {
    /// Figures and ratios.
    pub measured: Measured<Figures, Ratios>,
    /// What can be drawn.
    pub panels: Vec<Panel>,
}

/// What all experiments are given.
struct Asked<'a> {
    options: &'a Options,
    signals: &'a TerminationSignals,
    progress: &'a dyn Progress,
}

/// What an experiment found.
struct Part {
    name: &'static str,
    figures: Value,
    ratios: Ratios,
    panel: Option<Panel>,
}

/// Measures, telling `progress` about each round of each experiment.
pub fn measure(
    options: &Options,
    signals: &TerminationSignals,
    progress: &dyn Progress,
) -> Result<All, BenchError> {
    let asked = Asked {
        options,
        signals,
        progress,
    };
    let mut parts = vec![asked.fault()?, asked.scaling()?, asked.resident()?];
    for workload in Workload::ALL {
        parts.push(asked.workload(workload)?);
    }
    parts.push(asked.evict()?);
    parts.push(asked.policy()?);
    let mut figures = Figures::new();
    let mut ratios = Ratios::new();
    let mut panels = Vec::new();
    for part in parts {
        figures.insert(part.name.to_owned(), part.figures);
        ratios.extend(part.ratios);
        panels.extend(part.panel);
    }
    Ok(All {
        measured: Measured::new("all", options.rounds, figures, ratios),
        panels,
    })
}

impl Asked<'_> {
    fn fault(&self) -> Result<Part, BenchError> {
        let memory = 128 << 20;
        let options = fault::Options {
            rounds: self.options.rounds,
            memory,
            budget: memory / 4,
            passes: 2,
        };
        Part::of(&fault::measure(&options, self.signals, self.progress)?)
    }

    fn scaling(&self) -> Result<Part, BenchError> {
        let options = scaling::Options {
            rounds: self.options.rounds,
            memory: 128 << 20,
            cpus: 2,
            passes: 2,
        };
        Part::of(&scaling::measure(&options, self.signals, self.progress)?)
    }

    fn resident(&self) -> Result<Part, BenchError> {
        let options = resident::Options {
            pairs: self.options.rounds,
            memory: 512 << 20,
            seconds: 2,
        };
        Part::of(&resident::measure(&options, self.signals, self.progress)?)
    }

    fn workload(&self, workload: Workload) -> Result<Part, BenchError> {
        let Options {
            swap,
            rounds,
            seconds,
            memory,
            cpus,
            seed,
        } = *self.options;
        let options = workload::Options {
            workload,
            swap,
            shares: workload.shares().to_vec(),
            tiers: vec![Tier::Zip, Tier::Hbm],
            rounds,
            seconds,
            memory,
            cpus,
            seed,
        };
        let measured = workload::measure(&options, self.signals, self.progress)?;
        Ok(Part {
            panel: Some(Panel::of(workload.name(), &measured.figures)),
            ..Part::of(&measured)?
        })
    }

    fn policy(&self) -> Result<Part, BenchError> {
        let options = policy::Options {
            seed: self.options.seed,
            rounds: self.options.rounds,
            traces: Vec::new(),
        };
        Part::of(&policy::measure(&options, self.signals, self.progress)?)
    }

    fn evict(&self) -> Result<Part, BenchError> {
        let options = evict::Options {
            swap: self.options.swap,
            rounds: self.options.rounds,
            memory: 512 << 20,
            seed: self.options.seed,
        };
        Part::of(&evict::measure(&options, self.signals, self.progress)?)
    }
}

impl Part {
    /// Ratios of whatever shape, by their names.
    fn of<F: Serialize, R: Serialize>(measured: &Measured<F, R>) -> Result<Self, BenchError> {
        let json = |error: serde_json::Error| BenchError::Host(error.into());
        let ratios = serde_json::to_value(&measured.ratios).map_err(json)?;
        Ok(Self {
            name: measured.bench,
            figures: serde_json::to_value(&measured.figures).map_err(json)?,
            ratios: serde_json::from_value(ratios).map_err(json)?,
            panel: None,
        })
    }
}
