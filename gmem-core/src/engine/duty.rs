//! Whose duty it is to make room: the background thread's, or the fault handlers'.
//!
//! Before a page has left the guest, every CPU that runs a thread of this process has forgotten its translation, which takes an
//! interrupt. Neighbours leave for one interrupt together; pages that lie apart cost one each. On the metal that is a
//! microsecond or two, and a thread in the background spares the vCPUs all other work. On a virtual host it can be ten,
//! for both CPUs; the handler, on its vCPU's CPU while that waits, has nobody to interrupt if the background thread
//! sleeps. So it is measured: where pages leave one by one, and that is dear, handlers make the room that they used.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Moves of so many pages or more, on average, are nobody's burden.
const FEW_PAGES: u64 = 2;
/// What a move in the background costs where it is dear, nanoseconds.
const DEAR: u64 = 4000;
/// After how many pages the background thread is tried again.
const AGAIN: u64 = 1 << 14;
/// Averages are over about so many moves.
const MEMORY: u64 = 64;

/// What it costs to take pages from the guest.
#[derive(Debug, Default)]
pub(super) struct Duty {
    /// Average pages of a move, times [`MEMORY`].
    pages: AtomicU64,
    /// Average cost of a move of the background thread, nanoseconds times [`MEMORY`].
    cost: AtomicU64,
    /// Pages that handlers took since the background thread last did.
    since: AtomicU64,
}

impl Duty {
    /// Counts `moves` moves of `pages` pages in all.
    pub(super) fn moved(&self, moves: u64, pages: u64, background: Option<Duration>) {
        if moves == 0 {
            return;
        }
        average(&self.pages, pages / moves, moves);
        match background {
            Some(taken) => {
                let nanos = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
                average(&self.cost, nanos / moves, moves);
                self.since.store(0, Ordering::Relaxed);
            }
            None => {
                self.since.fetch_add(pages, Ordering::Relaxed);
            }
        }
    }

    /// Whether handlers make room.
    pub(super) fn is_handlers(&self) -> bool {
        self.pages.load(Ordering::Relaxed) < FEW_PAGES * MEMORY
            && self.cost.load(Ordering::Relaxed) > DEAR * MEMORY
            && self.since.load(Ordering::Relaxed) < AGAIN
    }
}

/// Adds `value`, found `times` times, to an average. Threads that do so at once may lose one of them: it is an average.
fn average(sum: &AtomicU64, value: u64, times: u64) {
    let weight = times.min(MEMORY);
    let before = sum.load(Ordering::Relaxed);
    sum.store(
        before - before / MEMORY * weight + value * weight,
        Ordering::Relaxed,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn background(duty: &Duty, moves: u64, pages: u64, micros: u64) {
        duty.moved(moves, pages, Some(Duration::from_micros(micros)));
    }

    #[test]
    fn handlers_make_room_where_pages_leave_one_by_one_and_that_is_dear() {
        let duty = Duty::default();
        assert!(!duty.is_handlers(), "nothing is known");
        (0..200).for_each(|_| background(&duty, 10, 12, 100));
        assert!(duty.is_handlers());
        (0..200).for_each(|_| background(&duty, 10, 12, 15));
        assert!(!duty.is_handlers(), "it is cheap");
        (0..200).for_each(|_| background(&duty, 1, 64, 30));
        assert!(!duty.is_handlers(), "they leave together");
    }

    #[test]
    fn the_background_thread_is_tried_again() {
        let duty = Duty::default();
        (0..200).for_each(|_| background(&duty, 10, 12, 100));
        (0..AGAIN / 16).for_each(|_| duty.moved(16, 16, None));
        assert!(!duty.is_handlers());
        background(&duty, 10, 12, 100);
        assert!(duty.is_handlers());
    }
}
