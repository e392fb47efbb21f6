//! When room is made: in the background below a watermark, by the fault itself when nothing is left.
//!
//! Room is made in two steps, so that a page that is touched again soon is rescued on its way: victims
//! are staged, and what has been staged longest is passed on once enough is staged.

use super::{Engine, FaultError};
use crate::page::{BLOCK_PAGES, Unit, runs};
use crate::policy::Victims;
use crate::stats::{Site, Stats};
use crate::table::lock::Atomic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// Who makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Handler,
    Background,
}

/// Steps of a turn in the background.
const STEPS: usize = 16;
/// Attempts of a fault to find room while others have pages in flight, or hold the locks of all victims.
const PATIENCE: u32 = 2000;
/// Groups that a fault tries in vain before it calls everything full.
const DIRECT_ROUNDS: u32 = 4;
/// Groups that may wait in the staged queue: beyond it, many are stale.
const MAX_GROUPS: usize = 4096;

impl Engine {
    fn watermarks(&self) -> Watermarks {
        Watermarks::of(self.arena.cap(), self.unit)
    }

    /// Makes room for `pages`, for a fault that found none.
    pub(super) fn make_room(&self, pages: u64) -> Result<(), NoRoom> {
        Stats::one(&self.stats.direct_reclaims);
        let marks = self.watermarks();
        let (mut idle, mut refused) = (0, 0);
        while self.arena.available() < pages {
            match self.make_room_now(marks, By::Handler) {
                Ok(0) if idle < PATIENCE => idle += 1,
                Ok(0) => return Err(NoRoom::Full),
                Ok(_) => idle = 0,
                Err(NoRoom::Full) if self.turning.any() && idle < PATIENCE => {
                    AtomicU64::give_way(idle);
                    idle += 1;
                }
                Err(NoRoom::Full) if refused < DIRECT_ROUNDS => refused += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// As [`Engine::make_room`], for one frame of 4 KiB. Where pages and blocks are both staged there may be frames to be
    /// had and no slot for a small one: what is staged leaves slots when it is passed on.
    pub(super) fn make_room_for_page(&self) -> Result<(), NoRoom> {
        if self.arena.empty_slots(Unit::Page) > 0 {
            return self.make_room(1);
        }
        match self.pass_on_oldest() {
            Ok(0) => Err(NoRoom::Full),
            other => other.map(|_| ()),
        }
    }

    /// One step in which what is staged goes first. Returns the pages that moved.
    fn make_room_now(&self, marks: Watermarks, by: By) -> Result<usize, NoRoom> {
        match self.pass_on_oldest() {
            Ok(0) => self.stage_next(by),
            Err(NoRoom::Full) => {
                self.stage_others(marks, by)?;
                Err(NoRoom::Full)
            }
            other => other,
        }
    }

    /// One step ahead of time: enough is kept staged. Returns the pages that moved.
    fn make_room_step(&self, marks: Watermarks, by: By) -> Result<usize, NoRoom> {
        if self.staged.pages() < marks.staged
            && self.staged.groups() < MAX_GROUPS
            && self.free_below() > 0
        {
            let out = self.stage_next(by)?;
            if out > 0 {
                return Ok(out);
            }
        }
        self.make_room_now(marks, by)
    }

    /// Stages the next victims; `Full` if there are none.
    fn stage_next(&self, by: By) -> Result<usize, NoRoom> {
        let victims = self.eviction.victims(&self.table).ok_or(NoRoom::Full)?;
        match by {
            By::Background => self.stage_stretch(victims),
            By::Handler => self.stage(victims, by),
        }
    }

    fn stage(&self, victims: Victims, by: By) -> Result<usize, NoRoom> {
        let start = Instant::now();
        let out = self.expel(victims)?;
        if let Victims::Pages { mask, .. } = victims {
            let taken = (by == By::Background).then(|| start.elapsed());
            let runs = runs(mask).count();
            self.duty.moved(runs as u64, out as u64, taken);
            if let Some(taken) = taken {
                self.together.moved(runs, taken);
            }
        }
        Ok(out)
    }

    /// Stages victims, and those that follow them in their block.
    fn stage_stretch(&self, first: Victims) -> Result<usize, NoRoom> {
        let (stretch, other) = self.stretch(first);
        let mut out = self.leave_together(&stretch);
        if out == 0 {
            for group in stretch.groups() {
                out += self.stage(group, By::Background)?;
            }
        }
        let more = other.map(|other| self.stage(other, By::Background));
        Ok(out + more.unwrap_or(Ok(0))?)
    }

    /// Makes room for as many pages as a fault has used, if that is the handlers' duty; else tells the background thread
    /// if there is work for it.
    ///
    /// The fault has been answered: what goes wrong here goes wrong for the next one.
    pub(super) fn replace_room(&self, pages: usize) {
        if !self.is_low() {
            return;
        }
        if !self.duty.is_handlers() {
            self.wake_background_if_low();
            return;
        }
        let _passing = self.gate.pass();
        let (marks, mut made) = (self.watermarks(), 0);
        while made < pages {
            match self.make_room_step(marks, By::Handler) {
                Ok(0) | Err(_) => return self.wake_background_if_low(),
                Ok(moved) => made += moved,
            }
        }
    }

    /// What is staged finds no room, but others may: pages that compress better, or hold zeros. Enough being
    /// staged, those make way for them that were refused last.
    fn stage_others(&self, marks: Watermarks, by: By) -> Result<(), NoRoom> {
        if self.staged.pages() >= marks.staged
            && let Some(group) = self.staged.pop_latest()
        {
            self.bring_back(group)?;
        }
        self.stage_next(by).map(|_| ())
    }

    /// Makes room in the background until `stop` is set; returns early if the microVM cannot go on.
    ///
    /// One thread calls this. [`Engine::wake_background`] makes it look at `stop`.
    pub fn run_background(&self, stop: &AtomicBool) -> Result<(), FaultError> {
        while !stop.load(Ordering::Acquire) {
            let nap = {
                let _passing = self.gate.pass();
                if self.reclaim.paused.load(Ordering::Acquire) {
                    Some(NAP)
                } else if self.background_turn()? {
                    None
                } else {
                    Some(self.promote_next()?.min(NAP))
                }
            };
            if let Some(nap) = nap {
                self.nap(nap);
            }
        }
        Ok(())
    }

    /// A bounded piece of background work; returns whether there may be more.
    fn background_turn(&self) -> Result<bool, FaultError> {
        let marks = self.watermarks();
        let mut worked = false;
        for _ in 0..STEPS {
            if self.arena.available() >= marks.high && self.arena.excess() == 0 {
                break;
            }
            match self.make_room_step(marks, By::Background) {
                Ok(0) => break,
                Ok(_) => worked = true,
                // Another group may find room; if none does, this turn has achieved nothing.
                Err(NoRoom::Full) => {}
                Err(NoRoom::Failed(error)) => return Err(error),
            }
            self.arena.release_excess();
        }
        worked |= self.relieve_tiers()? > 0;
        worked |= self.far && self.evacuate()? > 0;
        worked |= self.retry_waiting()?;
        Ok(worked)
    }

    fn nap(&self, longest: Duration) {
        let mut wanted = self
            .reclaim
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.reclaim.awake.store(false, Ordering::SeqCst);
        if !*wanted {
            let waited = self.reclaim.bell.wait_timeout(wanted, longest);
            wanted = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *wanted = false;
        self.reclaim.awake.store(true, Ordering::SeqCst);
    }

    /// Whether free frames are short.
    pub(super) fn is_low(&self) -> bool {
        self.arena.available() < self.low_watermark()
    }

    /// So many free pages are few.
    pub(super) fn low_watermark(&self) -> u64 {
        self.watermarks().low
    }

    /// Makes room in the background until `pages` are available, as far as that goes in one turn. Not where nothing had
    /// to leave yet: what fits is not evicted for it.
    pub(super) fn make_more_room(&self, pages: u64) -> Result<(), FaultError> {
        let marks = self.watermarks();
        if self.stats.flow(Site::Host, Site::Staged) == 0 {
            return Ok(());
        }
        for _ in 0..STEPS {
            if self.arena.available() >= pages {
                break;
            }
            match self.make_room_step(marks, By::Background) {
                Ok(0) | Err(NoRoom::Full) => break,
                Ok(_) => {}
                Err(NoRoom::Failed(error)) => return Err(error),
            }
        }
        Ok(())
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
