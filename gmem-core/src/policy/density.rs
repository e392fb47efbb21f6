//! Who leaves is of whom the fewest uses are to be expected for the memory that it takes.
//!
//! For each page 16 bits of its entry say when it was last known to be used, and after what interval
//! ([`History`](super::reuse)). They stay with it when it leaves, so that a page that comes back says how long it was
//! not used: what was not kept is learned about as well. Pages with alike intervals are a class, and the ages at which
//! a class was used again give what a page of that age is worth: a scan's pages nothing, a loop's the more the nearer
//! their turn, hot pages the most, until they are late.
//!
//! The hand goes round the table by address, so that victims lie together. A round takes about a sixteenth of what is
//! there: what is worth less than the level that it is below, and, of pages at that level, all of clusters drawn by lot.
//! In a tick a 32nd as many pages come in as are there.
//!
//! N. Beckmann, H. Chen, A. Cidon, "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI 2018; for how long
//! to keep, J. C. Gittins, "Bandit Processes and Dynamic Allocation Indices", 1979; for pages that are gone, the
//! refault distance of Linux, `mm/workingset.c`. docs/policy.md has more.

use super::marks::{RECENT, is_recent, may_leave, pardon_block};
use super::occupied::Occupied;
use super::reuse::{AGES, CLASSES, History, Reuse, step};
use super::{Eviction, Victims};
use crate::page::{BLOCK_CLUSTERS, ClusterNo, PageNo, runs};
use crate::table::{ClusterView, Entry, Flags, LogicalPageTable, Place, State, Word};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Levels of worth, four to an octave.
const LEVELS: usize = 64;
/// A round of the hand takes this part of what is there.
const ROUND: u32 = 16;
/// As many ticks pass while as many pages come in as are there.
const TURNOVER: u32 = 32;

/// Hit density.
#[derive(Debug)]
pub struct Density {
    hand: Mutex<Hand>,
    occupied: Occupied,
    reuse: Reuse,
    /// By class and age.
    levels: [[AtomicU8; AGES]; CLASSES],
    now: AtomicU32,
    /// Pages that came in since the latest tick, and that come in in one.
    arrivals: AtomicU32,
    tick: AtomicU32,
}

#[derive(Debug)]
struct Hand {
    cluster: u64,
    round: u32,
    /// Pages seen in this round, by level.
    seen: [u32; LEVELS],
    /// What is below it leaves, and of what is at it, a part of 256.
    level: usize,
    part: u32,
    ranked: u32,
}

impl Density {
    /// For an address space of `clusters`, of which about `pages` can be there at once.
    pub fn new(clusters: u64, pages: u64) -> Self {
        let density = Self {
            hand: Mutex::new(Hand {
                cluster: 0,
                round: 0,
                seen: [0; LEVELS],
                level: LEVELS - 1,
                part: 256 / ROUND,
                ranked: 0,
            }),
            occupied: Occupied::new(clusters),
            reuse: Reuse::default(),
            levels: [const { [const { AtomicU8::new(0) }; AGES] }; CLASSES],
            now: AtomicU32::new(0),
            arrivals: AtomicU32::new(0),
            tick: AtomicU32::new((pages as u32 / TURNOVER).max(1)),
        };
        density.rank();
        density
    }

    /// Bytes that it takes.
    pub fn metadata_bytes(&self) -> u64 {
        size_of::<Self>() as u64 + self.occupied.metadata_bytes()
    }

    fn level(&self, entry: Entry) -> usize {
        let page = History::unpack(entry.flags().history());
        let age = step(page.age(self.now.load(Relaxed)));
        self.levels[page.class()][age].load(Relaxed).into()
    }

    /// Works out anew what pages are worth.
    fn rank(&self) {
        self.reuse.fade();
        for (class, levels) in self.levels.iter().enumerate() {
            for (level, density) in levels.iter().zip(self.reuse.densities(class)) {
                let found = density.max(f32::MIN_POSITIVE).log2() * 4.0 + 56.0;
                level.store(found.clamp(0.0, LEVELS as f32 - 1.0) as u8, Relaxed);
            }
        }
    }

    /// The page was used, `interval` ticks after the use before.
    fn used(&self, page: History, interval: u32) -> History {
        let now = self.now.load(Relaxed);
        self.reuse.end(page, now);
        let page = page.used(now, interval);
        self.reuse.begin(page);
        page
    }

    fn returned(&self, page: History) -> History {
        let page = page.along(self.now.load(Relaxed));
        self.reuse.begin(page);
        page
    }

    fn arrived(&self, touched: bool) -> History {
        let page = History::new(self.now.load(Relaxed), touched);
        self.reuse.begin(page);
        page
    }

    /// Which pages of a cluster should leave; notes the uses of others.
    fn pick(
        &self,
        table: &LogicalPageTable,
        cluster: ClusterNo,
        words: &[Word],
        hand: &mut Hand,
        all: bool,
    ) -> u64 {
        let lot = (cluster.0 as u32 ^ hand.round.wrapping_mul(0x85eb_ca6b))
            .wrapping_mul(0x9e37_79b1)
            >> 24;
        let up_to = hand.level + usize::from(lot < hand.part);
        let (mut recent, mut mask) = (0, 0);
        for (index, word) in words.iter().enumerate() {
            let entry = word.peek();
            if !may_leave(entry) {
                continue;
            }
            let level = if is_recent(entry) {
                LEVELS - 1
            } else {
                self.level(entry)
            };
            hand.seen[level] += 1;
            if is_recent(entry) {
                recent |= 1 << index;
            } else if all || level < up_to {
                mask |= 1 << index;
            }
        }
        if recent != 0 {
            self.note(table, cluster, recent);
        }
        mask
    }

    /// Notes the uses of pages of which one is known.
    fn note(&self, table: &LogicalPageTable, cluster: ClusterNo, recent: u64) {
        let accept = |_, entry| may_leave(entry) && is_recent(entry);
        let Some(mut pages) = table.try_lock_pages(cluster, recent, accept) else {
            return;
        };
        for (first, length) in runs(pages.mask()) {
            for index in first..first + length {
                let entry = pages.entry(index);
                let page = History::unpack(entry.flags().history());
                let page = self.used(page, page.age(self.now.load(Relaxed)));
                let flags = entry.flags().without(RECENT).with_history(page.pack());
                pages.commit(index, entry.with_flags(flags));
            }
        }
    }
}

impl Hand {
    /// A round is done: decides what the next one takes, if anything was there.
    fn turn(&mut self) -> u32 {
        let there = self.seen.iter().sum::<u32>();
        let wanted = (there / ROUND).max(1);
        let mut below = 0;
        for (level, count) in self.seen.into_iter().enumerate() {
            if count > 0 && below + count >= wanted {
                (self.level, self.part) = (level, ((wanted - below) * 256 / count).max(1));
                break;
            }
            below += count;
        }
        self.seen = [0; LEVELS];
        self.round = self.round.wrapping_add(1);
        self.cluster = 0;
        there
    }
}

impl Eviction for Density {
    fn victims(&self, table: &LogicalPageTable) -> Option<Victims> {
        let mut hand = self.hand.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now.load(Relaxed);
        if now.wrapping_sub(hand.ranked) >= TURNOVER / 4 {
            hand.ranked = now;
            self.rank();
        }
        // The rest of this round, one for what is not known to be occupied and takes marks away, and one that takes any.
        let mut rounds = 0;
        loop {
            let Some(cluster) = self
                .occupied
                .next(hand.cluster)
                .filter(|at| *at < table.clusters())
            else {
                let there = hand.turn();
                if there > 0 {
                    self.tick.store((there / TURNOVER).max(1), Relaxed);
                }
                rounds += 1;
                if rounds > 3 {
                    return None;
                }
                // Now and then, because marks are lost in races, and pages come in by other ways.
                if rounds > 1 || hand.round.is_multiple_of(64) {
                    self.occupied.set_all();
                }
                continue;
            };
            let cluster = ClusterNo(cluster);
            hand.cluster = cluster.0 + 1;
            match table.view(cluster) {
                ClusterView::Whole(entry) => {
                    hand.cluster = (cluster.0 / BLOCK_CLUSTERS as u64 + 1) * BLOCK_CLUSTERS as u64;
                    if may_leave(entry) && !pardon_block(table, cluster.block(), entry) {
                        return Some(Victims::Block(cluster.block()));
                    }
                }
                ClusterView::Pages(words) => {
                    if !words
                        .iter()
                        .any(|word| word.peek().state() == State::Mapped)
                    {
                        self.occupied.clear(cluster.0);
                        continue;
                    }
                    let mask = self.pick(table, cluster, words, &mut hand, rounds == 3);
                    if mask != 0 {
                        return Some(Victims::Pages { cluster, mask });
                    }
                }
            }
        }
    }

    fn arrives(&self, page: PageNo, entry: Entry, touched: bool) -> Flags {
        self.occupied.set(ClusterNo::of(page).0);
        let flags = entry.flags().without(RECENT).with(Flags::DIRTY);
        let known = History::unpack(flags.history());
        let history = match entry.state() {
            // It was on its way out: its interval cannot be long.
            State::Held(Place {
                hnode: Place::RAM, ..
            }) if touched => self.used(known, 1),
            State::Held(Place {
                hnode: Place::RAM, ..
            }) => known,
            state => {
                if self.arrivals.fetch_add(1, Relaxed) + 1 >= self.tick.load(Relaxed) {
                    self.arrivals.store(0, Relaxed);
                    self.now.fetch_add(1, Relaxed);
                }
                match state {
                    State::Held(_) if touched => {
                        self.used(known, known.age(self.now.load(Relaxed)))
                    }
                    // What is known of it outlasts coming along.
                    State::Held(_) => self.returned(known),
                    _ => self.arrived(touched),
                }
            }
        };
        flags.with_history(history.pack())
    }
}

#[cfg(test)]
#[path = "density_tests.rs"]
mod tests;
