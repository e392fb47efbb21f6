//! How few pages come beneath the guest: by moving frames, or by copying their bytes into new ones.
//!
//! A frame that is moved leaves the arena first, which interrupts each CPU that runs a thread of this process; a copy
//! interrupts nobody. Which is cheaper for a page or a few depends on the host and on who else is at work: both are
//! measured, and copying has to be twice as good: new frames are cold. Many pages that lie together are always moved: the
//! interrupt is for all of them, copying is for each.

use super::{Engine, FaultError};
use crate::page::PageNo;
use crate::table::Pages;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// More pages than this are moved.
const FEW: usize = 4;
/// What is dearer is tried again after so many choices, and averages are over about so many.
const MEMORY: u64 = 64;
/// What copying costs where it cannot be done.
const IMPOSSIBLE: u64 = u64::MAX;

/// What either way costs, nanoseconds a page times [`MEMORY`]; 0 where it has not been tried.
#[derive(Debug, Default)]
pub(super) struct Entering {
    moving: AtomicU64,
    copying: AtomicU64,
    choices: AtomicU64,
}

impl Entering {
    /// Whether `pages` pages should be copied.
    pub(super) fn by_copy(&self, pages: usize) -> bool {
        if pages > FEW {
            return false;
        }
        let [moving, copying] = [&self.moving, &self.copying].map(|it| it.load(Ordering::Relaxed));
        let again = self
            .choices
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(MEMORY);
        let worth_it = moving > 0 && copying < moving / 2;
        copying != IMPOSSIBLE && worth_it != again
    }

    /// A move of `pages` pages took so long.
    pub(super) fn moved(&self, pages: usize, taken: Duration) {
        if pages <= FEW {
            average(&self.moving, pages, taken);
        }
    }
}

/// Counts what `pages` pages took. Threads that do so at once may lose one: it is an average.
fn average(of: &AtomicU64, pages: usize, taken: Duration) {
    let nanos = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
    let page = (nanos / pages.max(1) as u64).max(1);
    let now = match of.load(Ordering::Relaxed) {
        0 => page.saturating_mul(MEMORY),
        IMPOSSIBLE => IMPOSSIBLE,
        // What the scheduler interrupted says nothing.
        before => before - before / MEMORY + page.min(before / 8 + 1),
    };
    of.store(now, Ordering::Relaxed);
}

impl Engine {
    /// Brings in `count` consecutive held pages from index `at` on, none of them staged, by copying; `None` if that
    /// cannot be done, or there is no room for new frames.
    pub(super) fn bring_copied(
        &self,
        pages: &mut Pages<'_>,
        at: usize,
        count: usize,
        touched: PageNo,
    ) -> Result<Option<usize>, FaultError> {
        let start = Instant::now();
        let (Ok(mut scratch), Some(mut leave)) =
            (self.scratch.borrow(), self.arena.leave_to_create(count))
        else {
            return Ok(None);
        };
        let bytes = scratch.bytes_mut(count);
        let before = start.elapsed();
        self.fill(pages, at, bytes)?;
        let (first, start) = (pages.cluster().page(at), Instant::now());
        let Some(moved) = self.enter_copied(first, bytes) else {
            self.entering.copying.store(IMPOSSIBLE, Ordering::Relaxed);
            return Ok(None);
        };
        average(&self.entering.copying, count, before + start.elapsed());
        leave.used(moved.pages);
        self.is_beneath(pages, at, moved.pages, touched);
        Self::all_entered(first, moved).map(Some)
    }
}
