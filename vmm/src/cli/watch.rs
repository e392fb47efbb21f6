//! A run, watched: progress, stalls, failures, the end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gmem_core::engine::Snapshot;
use gmem_core::stats::Site;

use super::status::StatusLine;
use super::summary;
use crate::machine::{Event, Running};
use crate::memory::managed::ManagedMemory;
use crate::outcome::{Outcome, Reason};
use crate::report::{self, Report};
use crate::signals::TerminationSignals;

/// How often stalls and failures are looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How often progress is shown where it is rewritten in place.
const LIVE: Duration = Duration::from_millis(250);
/// How often it is shown as a line of its own.
const PLAIN: Duration = Duration::from_secs(2);
/// How long faults wait for room before that is said.
const STALLED: Duration = Duration::from_millis(300);

/// A run that is over, with its memory.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    snapshot: Option<Snapshot>,
    memory: Arc<ManagedMemory>,
    flows: Vec<report::Migration>,
    vmm_rss_bytes: u64,
}

/// Watches until the run ends or a signal asks for its end.
pub(super) fn watch(
    running: Running,
    signals: &TerminationSignals,
    status: &StatusLine,
) -> io::Result<Ended> {
    let memory = Arc::clone(running.memory());
    let began = Instant::now();
    let every = if status.is_live() { LIVE } else { PLAIN };
    let mut next = began + every;
    let mut stalled = false;
    let signal = loop {
        match running.wait(signals, Some(LOOK))? {
            Event::Signal(name) => break Some(name),
            Event::Ended => break None,
            Event::Timeout => {}
        }
        if memory.failure().is_some() {
            break None;
        }
        let Some(engine) = memory.engine() else {
            continue;
        };
        let stalls = engine.stalls();
        let stalls_now = stalls.since.is_some_and(|since| since.elapsed() >= STALLED);
        if stalls_now != stalled {
            stalled = stalls_now;
            status.say(&if stalled {
                format!("{}; waiting", stall_message(&memory, stalls.waiting))
            } else {
                "there is room again; the guest goes on".to_owned()
            });
        }
        if Instant::now() >= next {
            next += every;
            status.show(progress(&engine.snapshot(), began));
        }
    };
    signals.let_the_next_one_kill();
    // Before the end lets them go.
    let waiting = memory.engine().map_or(0, |engine| engine.stalls().waiting);
    let mut outcome = running.finish(signal);
    status.clear();
    if let Some(failure) = memory.failure() {
        outcome.reason = Reason::Memory(failure);
    } else if waiting > 0 {
        outcome.note = Some(stall_message(&memory, waiting));
    }
    // Numbers that agree: nothing moves while they are read. Not beneath a vCPU that is stuck.
    let engine = memory.engine().filter(|_| !outcome.abandoned).cloned();
    let still = engine.as_ref().map(|engine| engine.quiesce());
    let ended = Ended {
        snapshot: memory.snapshot(),
        flows: flows(&memory),
        vmm_rss_bytes: process_bytes().saturating_sub(memory.resident_bytes()),
        memory,
        outcome,
    };
    drop(still);
    if let Some(snapshot) = &ended.snapshot {
        status.say(&summary::text(snapshot, &ended.flows, began.elapsed()));
    }
    Ok(ended)
}

impl Ended {
    /// Adds what is known about memory to the report.
    pub(super) fn describe(&self, report: &mut Report) {
        report.memory.vmm_rss_bytes = self.vmm_rss_bytes;
        let Some(snapshot) = &self.snapshot else {
            if let Some(budget) = self.memory.budget() {
                report.memory.tiers.push(report::Tier {
                    name: "host".into(),
                    kind: "host".into(),
                    capacity_bytes: budget,
                    used_bytes: self.memory.resident_bytes(),
                    peak_bytes: self.memory.resident_bytes(),
                });
            }
            return;
        };
        report.memory.metadata_bytes = snapshot.metadata_bytes;
        report.memory.tiers = snapshot
            .tiers
            .iter()
            .map(|tier| report::Tier {
                name: tier.name.clone(),
                kind: tier.kind.to_string(),
                capacity_bytes: tier.capacity_bytes,
                used_bytes: tier.used_bytes,
                peak_bytes: tier.peak_bytes,
            })
            .collect();
        let faults = &snapshot.faults;
        report.faults.cpu = report::Latency {
            count: faults.count,
            p50_us: faults.p50_us,
            p99_us: faults.p99_us,
            p999_us: faults.p999_us,
            max_us: faults.max_us,
        };
        report.faults.prefetched_pages = snapshot.prefetched_pages;
        report.faults.prefetch_used_pages = snapshot.prefetch_used_pages;
        report.migrations = self.flows.clone();
    }
}

fn flows(memory: &ManagedMemory) -> Vec<report::Migration> {
    let Some(engine) = memory.engine() else {
        return Vec::new();
    };
    let name = |site| engine.site_name(site).to_owned();
    let migration = |flow: &gmem_core::stats::Flow| report::Migration {
        from: name(flow.from),
        to: name(flow.to),
        pages: flow.pages,
        bytes: flow.bytes(),
    };
    engine.stats().flows().iter().map(migration).collect()
}

fn stall_message(memory: &ManagedMemory, waiting: usize) -> String {
    let tiers = memory
        .snapshot()
        .map(|snapshot| summary::tiers_in_line(&snapshot))
        .unwrap_or_default();
    format!(
        "every tier is full ({tiers}): {waiting} vCPU access(es) wait for room; nothing is lost; a larger \
         budget lets them go on"
    )
}

fn progress(snapshot: &Snapshot, began: Instant) -> String {
    let (mut inward, mut outward) = (0, 0);
    for flow in &snapshot.flows {
        match (flow.from, flow.to) {
            (Site::Tier(_), Site::Host) => inward += flow.bytes(),
            (Site::Host, Site::Tier(_)) => outward += flow.bytes(),
            _ => {}
        }
    }
    format!(
        "{:.1} s: {}; {} faults, {} in, {} out",
        began.elapsed().as_secs_f64(),
        summary::tiers_in_line(snapshot),
        snapshot.faults.count,
        summary::size(inward),
        summary::size(outward),
    )
}

/// RssAnon and RssFile of this process, bytes.
fn process_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let kib = field("RssAnon:").unwrap_or(0) + field("RssFile:").unwrap_or(0);
    kib * 1024
}
