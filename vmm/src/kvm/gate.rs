//! Where vCPU threads meet those who control them.
//!
//! What is asked stands in one place, under one lock, with a copy that is read before each KVM_RUN.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::exits::{Cause, End};

/// What the threads are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Request {
    Run,
    Pause,
    Stop,
}

/// vCPUs that did not leave KVM_RUN in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vCPUs {vcpus:?} did not leave the guest within {limit:?}")]
pub struct StillRunning {
    /// Their numbers.
    pub vcpus: Vec<usize>,
    /// How long they had.
    pub limit: Duration,
}

/// What was asked, and how far the vCPUs are.
pub(super) struct State {
    /// Sticks: nothing that is asked after it makes the vCPUs run or wait again.
    pub(super) stop: bool,
    /// The user's wish, see [`super::control::VcpuControl::pause`].
    pub(super) paused: bool,
    /// How many hold the guest still for a moment, see [`super::control::VcpuControl::hold`].
    pub(super) holds: usize,
    pub(super) parked: Vec<bool>,
    pub(super) ends: Vec<Option<End>>,
    pub(super) first_end: Option<usize>,
}

impl State {
    pub(super) fn request(&self) -> Request {
        if self.stop {
            Request::Stop
        } else if self.paused || self.holds > 0 {
            Request::Pause
        } else {
            Request::Run
        }
    }

    /// Whether vCPU `index` stands still, or is over.
    pub(super) fn is_still(&self, index: usize) -> bool {
        self.parked[index] || self.ends[index].is_some()
    }
}

/// Where vCPU threads meet those who control them.
pub(super) struct Gate {
    /// Copy of the state's request that is read before each KVM_RUN.
    request: AtomicU8,
    state: Mutex<State>,
    changed: Condvar,
    /// Counts ends.
    pub(super) ended: EventFd,
    pub(super) entered: OnceLock<Instant>,
}

impl Gate {
    pub(super) fn new(vcpus: usize) -> io::Result<Self> {
        Ok(Self {
            request: AtomicU8::new(Request::Run as u8),
            state: Mutex::new(State {
                stop: false,
                paused: false,
                holds: 0,
                parked: vec![false; vcpus],
                ends: vec![None; vcpus],
                first_end: None,
            }),
            changed: Condvar::new(),
            ended: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            entered: OnceLock::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment: a panicked holder cannot have left half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first vCPU is about to enter the guest.
    pub(super) fn entering(&self) {
        let _ = self.entered.set(Instant::now());
    }

    /// Whether there is anything else to do than run.
    pub(super) fn requested(&self) -> bool {
        self.request.load(Ordering::SeqCst) != Request::Run as u8
    }

    /// Called by vCPU `index` outside KVM_RUN: stays here during a pause. Returns `Run` or `Stop`.
    pub(super) fn checkpoint(&self, index: usize) -> Request {
        let mut state = self.lock();
        while state.request() == Request::Pause {
            // Said once: if every wake-up were answered by another, parked vCPUs would keep each other awake.
            if !mem::replace(&mut state.parked[index], true) {
                self.changed.notify_all();
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.parked[index] = false;
        state.request()
    }

    pub(super) fn ask(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        self.request.store(state.request() as u8, Ordering::SeqCst);
        self.changed.notify_all();
    }

    pub(super) fn end(&self, index: usize, end: End) {
        let mut state = self.lock();
        if end.cause != Cause::Stopped {
            state.first_end.get_or_insert(index);
        }
        state.ends[index] = Some(end);
        self.changed.notify_all();
        // The counter cannot overflow: it is written once by each vCPU.
        let _ = self.ended.write(1);
    }

    /// Waits until every vCPU stands still. The end of the run ends the wait, as an error unless all are over.
    pub(super) fn wait_still(&self, limit: Duration) -> Result<(), StillRunning> {
        self.wait(limit, |state| state.stop, State::is_still)
    }

    /// Waits until `done` holds for every vCPU; those for which it does not by the deadline, or when `hopeless`
    /// comes true, are the error.
    pub(super) fn wait(
        &self,
        limit: Duration,
        hopeless: impl Fn(&State) -> bool,
        done: impl Fn(&State, usize) -> bool,
    ) -> Result<(), StillRunning> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            let vcpus: Vec<_> = (0..state.ends.len())
                .filter(|&index| !done(&state, index))
                .collect();
            if vcpus.is_empty() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || hopeless(&state) {
                return Err(StillRunning { vcpus, limit });
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}
