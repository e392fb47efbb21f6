//! Areas that are visited densely, in whatever order: an array at random, a hash table, the arena of a tree.
//!
//! Over the 512 pages of a block lies a binary tree. A fault that belongs to no stream is noted in it, and expands to the
//! largest subtree of which many pages have faulted lately, within its 64 neighbours. NVIDIA's driver does so for its GPUs
//! by how much of a subtree is resident (T. Allen, R. Ge, "In-Depth Analyses of Unified Virtual Memory System for GPU
//! Accelerated Computing", SC 2021). Where memory holds half of the pages every subtree is half resident: here only faults
//! are evidence, and only for as long as little of memory has been replaced.
//!
//! Density does not foretell by itself that an area goes on being visited. So one page of each expansion, chosen at random,
//! is left out as a *probe*: the others were worth bringing in as often as probes fault before long. A mark of use is not
//! needed for that. Other probes are pages of areas that are not dense. If all faults are unpredictable the former fault as
//! rarely as the latter. Then nothing comes along, and probing, which costs nothing, goes on.
//!
//! Time is counted in pages that came in, so that who brings in much has to be right sooner.

use super::{Plan, Prefetch};
use crate::page::{BLOCK_CLUSTERS as CLUSTERS, CLUSTER_PAGES, ClusterNo, PageNo, bits};
use std::ops::Range;

/// Areas that are known at a time: sets of blocks, and blocks of a set.
const SETS: usize = 32;
const WAYS: usize = 8;
/// Pages of the smallest subtree.
const LEAF: usize = 8;
/// How many pages of a subtree of 8, 16, ... 512 pages have to fault lately for it to be dense.
const DENSE: [u32; 7] = [4, 5, 7, 10, 16, 26, 48];
/// As many pages come in during a generation as this part of memory. Lately: in this generation and the one before.
const GENERATION: u64 = 32;
/// A probe has to fault before as many pages come in as this part of memory. Of pages touched evenly so many fault at most.
const HORIZON: u64 = 16;
/// Probes on their way.
const PROBES: usize = 256;
/// Of faults that are not dense one in so many sends a probe.
const SELDOM: u64 = 4;
/// Probes of a kind after which older ones count half, and below which nothing is believed.
const MEMORY: u32 = 256;
const ENOUGH: u32 = 32;
/// One probe in so many has to fault, at least.
const WORTH: u32 = 8;
/// And this many times as often as probes elsewhere, or one in so many.
const TIMES: u32 = 3;
const SURE: u32 = 2;

/// Pages of a block: a mask of each cluster.
type Pages = [u64; CLUSTERS];

/// A block, and which of its pages faulted.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Area {
    /// The block's number and 1; 0 if there is none.
    block: u64,
    generation: u64,
    touched_at: u64,
    /// How many pages had faulted lately when the latest one did: all that is looked at to find or forget a block lies in
    /// one line of the cache.
    count: u32,
    /// Clusters of which pages were brought in, in this generation and the one before.
    expanded: [u8; 2],
    /// Faulted in this generation, and in the one before.
    now: Pages,
    before: Pages,
}

/// A page whose fault is waited for.
#[derive(Clone, Copy, Debug, Default)]
struct Probe {
    /// The page's number and 1; 0 if there is none.
    page: u64,
    until: u64,
    kind: Kind,
}

/// Where a probe is.
#[derive(Clone, Copy, Debug, Default)]
enum Kind {
    /// In what a fault expands to.
    #[default]
    Dense,
    /// In a cluster that is not dense.
    Other,
}

/// How many probes of a kind were sent, and how many of them faulted in time.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    sent: u32,
    hits: u32,
}

/// Density trees of one accessor.
#[derive(Debug)]
pub struct Tree {
    areas: Box<[[Area; WAYS]; SETS]>,
    probes: Box<[Probe; PROBES]>,
    /// By kind.
    scores: [Score; 2],
    /// Pages that memory has room for.
    room: u64,
    /// Pages that came in.
    now: u64,
    random: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            areas: Box::new([[Area::default(); WAYS]; SETS]),
            probes: Box::new([Probe::default(); PROBES]),
            scores: Default::default(),
            room: 0,
            now: 0,
            random: 1,
        }
    }
}

impl Area {
    fn age(&mut self, generation: u64) {
        let (now, expanded) = match generation.wrapping_sub(self.generation) {
            0 => return,
            1 => (self.now, self.expanded[0]),
            _ => (Pages::default(), 0),
        };
        (self.before, self.expanded) = (now, [0, expanded]);
        (self.now, self.generation) = (Pages::default(), generation);
    }

    /// Pages of a cluster of it that faulted lately.
    fn lately(&self, cluster: usize) -> u64 {
        self.now[cluster] | self.before[cluster]
    }

    fn count(&self, clusters: Range<usize>) -> u32 {
        clusters.map(|it| self.lately(it).count_ones()).sum()
    }

    fn is_expanded(&self, cluster: usize) -> bool {
        (self.expanded[0] | self.expanded[1]) & 1 << cluster != 0
    }

    /// Those pages of a cluster that lie in the largest dense subtree around page `index` of it.
    fn dense(&self, cluster: usize, index: usize) -> u64 {
        let faulted = |level: usize| {
            let size = LEAF << level;
            if size <= CLUSTER_PAGES {
                let mask = bits(index & !(size - 1), size);
                return (mask, (self.lately(cluster) & mask).count_ones());
            }
            let clusters = size / CLUSTER_PAGES;
            let first = cluster & !(clusters - 1);
            (u64::MAX, self.count(first..first + clusters))
        };
        let levels = DENSE.iter().enumerate().rev();
        let mut subtrees = levels.map(|(level, least)| (faulted(level), least));
        subtrees
            .find(|((_, count), least)| count >= least)
            .map_or(0, |((mask, _), _)| mask)
    }
}

impl Score {
    fn sent(&mut self) {
        if self.sent == MEMORY {
            (self.sent, self.hits) = (self.sent / 2, self.hits / 2);
        }
        self.sent += 1;
    }
}

impl Tree {
    /// What is known of `block`, which may be nothing. Who is forgotten for it was not dense, or is least so.
    fn area(&mut self, block: u64, generation: u64) -> &mut Area {
        let set = &mut self.areas[block as usize % SETS];
        let known = set.iter().position(|area| area.block == block + 1);
        let at = known.unwrap_or_else(|| {
            let worth = |at: &usize| {
                let area = &set[*at];
                let fresh = area.generation + 1 >= generation;
                let count = if fresh { area.count } else { 0 };
                // One fault more or less says nothing.
                (count / 2, area.touched_at)
            };
            let least = (0..WAYS).min_by_key(worth).unwrap_or(0);
            set[least] = Area {
                block: block + 1,
                generation,
                ..Area::default()
            };
            least
        });
        set[at].age(generation);
        set[at].touched_at = self.now;
        &mut set[at]
    }

    fn slot(&mut self, page: PageNo) -> &mut Probe {
        let hash = page.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &mut self.probes[hash as usize % PROBES]
    }

    /// Waits for `page` to fault, unless too much is waited for already.
    fn probe(&mut self, page: PageNo, kind: Kind) {
        let (now, until) = (self.now, self.now + self.room / HORIZON);
        let slot = self.slot(page);
        if slot.page == 0 || slot.until < now {
            let page = page.0 + 1;
            *slot = Probe { page, until, kind };
            self.scores[kind as usize].sent();
        }
    }

    /// `page` is waited for no more: it faults, or comes along so that nobody can tell.
    fn answer(&mut self, page: PageNo, faults: bool) {
        let now = self.now;
        let slot = self.slot(page);
        if slot.page != page.0 + 1 {
            return;
        }
        let (in_time, kind) = (now <= slot.until, slot.kind);
        slot.page = 0;
        let score = &mut self.scores[kind as usize];
        match (faults, in_time) {
            (true, true) => score.hits += 1,
            (false, true) => score.sent = score.sent.saturating_sub(1),
            _ => {}
        }
    }

    /// Whether dense areas go on being visited.
    fn believed(&self) -> bool {
        let [dense, others] = self.scores;
        dense.sent >= ENOUGH
            && dense.hits * WORTH >= dense.sent
            && (dense.hits * SURE >= dense.sent
                || dense.hits * others.sent >= TIMES * others.hits * dense.sent)
    }

    /// The index of one page of a mask that is not 0.
    fn any_of(&mut self, mut mask: u64) -> usize {
        self.random = self
            .random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        for _ in 0..(self.random >> 33) % u64::from(mask.count_ones().max(1)) {
            mask &= mask - 1;
        }
        mask.trailing_zeros() as usize
    }
}

impl Prefetch for Tree {
    fn room(&mut self, pages: u64) {
        self.room = pages;
    }

    fn plan(&mut self, touched: PageNo, plan: &mut Plan) {
        self.now += 1;
        self.answer(touched, true);
        let generation = self.now / (self.room / GENERATION).max(1);
        let (number, index) = (ClusterNo::of(touched), ClusterNo::index(touched));
        let cluster = number.0 as usize % CLUSTERS;
        let area = self.area(touched.block(), generation);
        area.now[cluster] |= 1 << index;
        area.count = area.count(0..CLUSTERS);
        if area.is_expanded(cluster) {
            return;
        }
        let (dense, others) = (area.dense(cluster, index), !area.lately(cluster));
        let wanted = dense & others;
        if dense == 0 && others != 0 && self.now.is_multiple_of(SELDOM) {
            let probe = self.any_of(others);
            self.probe(number.page(probe), Kind::Other);
        }
        if wanted == 0 {
            return;
        }
        let probe = self.any_of(wanted);
        let believed = self.believed();
        self.probe(number.page(probe), Kind::Dense);
        if !believed {
            return;
        }
        self.area(touched.block(), generation).expanded[0] |= 1 << cluster;
        for page in number.pages(wanted & !(1 << probe)) {
            self.answer(page, false);
            plan.add(page);
        }
    }

    fn brought(&mut self, pages: u64) {
        self.now += pages;
    }

    fn take_used(&mut self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests;
