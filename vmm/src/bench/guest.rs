//! One run of the bundled guest, for its figures.

use std::io;
use std::time::Duration;

use serde_json::Value;

use super::BenchError;
use crate::accelerators::AccelConfig;
use crate::boot;
use crate::devices::DeviceConfig;
use crate::figures::Figures;
use crate::machine::{Config, Event, Machine, Payload, Setting};
use crate::memory::plan::Plan;
use crate::outcome::Reason;
use crate::report::Device;
use crate::signals::TerminationSignals;

/// How often failures of memory are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// What a guest is to do, and on what.
pub(super) struct Job<'a> {
    /// Which side of the comparison it is, for messages.
    pub(super) side: &'static str,
    /// Its memory, bytes.
    pub(super) memory: u64,
    /// What holds it.
    pub(super) plan: Option<Plan>,
    /// What shares the memory with its vCPU.
    pub(super) accelerators: Vec<AccelConfig>,
    /// Where it runs and who serves it.
    pub(super) setting: &'a Setting,
    /// `NAME key=value ...`
    pub(super) workload: &'a str,
}

/// Numbers of the guest's result.
pub(super) struct GuestResult {
    side: &'static str,
    value: Value,
    devices: Vec<Device>,
}

impl GuestResult {
    /// Bytes that crossed accelerators' links, of all kinds together.
    pub(super) fn link_bytes(&self) -> f64 {
        let links = self.devices.iter().filter_map(|device| {
            let counters = device.counters.as_ref()?;
            counters.get("link")?.as_object()
        });
        let counters = links.flatten().filter(|(key, _)| key.ends_with("_bytes"));
        counters.filter_map(|(_, bytes)| bytes.as_f64()).sum()
    }

    /// The number `key`, which must be above zero.
    pub(super) fn number(&self, key: &'static str) -> Result<f64, BenchError> {
        let found = &self.value[key];
        match found.as_f64() {
            Some(number) if number > 0.0 => Ok(number),
            _ => Err(BenchError::NoFigure {
                side: self.side,
                key,
                found: found.to_string(),
            }),
        }
    }
}

/// Runs the bundled guest to its end, on a vCPU for each CPU of the setting. It must succeed, and its checks of its own memory with it.
pub(super) fn run(job: &Job<'_>, signals: &TerminationSignals) -> Result<GuestResult, BenchError> {
    let config = Config {
        memory: job.memory,
        plan: job.plan.clone(),
        cpus: job.setting.cpus.as_ref().map_or(1, Vec::len),
        payload: Payload::Bundled {
            image: boot::bundled::IMAGE,
            workload: job.workload.to_owned(),
            extra: String::new(),
        },
        devices: DeviceConfig {
            accelerators: job.accelerators.clone(),
            ..DeviceConfig::default()
        },
    };
    let running = Machine::build_in(&config, Box::new(io::sink()), job.setting)?.start()?;
    let signal = loop {
        match running.wait(signals, Some(LOOK))? {
            Event::Signal(name) => break Some(name),
            Event::Ended => break None,
            Event::Timeout if running.memory().failure().is_some() => break None,
            Event::Timeout => {}
        }
    };
    let failure = running.memory().failure();
    let (memory, devices) = (running.memory().clone(), running.devices().clone());
    let mut outcome = running.finish(signal);
    if let Some(failure) = failure {
        outcome.reason = Reason::Memory(failure);
    }
    let result = outcome
        .result
        .as_deref()
        .and_then(|line| serde_json::from_slice(line).ok());
    match result {
        Some(value) if outcome.message().is_none() && !outcome.abandoned => Ok(GuestResult {
            side: job.side,
            value,
            // Nothing moves any more.
            devices: Figures::of(&memory, &devices).devices,
        }),
        _ => Err(BenchError::of(job.side, &outcome)),
    }
}
