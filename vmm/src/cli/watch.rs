//! A run, watched: progress, stalls, failures, the end.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gmem_core::engine::Snapshot;
use gmem_core::stats::Site;

use super::farewell::Farewell;
use super::status::StatusLine;
use super::summary;
use crate::api::server::Server;
use crate::console_input::ConsoleInput;
use crate::figures::Figures;
use crate::machine::{Event, Running};
use crate::memory::managed::ManagedMemory;
use crate::outcome::{Outcome, Reason};
use crate::report::Report;
use crate::signals::TerminationSignals;

/// How often stalls and failures are looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How often progress is shown where it is rewritten in place.
const LIVE: Duration = Duration::from_millis(250);
/// How often it is shown as a line of its own.
const PLAIN: Duration = Duration::from_secs(2);
/// How long stderr has to take the summary of a run that somebody has ended.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long faults wait for room before that is said.
const STALLED: Duration = Duration::from_millis(300);

/// A run that is over, with its memory.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    figures: Figures,
}

/// Watches until the run ends, or a signal or the control socket asks for its end. Those who use memory of the guest may take
/// it back first.
pub(super) fn watch(
    running: Running,
    signals: &TerminationSignals,
    status: &StatusLine,
    mut server: Option<Server>,
    input: Option<ConsoleInput>,
    mut lending: Option<Farewell>,
) -> io::Result<Ended> {
    let memory = Arc::clone(running.memory());
    let began = Instant::now();
    let every = if status.is_live() { LIVE } else { PLAIN };
    // Where every key is the guest's, so is the screen.
    let quiet = status.is_live() && input.as_ref().is_some_and(ConsoleInput::is_raw);
    let mut next = began + every;
    let mut stalled = false;
    let mut troubles = Vec::new();
    // The signal that began a farewell.
    let mut first = None;
    let signal = loop {
        match running.wait(signals, Some(LOOK))? {
            Event::Signal(name) => {
                let begun = lending.as_mut().is_some_and(|it| it.begin(name, status));
                if !begun {
                    break Some(name);
                }
                first = Some(name);
            }
            Event::Ended => break None,
            Event::Timeout => {}
        }
        let stop = server.as_ref().and_then(|server| server.stop_asked());
        if memory.failure().is_some() || stop.is_some() && lending.is_none() {
            break None;
        }
        if let Some(farewell) = &mut lending {
            if let Some(by) = stop.filter(|_| !farewell.has_begun()) {
                farewell.begin(&by, status);
            }
            if farewell.is_over(status) {
                break first;
            }
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
        let troubles_now = engine.troubles();
        if troubles_now != troubles {
            match troubles_now.is_empty() {
                true => status.say("all who hold pages answer again"),
                false => status.say(&troubles_now.join("; ")),
            }
            troubles = troubles_now;
        }
        if !quiet && Instant::now() >= next {
            next += every;
            status.show(progress(&engine.snapshot(), began));
        }
    };
    let asked = server.as_mut().and_then(|server| {
        // Before the next signal ends the process: it must not leave the socket's file behind.
        server.close();
        server.stop_asked()
    });
    drop(lending);
    let devices = Arc::clone(running.devices());
    devices.withdraw();
    // The terminal is the user's again.
    drop(input);
    signals.let_the_next_one_kill();
    // Before the end lets them go.
    let waiting = memory.engine().map_or(0, |engine| engine.stalls().waiting);
    let mut outcome = running.finish(signal);
    match outcome.abandoned {
        // Its thread may wait for one that is stuck.
        true => mem::forget(server),
        false => drop(server),
    }
    status.clear();
    if outcome.reason == Reason::Asked
        && let Some(by) = asked
    {
        outcome.reason = Reason::Control(by);
    }
    if let Some(failure) = memory.failure() {
        outcome.reason = Reason::Memory(failure);
    } else if waiting > 0 {
        outcome.note = Some(stall_message(&memory, waiting));
    }
    // Numbers that agree: nothing moves while they are read. Not beneath a vCPU that is stuck.
    let engine = memory.engine().filter(|_| !outcome.abandoned).cloned();
    let still = engine.as_ref().map(|engine| engine.quiesce());
    let figures = Figures::of(&memory, &devices);
    drop(still);
    if let Some(snapshot) = &figures.snapshot {
        let text = summary::text(
            snapshot,
            &figures.migrations,
            &outcome.integrity(),
            began.elapsed(),
        );
        status.say_within(&text, outcome.is_urgent().then_some(LAST_WORDS));
    }
    Ok(Ended { outcome, figures })
}

impl Ended {
    /// Adds what is known about memory to the report.
    pub(super) fn describe(&self, report: &mut Report) {
        let Figures {
            memory,
            devices,
            faults,
            migrations,
            ..
        } = self.figures.clone();
        (report.memory, report.devices) = (memory, devices);
        (report.faults, report.migrations) = (faults, migrations);
    }
}

fn stall_message(memory: &ManagedMemory, waiting: usize) -> String {
    let snapshot = memory.snapshot();
    let tiers = snapshot
        .as_ref()
        .map(summary::tiers_in_line)
        .unwrap_or_default();
    let failed = match snapshot.map_or(0, |snapshot| snapshot.store_errors) {
        0 => String::new(),
        errors => {
            format!(", {errors} writes to tiers have failed (look at the disk of a file tier)")
        }
    };
    format!(
        "every tier is full ({tiers}){failed}: {waiting} vCPU access(es) wait for room; nothing is lost; a \
         larger budget lets them go on"
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
