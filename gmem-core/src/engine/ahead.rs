//! Windows of streams come ahead of their touches, brought by a thread of its own while the guest goes through the pages that
//! are there.
//!
//! The handler that hears of a touch wakes the guest and hands out the next window of its stream but for that window's first
//! page. The touch of that one tells that the guest has come so far: its handler brings what is still missing of the window and
//! hands out the one after it. So a guest that goes on faster than pages come has two threads that bring them, and one that
//! is slower waits for a single page once a window.

use super::foresight::{Shared, lock};
use super::{Engine, FaultError};
use crate::policy::{Plan, Window};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Windows that may wait. One that finds more is brought by the touches of its pages, as if nobody had foreseen it.
const MOST: usize = 16;

/// A window, and whose it is.
pub(super) struct Task {
    pub(super) of: Shared,
    pub(super) window: Window,
    pub(super) plan: Plan,
}

/// What waits to be brought.
#[derive(Default)]
pub(super) struct Ahead {
    inner: Mutex<Inner>,
    bell: Condvar,
    /// Some thread serves.
    served: AtomicBool,
}

#[derive(Default)]
struct Inner {
    tasks: VecDeque<Task>,
    stop: bool,
}

impl Ahead {
    /// Whether it is worth asking for a window.
    pub(super) fn is_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// Hands out a window.
    pub(super) fn hand_out(&self, task: Task) {
        let mut inner = self.lock();
        if inner.tasks.len() < MOST {
            inner.tasks.push_back(task);
            drop(inner);
            self.bell.notify_one();
        }
    }

    /// The next window, once there is one; none when it is time to stop.
    fn next(&self) -> Option<Task> {
        let idle = |inner: &mut Inner| inner.tasks.is_empty() && !inner.stop;
        let waited = self.bell.wait_while(self.lock(), idle);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner);
        if inner.stop {
            return None;
        }
        inner.tasks.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Brings windows ahead of their touches until [`Engine::stop_ahead`]; returns early if the microVM cannot go on. Several
    /// threads may call this; without any, windows come with their first touch.
    pub fn run_ahead(&self) -> Result<(), FaultError> {
        self.ahead.served.store(true, Ordering::Relaxed);
        while let Some(task) = self.ahead.next() {
            self.foretell(&task);
            let brought = self.bring_window(&task.plan)?;
            lock(&task.of).brought_ahead(task.window, brought as u64);
            let prefetched = &self.stats.prefetched;
            prefetched.fetch_add(brought as u64, Ordering::Relaxed);
            self.wake_background_if_low();
        }
        Ok(())
    }

    /// Ends the threads in [`Engine::run_ahead`], now and in future.
    pub fn stop_ahead(&self) {
        self.ahead.served.store(false, Ordering::Relaxed);
        self.ahead.lock().stop = true;
        self.ahead.bell.notify_all();
    }

    /// Tells tiers that are far away what a stream is about to want: the window, the page of it that its accessor will wait
    /// for, and what comes after it, because their answers take longer than a window lasts.
    fn foretell(&self, task: &Task) {
        if !self.far {
            return;
        }
        let mut plan = Plan::default();
        // Not locked while requests are sent: the accessor's next touch asks there first.
        let more = |plan: &mut Plan| lock(&task.of).foretell(task.window, plan);
        while more(&mut plan) {
            self.announce(&plan, None);
            plan.clear();
        }
    }

    fn bring_window(&self, plan: &Plan) -> Result<usize, FaultError> {
        self.announce(plan, None);
        let mut brought = 0;
        for &(cluster, mask) in plan.clusters() {
            // Passed for each: whoever quiesces does not wait for a window.
            let _passing = self.gate.pass();
            if !self.has_room_for(plan) {
                break;
            }
            match self.bring_some(cluster, mask)? {
                None => break,
                Some(count) => brought += count,
            }
        }
        Ok(brought)
    }
}
