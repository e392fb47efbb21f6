//! When room is made: in the background below a watermark, by the fault itself when nothing is left.
//!
//! Room is made in two steps, so that a page that is touched again soon is rescued on its way: victims
//! are staged, and what has been staged longest is passed on once enough is staged.

use super::{Engine, FaultError};
use crate::page::{BLOCK_PAGES, Unit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the background thread sleeps when nobody wakes it.
const NAP: Duration = Duration::from_millis(100);

/// Wakes the background thread.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    wanted: Mutex<bool>,
    bell: Condvar,
    /// The background thread is at work: no need to ring.
    awake: AtomicBool,
    paused: AtomicBool,
}

/// Why there is no room.
#[derive(Debug)]
pub(super) enum NoRoom {
    /// Every tier is full.
    Full,
    /// A page is lost, or the kernel contradicts the table.
    Failed(FaultError),
}

impl From<FaultError> for NoRoom {
    fn from(error: FaultError) -> Self {
        Self::Failed(error)
    }
}

/// When to begin and to stop making room, and how much to keep staged; pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watermarks {
    low: u64,
    high: u64,
    staged: u64,
}

impl Watermarks {
    fn of(cap: u64, unit: Unit) -> Self {
        let block = BLOCK_PAGES as u64;
        match unit {
            Unit::Page => {
                let low = (cap / 64).clamp(32, 512);
                Self {
                    low,
                    high: 2 * low,
                    staged: (cap / 16).clamp(64, 2048),
                }
            }
            Unit::Block => Self {
                low: block,
                high: 2 * block,
                staged: (cap / 16 / block).clamp(1, 8) * block,
            },
        }
    }
}

/// Groups that may wait in the staged queue: beyond it, many are stale.
const MAX_GROUPS: usize = 4096;

impl Engine {
    fn watermarks(&self) -> Watermarks {
        Watermarks::of(self.arena.cap(), self.unit)
    }

    /// Makes room for `pages`, for a fault that found none.
    pub(super) fn make_room(&self, pages: u64) -> Result<(), NoRoom> {
        let mut idle = 0;
        crate::stats::Stats::one(&self.stats.direct_reclaims);
        while self.arena.available() < pages {
            if self.pass_on_oldest()? > 0 {
                continue;
            }
            let Some(victims) = self.eviction.victims(&self.table) else {
                return Err(NoRoom::Full);
            };
            if self.expel(victims)? == 0 {
                // Locked, pinned or busy: others will do. But not for ever.
                idle += 1;
                if idle > 1000 {
                    return Err(NoRoom::Full);
                }
            }
        }
        Ok(())
    }

    /// One step towards the high watermark.
    fn make_room_step(&self, marks: Watermarks) -> Result<usize, NoRoom> {
        // With every tier full, staging more would only make touches pay for rescues; one group is enough
        // to find out whether what it holds compresses.
        let room_below = self.tiers.iter().any(|tier| tier.free_pages() > 0);
        if self.staged.pages() < if room_below { marks.staged } else { 1 }
            && self.staged.groups() < MAX_GROUPS
            && let Some(victims) = self.eviction.victims(&self.table)
        {
            let out = self.expel(victims)?;
            if out > 0 {
                return Ok(out);
            }
        }
        self.pass_on_oldest()
    }

    /// Makes room in the background until `stop` is set; returns early if the microVM cannot go on.
    ///
    /// One thread calls this. [`Engine::wake_background`] makes it look at `stop`.
    pub fn run_background(&self, stop: &AtomicBool) -> Result<(), FaultError> {
        while !stop.load(Ordering::Acquire) {
            let worked = {
                let _passing = self.gate.pass();
                if self.reclaim.paused.load(Ordering::Acquire) {
                    false
                } else {
                    self.background_turn()?
                }
            };
            if !worked {
                self.nap();
            }
        }
        Ok(())
    }

    /// A bounded piece of background work; returns whether there may be more.
    fn background_turn(&self) -> Result<bool, FaultError> {
        let marks = self.watermarks();
        let mut worked = false;
        for _ in 0..16 {
            let enough = self.arena.available() >= marks.high && self.arena.excess() == 0;
            if enough {
                break;
            }
            match self.make_room_step(marks) {
                Ok(0) | Err(NoRoom::Full) => break,
                Ok(_) => worked = true,
                Err(NoRoom::Failed(error)) => return Err(error),
            }
        }
        worked |= self.relieve_tiers()? > 0;
        worked |= self.retry_waiting()?;
        Ok(worked)
    }

    fn nap(&self) {
        let mut wanted = self
            .reclaim
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.reclaim.awake.store(false, Ordering::SeqCst);
        if !*wanted {
            let waited = self.reclaim.bell.wait_timeout(wanted, NAP);
            wanted = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *wanted = false;
        self.reclaim.awake.store(true, Ordering::SeqCst);
    }

    fn is_low(&self) -> bool {
        self.arena.available() < self.watermarks().low
    }

    /// Wakes the background thread.
    pub fn wake_background(&self) {
        *self
            .reclaim
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.reclaim.bell.notify_one();
    }

    /// Wakes the background thread if there is work for it and it sleeps.
    pub(super) fn wake_background_if_low(&self) {
        if self.is_low() && !self.reclaim.awake.load(Ordering::SeqCst) {
            self.wake_background();
        }
    }

    /// Stops background work, once the turn under way has ended. Faults are still handled, and make room
    /// themselves.
    pub fn pause_background(&self) {
        self.reclaim.paused.store(true, Ordering::Release);
        drop(self.quiesce());
    }

    /// Lets background work go on.
    pub fn resume_background(&self) {
        self.reclaim.paused.store(false, Ordering::Release);
        self.wake_background();
    }
}
