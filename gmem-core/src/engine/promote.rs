//! Pages become blocks: 512 small frames beneath the guest become one of 2 MiB, which costs one entry of an accessor's
//! tables and one miss of its TLB in place of 512.
//!
//! The background thread looks for blocks when it has nothing else to do. A block is worth it that is all beneath the
//! guest, and was so for a while: nothing came to it from anywhere but the arena. Pages that were staged and came back at a touch
//! have proved that they are used. While pages are evicted, "a while" is two turns of the policy's hand: each page
//! was offered, and stayed or came back.

use super::block::mapped_block;
use super::{Engine, FaultError};
use crate::mmu::Promoted;
use crate::page::{BLOCK_CLUSTERS, BLOCK_PAGES, PageNo, Unit};
use crate::policy::hotness::cluster;
use crate::stats::{Site, Stats};
use crate::table::{ClusterView, Entry, Flags, State};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a block stays full before it is promoted, at least.
const STAYED: Duration = Duration::from_secs(1);
/// The same, in turns of the policy's hand, where pages are evicted meanwhile.
const TURNS: u64 = 2;
/// Promotions take at most one part in so many of the time: the kernel lets nobody fault while it copies.
const SHARE: u32 = 10;
/// What passes for longer is the kernel's waiting for other threads, which holds nobody up.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);
/// How often a block that was staged whole comes back whole at a touch. Then its pages count one by one again, so that
/// those of them that are cold can leave: its touches do not tell whether it is hot all over.
const RESCUES: u32 = 4;
/// Blocks that are looked at in a row.
const LOOK: u64 = 64;
/// How long to wait where nothing is to be done.
const IDLE: Duration = Duration::from_millis(100);

/// Which blocks may become one frame.
#[derive(Debug)]
pub(super) struct Promotion {
    /// For each block, how often pages came to it from elsewhere than the arena.
    arrivals: Box<[AtomicU32]>,
    /// For each block, how often it came back whole.
    rescues: Box<[AtomicU32]>,
    search: Mutex<Search>,
    /// The host cannot do it: it is not tried again.
    refused: AtomicBool,
}

#[derive(Debug, Default)]
struct Search {
    next: u64,
    full: HashMap<u64, Full>,
    not_before: Option<Instant>,
}

/// How things stood when a block was first seen to be full.
#[derive(Clone, Copy, Debug)]
struct Full {
    since: Instant,
    arrivals: u32,
    evicted: u64,
    turns: u64,
}

impl Full {
    /// Whether a block has stayed as it was from then until `now`, for long enough.
    fn has_lasted(&self, now: &Self) -> bool {
        now.since.saturating_duration_since(self.since) >= STAYED
            && (now.evicted == self.evicted || now.turns >= self.turns + TURNS)
    }
}

impl Promotion {
    /// For a table of so many blocks.
    pub(super) fn new(blocks: u64) -> Self {
        Self {
            arrivals: (0..blocks).map(|_| AtomicU32::new(0)).collect(),
            rescues: (0..blocks).map(|_| AtomicU32::new(0)).collect(),
            search: Mutex::default(),
            refused: AtomicBool::new(false),
        }
    }

    /// Pages came to the block of `page` from elsewhere than the arena.
    pub(super) fn arrived(&self, page: PageNo) {
        if let Some(arrivals) = self.arrivals.get(page.block() as usize) {
            arrivals.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn arrivals(&self, block: u64) -> u32 {
        let arrivals = self.arrivals.get(block as usize);
        arrivals.map_or(0, |arrivals| arrivals.load(Ordering::Relaxed))
    }

    /// A block came back whole; returns whether its pages should count one by one from now on.
    pub(super) fn rescued(&self, block: u64) -> bool {
        let Some(rescues) = self.rescues.get(block as usize) else {
            return false;
        };
        (rescues.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(RESCUES)
    }

    /// Memory that it takes, bytes.
    pub(super) fn metadata_bytes(&self) -> u64 {
        (size_of_val(&*self.arrivals) + size_of_val(&*self.rescues)) as u64
    }
}

impl Engine {
    /// Promotes a block, if one has stayed full for long enough; returns how long to wait before the next call.
    pub(super) fn promote_next(&self) -> Result<Duration, FaultError> {
        if self.unit == Unit::Block || self.promotion.refused.load(Ordering::Relaxed) {
            return Ok(IDLE);
        }
        let search = &self.promotion.search;
        let mut search = search.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        if let Some(wait) = search.not_before
            && wait > begun
        {
            return Ok((wait - begun).min(IDLE));
        }
        let Some(block) = self.lasting_block(&mut search, begun) else {
            return Ok(IDLE);
        };
        if self.arena.has_free_block() || self.has_room_to_promote()? {
            self.promote_if_full(block)?;
        }
        let pause = (begun.elapsed() * SHARE).min(LONGEST_PAUSE);
        search.not_before = Some(begun + pause);
        Ok(pause.min(IDLE))
    }

    /// The next block that has stayed full for long enough, of some that are looked at.
    fn lasting_block(&self, search: &mut Search, now: Instant) -> Option<u64> {
        let blocks = self.table.blocks();
        let (evicted, turns) = (
            self.stats.flow(Site::Host, Site::Staged),
            self.eviction.turns(),
        );
        for _ in 0..blocks.min(LOOK) {
            let block = search.next % blocks;
            search.next = block + 1;
            let state = Full {
                since: now,
                arrivals: self.promotion.arrivals(block),
                evicted,
                turns,
            };
            let before = search.full.get(&block);
            if !self.is_full(block) {
                // What is staged may come back, and count as having been there.
                if before.is_some_and(|before| before.arrivals != state.arrivals) {
                    search.full.remove(&block);
                }
                continue;
            }
            match before {
                Some(before) if before.arrivals == state.arrivals => {
                    if before.has_lasted(&state) {
                        search.full.remove(&block);
                        return Some(block);
                    }
                }
                _ => {
                    search.full.insert(block, state);
                }
            }
        }
        None
    }

    /// Whether all pages of a block are beneath the guest, one by one, in one range of RAM.
    fn is_full(&self, block: u64) -> bool {
        let (start, end) = (block * BLOCK_PAGES as u64, (block + 1) * BLOCK_PAGES as u64);
        let within = self
            .ram
            .iter()
            .any(|ram| ram.start.0 <= start && end <= ram.end().0);
        within
            && (0..BLOCK_CLUSTERS).all(|index| match self.table.view(cluster(block, index)) {
                ClusterView::Whole(_) => false,
                ClusterView::Pages(words) => words.iter().all(|word| is_promotable(word.peek())),
            })
    }

    /// Whether there are frames enough for the bytes to be in two places for a moment; makes room otherwise, a little each
    /// time.
    fn has_room_to_promote(&self) -> Result<bool, FaultError> {
        let enough = BLOCK_PAGES as u64 + self.low_watermark();
        if self.arena.available() < enough {
            self.make_more_room(enough)?;
        }
        Ok(self.arena.available() >= enough)
    }

    /// Makes one frame of the block of `page`, if all its pages are beneath the guest, one by one; returns whether it did.
    /// Not where it is locked, pinned or shared with an accelerator, there is no room for the moment in which the bytes
    /// are in two places, or the host cannot.
    pub fn promote(&self, page: PageNo) -> Result<bool, FaultError> {
        let _passing = self.gate.pass();
        if self.unit == Unit::Block || !self.is_full(page.block()) {
            return Ok(false);
        }
        self.promote_if_full(page.block())
    }

    fn promote_if_full(&self, block: u64) -> Result<bool, FaultError> {
        let Some(leaf) = self.table.try_lock_leaf(block) else {
            return Ok(false);
        };
        if !(0..BLOCK_PAGES).all(|index| is_promotable(leaf.entry(index)))
            || self.is_shared(leaf.start())
        {
            return Ok(false);
        }
        let Some(leaf) = self.recycle_into(leaf)? else {
            Stats::one(&self.stats.promotions);
            return Ok(true);
        };
        // Freed again as soon as the bytes are in the new frame: so many small ones are gone then.
        let Some(_leave) = self.arena.leave_to_create(BLOCK_PAGES) else {
            return Ok(false);
        };
        match self.beneath.promote(leaf.start()) {
            Promoted::Done => {
                leaf.collapse(mapped_block());
                Stats::one(&self.stats.promotions);
                self.keep_block_frames();
                return Ok(true);
            }
            Promoted::NotNow => Stats::one(&self.stats.busy),
            // Of a host that has done it before, this block is meant.
            Promoted::NotOffered => {
                if self.stats.promotions.load(Ordering::Relaxed) == 0 {
                    self.promotion.refused.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(false)
    }

    /// Whether an accelerator has something of a block.
    fn is_shared(&self, start: PageNo) -> bool {
        (0..BLOCK_CLUSTERS).any(|index| {
            let cluster = cluster(start.block(), index);
            self.sharing.copied(cluster) | self.sharing.remote(cluster) != 0
        })
    }
}

fn is_promotable(entry: Entry) -> bool {
    entry.state() == State::Mapped && !entry.flags().has(Flags::PINNED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_lasted_after_a_while_and_two_turns_of_the_hand_if_it_moves() {
        let first = Full {
            since: Instant::now(),
            arrivals: 0,
            evicted: 5,
            turns: 7,
        };
        let later = |since, evicted, turns| Full {
            since: first.since + since,
            arrivals: 0,
            evicted,
            turns,
        };
        assert!(!first.has_lasted(&later(STAYED / 2, 5, 7)));
        assert!(first.has_lasted(&later(STAYED, 5, 7)), "nothing is evicted");
        assert!(!first.has_lasted(&later(STAYED, 6, 8)));
        assert!(first.has_lasted(&later(STAYED, 6, 9)));
    }
}
