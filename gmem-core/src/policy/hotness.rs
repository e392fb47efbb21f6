//! Which pages are used: what a mapped page's entry cannot tell, because vCPUs reach it without asking.
//!
//! [`Hotness`] is who knows, [`Rounds`] whom to ask about, and when. Blocks of 2 MiB are watched in turn, each for a
//! while; then it is asked which of their pages were accessed meanwhile. Watching costs the guest: it translates each
//! page anew that it uses. So blocks are watched no more often than a hundredth of the time allows.
//!
//! What is learned goes where [`Eviction`](super::Eviction) looks for it: [`Engine::observe`](crate::engine::Engine::observe)
//! sets and clears [`Flags::ACCESSED`](crate::table::Flags::ACCESSED).

use crate::page::{BLOCK_CLUSTERS, ClusterNo};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Knows which pages of a guest were accessed.
///
/// One thread at a time asks. What it is told is a hint: pages may come and leave meanwhile, and a page that was accessed
/// just when the watch began may count or not.
pub trait Hotness: Send + Sync {
    /// Begins to watch the pages of a block, by its number; what was seen before is forgotten. False if it cannot be
    /// done: nothing is known then.
    fn watch(&self, block: u64) -> bool;

    /// Which of the pages in `asked` were accessed since their block was last watched, one mask for each cluster of the
    /// block; `None` if that is not known.
    fn accessed(&self, block: u64, asked: &Masks) -> Option<Masks>;

    /// How many neighbours, aligned, it takes for one page: 1 if it is exact.
    fn grain(&self) -> usize;
}

/// Pages of a block: a mask for each of its clusters.
pub type Masks = [u64; BLOCK_CLUSTERS];

/// How long a block is watched.
pub const WINDOW: Duration = Duration::from_millis(200);
/// What it costs the guest that a block is watched: every CPU that runs it forgets translations, several times.
const FORGETTING: Duration = Duration::from_micros(100);
/// What it costs the guest to translate a page anew.
const TRANSLATING: Duration = Duration::from_micros(1);
/// Watching takes at most one part in so many of the time.
const SHARE: u32 = 100;

/// A block that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Its number.
    pub block: u64,
    /// Its pages that were there when the watch began.
    pub mapped: Masks,
    since: Instant,
}

/// Blocks in turn, and those that are watched.
#[derive(Debug, Default)]
pub struct Rounds {
    next: u64,
    watched: VecDeque<Watched>,
}

impl Rounds {
    /// The next block to watch of `blocks`, with those of its pages that `mapped` says are there; the first in turn that
    /// has any.
    pub fn next(
        &mut self,
        blocks: u64,
        mapped: impl Fn(ClusterNo) -> u64,
        now: Instant,
    ) -> Option<Watched> {
        for _ in 0..blocks {
            let block = self.next % blocks;
            self.next = block + 1;
            let masks = std::array::from_fn(|index| mapped(cluster(block, index)));
            if masks != [0; BLOCK_CLUSTERS] {
                return Some(Watched {
                    block,
                    mapped: masks,
                    since: now,
                });
            }
        }
        None
    }

    /// `watched` is watched from now on. Returns how long to wait before the next one.
    pub fn watching(&mut self, watched: Watched) -> Duration {
        let pages: u32 = watched.mapped.iter().map(|mask| mask.count_ones()).sum();
        // No block is watched twice at a time: the later watch would cut the earlier one short.
        self.watched.retain(|other| other.block != watched.block);
        self.watched.push_back(watched);
        (FORGETTING + TRANSLATING * pages) * SHARE
    }

    /// A block that has been watched for long enough, and is so no more.
    pub fn due(&mut self, now: Instant) -> Option<Watched> {
        let oldest = self.watched.front()?;
        (now.saturating_duration_since(oldest.since) >= WINDOW)
            .then(|| self.watched.pop_front())
            .flatten()
    }
}

/// Cluster `index` (0 to 7) of `block`.
pub fn cluster(block: u64, index: usize) -> ClusterNo {
    ClusterNo(block * BLOCK_CLUSTERS as u64 + index as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_have_pages_are_watched_in_turn() {
        let mut rounds = Rounds::default();
        let now = Instant::now();
        let mapped = |cluster: ClusterNo| u64::from(cluster.block() != 1);
        let mut next = || rounds.next(3, mapped, now).map(|watched| watched.block);
        assert_eq!([next(), next(), next()], [Some(0), Some(2), Some(0)]);
        assert_eq!(Rounds::default().next(3, |_| 0, now), None);
    }

    #[test]
    fn a_block_is_due_when_it_has_been_watched_for_long_enough() {
        let mut rounds = Rounds::default();
        let now = Instant::now();
        let watched = rounds.next(1, |_| 7, now).unwrap();
        rounds.watching(watched);
        assert_eq!(rounds.due(now), None);
        assert_eq!(rounds.due(now + WINDOW), Some(watched));
        assert_eq!(rounds.due(now + WINDOW), None);
    }

    #[test]
    fn watching_takes_at_most_a_hundredth_of_the_time() {
        let mut rounds = Rounds::default();
        let watched = rounds.next(1, |_| u64::MAX, Instant::now()).unwrap();
        let pause = rounds.watching(watched);
        assert!(pause >= Duration::from_micros(512) * 100, "{pause:?}");
    }
}
