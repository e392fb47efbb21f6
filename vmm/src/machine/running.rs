//! A microVM whose vCPUs run, until its outcome.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use crate::console_input::ConsoleInput;
use crate::devices::Devices;
use crate::kvm::control::{VcpuControl, VcpuThreads};
use crate::kvm::exits::End;
use crate::kvm::run_loop::Shared;
use crate::kvm::vm::Vm;
use crate::memory::managed::ManagedMemory;
use crate::memory::ram::GuestRam;
use crate::outcome::{Outcome, Reason};
use crate::poll::poll;
use crate::signals::TerminationSignals;

/// How long vCPUs and devices have to stop at the end.
const STOP_LIMIT: Duration = Duration::from_millis(700);

/// What [`Running::wait`] waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A vCPU ended: the run is over.
    Ended,
    /// The process was asked to end, by the signal of this name.
    Signal(&'static str),
    /// Neither, for as long as was asked.
    Timeout,
}

/// A microVM whose vCPUs run.
pub struct Running {
    pub(super) threads: VcpuThreads,
    pub(super) shared: Arc<Shared>,
    // The machine goes when its vCPUs are gone, and whoever serves its memory after that.
    pub(super) _vm: Vm,
    pub(super) memory: Arc<ManagedMemory>,
    pub(super) console_drained: Option<EventFd>,
}

impl Running {
    /// The vCPU threads: to pause, resume and kick.
    pub fn vcpus(&self) -> &VcpuControl {
        self.threads.control()
    }

    /// The guest's RAM.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.shared.ram
    }

    /// The guest's memory and what holds it.
    pub fn memory(&self) -> &Arc<ManagedMemory> {
        &self.memory
    }

    /// Lets the user type on the guest's console, if it takes input, until the result is dropped. Once.
    pub fn console_input(&mut self) -> io::Result<Option<ConsoleInput>> {
        let shared = Arc::clone(&self.shared);
        let drained = self.console_drained.take();
        drained
            .map(|drained| ConsoleInput::start(shared, drained))
            .transpose()
    }

    /// Its virtio devices.
    pub fn devices(&self) -> &Arc<Devices> {
        &self.shared.devices
    }

    /// Waits for the end of the run or a signal, for `limit` at most.
    pub fn wait(&self, signals: &TerminationSignals, limit: Option<Duration>) -> io::Result<Event> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            if self.vcpus().first_end().is_some() {
                return Ok(Event::Ended);
            }
            if let Some(name) = signals.take() {
                return Ok(Event::Signal(name));
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Event::Timeout);
            }
            poll(
                [self.vcpus().ended().as_raw_fd(), signals.as_raw_fd()],
                left,
            )?;
        }
    }

    /// Stops the vCPUs and says how the run ended: by the guest's own end if it has one, otherwise by the
    /// signal of the name given.
    pub fn finish(self, signal: Option<&'static str>) -> Outcome {
        // Taken before the stop: what comes after a signal does not matter.
        let own_end = self.vcpus().first_end();
        let entered = self.vcpus().entered();
        // A vCPU that waits for a page leaves the guest once it has it, and no sooner.
        self.memory.release_waiters();
        let ends = self.threads.stop(STOP_LIMIT);
        let idle = self.shared.devices.stop(STOP_LIMIT);
        self.shared.ports.finish();
        let reason = match (own_end, signal) {
            (Some((index, end)), _) => Reason::of_end(index, end),
            (None, Some(name)) => Reason::Signal {
                name,
                boot_vcpu: ends.first().cloned().flatten().and_then(position),
            },
            (None, None) => Reason::Asked,
        };
        Outcome {
            reason,
            entered,
            workload_began: self.shared.ports.workload_began(),
            result: self.shared.ports.result(),
            bundled: !self.shared.open_hole,
            note: None,
            abandoned: !idle || ends.iter().any(Option::is_none),
        }
    }

    /// Waits without a limit, then finishes. A second signal, during the finish, ends the process at once.
    pub fn run_to_end(self, signals: &TerminationSignals) -> io::Result<Outcome> {
        let signal = match self.wait(signals, None)? {
            Event::Signal(name) => Some(name),
            Event::Ended | Event::Timeout => None,
        };
        signals.let_the_next_one_kill();
        Ok(self.finish(signal))
    }
}

fn position(end: End) -> Option<crate::kvm::exits::Position> {
    end.position
}
