//! The vCPU threads, and what others can ask of them: run, pause, resume, stop.
//!
//! Every vCPU thread passes the [`Gate`] whenever KVM_RUN returns `EINTR`. A request is written to the gate
//! first, then the threads are kicked; see [`super::kick`] for why none can miss it.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::Killable;

use super::exits::{Cause, End, VcpuError};
use super::gate::Gate;
use super::run_loop::Shared;
use super::vcpu::Vcpu;
use super::{affinity, kick};

pub use super::gate::StillRunning;

/// What the vCPUs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// They run, or wait for a page or an interrupt.
    Running,
    /// Asked to pause, but not all have left the guest.
    Pausing,
    /// All stand still until they are resumed.
    Paused,
    /// One has ended by itself, or they were stopped: the run is over.
    Ended,
}

/// Tells the gate that a vCPU thread is over, also when it panicked.
struct EndGuard<'a> {
    gate: &'a Gate,
    index: usize,
    end: Option<End>,
}

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or(End {
            cause: Cause::Error(VcpuError::Panicked),
            position: None,
        });
        self.gate.end(self.index, end);
    }
}

/// A handle on the vCPU threads of one microVM: to look, pause, resume and kick, from any thread.
#[derive(Clone)]
pub struct VcpuControl {
    gate: Arc<Gate>,
    /// Emptied when they are joined.
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    cpus: Arc<[usize]>,
}

impl VcpuControl {
    /// The host CPU of each vCPU.
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// When the first vCPU entered the guest.
    pub fn entered(&self) -> Option<Instant> {
        self.gate.entered.get().copied()
    }

    /// Becomes readable when a vCPU has ended; see [`Self::first_end`].
    pub fn ended(&self) -> &EventFd {
        &self.gate.ended
    }

    /// The first vCPU that ended by itself (not by [`VcpuThreads::stop`]), and how.
    pub fn first_end(&self) -> Option<(usize, End)> {
        let state = self.gate.lock();
        let index = state.first_end?;
        Some((index, state.ends[index].clone()?))
    }

    /// What the vCPUs do now. A moment's [hold](Self::hold) does not count.
    pub fn activity(&self) -> Activity {
        let state = self.gate.lock();
        let still = (0..state.ends.len()).all(|index| state.is_still(index));
        if state.stop || state.first_end.is_some() {
            Activity::Ended
        } else if !state.paused {
            Activity::Running
        } else if still {
            Activity::Paused
        } else {
            Activity::Pausing
        }
    }

    /// Makes every vCPU leave KVM_RUN once, for example to look at a fault again.
    pub fn kick(&self) {
        for thread in self.threads().iter() {
            // A thread that is over needs no kick.
            let _ = thread.kill(kick::kick_signal());
        }
    }

    /// Pauses the guest: when this returns `Ok`, every vCPU has left KVM_RUN, with its last instruction
    /// complete, and stays out until [`Self::resume`] or [`VcpuThreads::stop`].
    ///
    /// After an error the request stands: the vCPUs named park as soon as they leave.
    pub fn pause(&self, limit: Duration) -> Result<(), StillRunning> {
        self.gate.ask(|state| state.paused = true);
        self.kick();
        self.gate.wait_still(limit)
    }

    /// Takes a pause back. Somebody who [holds](Self::hold) the guest still goes on doing so.
    pub fn resume(&self) {
        self.gate.ask(|state| state.paused = false);
    }

    /// Holds the guest still for as long as the returned value lives, as [`Self::pause`] does, but whether it
    /// is paused stays as the user wants it. After an error nothing is held.
    pub fn hold(&self, limit: Duration) -> Result<Held<'_>, StillRunning> {
        self.gate.ask(|state| state.holds += 1);
        let held = Held(&self.gate);
        self.kick();
        self.gate.wait_still(limit)?;
        Ok(held)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn halt(&self, limit: Duration) {
        self.gate.ask(|state| state.stop = true);
        self.kick();
        let stuck =
            match self
                .gate
                .wait(limit, |_| false, |state, index| state.ends[index].is_some())
            {
                Ok(()) => Vec::new(),
                Err(still) => still.vcpus,
            };
        let threads = mem::take(&mut *self.threads());
        for (index, thread) in threads.into_iter().enumerate() {
            if !stuck.contains(&index) {
                // A panic is already on record as the vCPU's end.
                let _ = thread.join();
            }
        }
    }
}

/// Proof that no vCPU runs. Dropping it lets them go on, unless somebody else holds or has paused them.
#[must_use = "dropping it lets the vCPUs go on"]
pub struct Held<'a>(&'a Gate);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.ask(|state| state.holds -= 1);
    }
}

/// The running vCPU threads of one microVM.
///
/// Dropping the value asks them to stop and waits a second.
pub struct VcpuThreads {
    control: VcpuControl,
}

impl VcpuThreads {
    /// Starts a thread for each vCPU, named `vcpu0` and so on, vCPU n pinned to host CPU `cpus[n]` (as
    /// dealt by [`affinity::assign`]). They enter the guest at once.
    pub fn start(vcpus: Vec<Vcpu>, cpus: Vec<usize>, shared: &Arc<Shared>) -> io::Result<Self> {
        kick::install_handler()?;
        let started = Self {
            control: VcpuControl {
                gate: Arc::new(Gate::new(vcpus.len())?),
                threads: Arc::default(),
                cpus: cpus.into(),
            },
        };
        for (index, mut vcpu) in vcpus.into_iter().enumerate() {
            let (gate, shared) = (Arc::clone(&started.control.gate), Arc::clone(shared));
            let cpu = started.control.cpus.get(index).copied();
            let thread = thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || {
                    let mut guard = EndGuard {
                        gate: &gate,
                        index,
                        end: None,
                    };
                    // The CPU may have been taken from the process since it was dealt: then the vCPU runs
                    // wherever it may, slower but right.
                    let _ = cpu.map(affinity::pin);
                    guard.end = Some(vcpu.run(&shared, &gate));
                })?;
            started.control.threads().push(thread);
        }
        Ok(started)
    }

    /// A handle that others can use while the threads run, and harmlessly after that.
    pub fn control(&self) -> &VcpuControl {
        &self.control
    }

    /// Stops the guest for good and joins the threads. The ends, in the order of the vCPUs; where a thread
    /// did not leave KVM_RUN within `limit`, `None`: it is abandoned, and the process has to be left
    /// by `_exit`.
    pub fn stop(self, limit: Duration) -> Vec<Option<End>> {
        self.control.halt(limit);
        self.control.gate.lock().ends.clone()
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        if !self.control.threads().is_empty() {
            self.control.halt(Duration::from_secs(1));
        }
    }
}
