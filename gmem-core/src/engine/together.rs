//! Pages that lie apart leave together.
//!
//! Before a page has left the guest, every CPU that runs a thread of this process has forgotten its translation. Each run of
//! neighbours that is moved takes an interrupt for that. Here a whole stretch is protected against
//! writing at once, its victims are copied into the arena, and dropped at once: a few interrupts for as many as there are.
//! Pages between them that stay have to be entered into the guest's tables again when they are used next.
//!
//! Protection does not stop a device of the host, for which the kernel has pinned a page. The MMU knows of such requests, and
//! drops nothing then.
//!
//! Which costs less is measured, as the background thread goes.

use super::Engine;
use crate::page::{BLOCK_PAGES, CLUSTER_PAGES, ClusterNo, Unit, runs};
use crate::policy::Victims;
use crate::stats::Site;
use crate::table::{ClusterView, Entry, Flags, Frame, Pages, Place, State};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Fewer victims are moved.
const LEAST: usize = 32;
/// At most so many pages that stay for each that leaves.
const BYSTANDERS: usize = 5;
/// Of so many choices the first few try what is dearer: several, because the first time the arena's frames are cold.
const AGAIN: u64 = 512;
const TRIALS: u64 = 8;
/// Averages are over about so many samples.
const MEMORY: u64 = 8;
/// Groups of a stretch, which lies in one block.
const GROUPS: usize = BLOCK_PAGES / CLUSTER_PAGES;

/// What leaving costs, nanoseconds times [`MEMORY`]; 0 where it has not been tried.
#[derive(Debug, Default)]
pub(super) struct Together {
    /// A run that is moved.
    moving: AtomicU64,
    /// A page that is copied.
    copying: AtomicU64,
    choices: AtomicU64,
    impossible: AtomicBool,
}

impl Together {
    /// Whether so many pages, in so many runs, should rather be copied.
    fn is_better(&self, pages: usize, runs: usize) -> bool {
        let [moving, copying] = [&self.moving, &self.copying].map(|it| it.load(Ordering::Relaxed));
        let worth_it = pages as u64 * copying < runs as u64 * moving / 2;
        let trial = self.choices.fetch_add(1, Ordering::Relaxed) % AGAIN < TRIALS;
        worth_it != trial && !self.impossible.load(Ordering::Relaxed)
    }

    /// So many runs were moved.
    pub(super) fn moved(&self, runs: usize, taken: Duration) {
        average(&self.moving, runs, taken);
    }

    /// So many pages were copied.
    fn copied(&self, pages: usize, taken: Duration) {
        average(&self.copying, pages, taken);
    }
}

/// Counts what each of `count` took. One thread does so.
fn average(of: &AtomicU64, count: usize, taken: Duration) {
    let nanos = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
    let each = nanos / count.max(1) as u64;
    let now = match of.load(Ordering::Relaxed) {
        0 => each * MEMORY,
        before => before - before / MEMORY + each,
    };
    of.store(now, Ordering::Relaxed);
}

/// Groups of one block, in ascending order.
#[derive(Default)]
pub(super) struct Stretch(Vec<(ClusterNo, u64)>);

impl Stretch {
    /// The victims.
    pub(super) fn groups(&self) -> impl Iterator<Item = Victims> {
        let group = |&(cluster, mask): &_| Victims::Pages { cluster, mask };
        self.0.iter().map(group)
    }
}

impl Engine {
    /// Gathers groups of a block that should leave with `first`. With them comes the first group that does not belong there,
    /// which the policy has named too.
    pub(super) fn stretch(&self, first: Victims) -> (Stretch, Option<Victims>) {
        let mut stretch = Stretch::default();
        let mut next = Some(first);
        while let Some(group) = next {
            if stretch.0.len() == GROUPS || !self.belongs(group, &mut stretch) {
                break;
            }
            next = self.eviction.victims(&self.table);
        }
        (stretch, next)
    }

    /// Adds a group to a stretch, if it belongs there.
    fn belongs(&self, group: Victims, stretch: &mut Stretch) -> bool {
        let Victims::Pages { cluster, mask } = group else {
            return false;
        };
        let follows = stretch
            .0
            .last()
            .is_none_or(|(last, _)| *last < cluster && last.block() == cluster.block());
        if follows {
            stretch.0.push((cluster, mask));
        }
        follows
    }

    /// Whether a stretch should leave by being copied.
    fn copies_better(&self, stretch: &Stretch) -> bool {
        let (mut pages, mut gaps, mut mapped) = (0, 0, 0);
        for &(cluster, mask) in &stretch.0 {
            let ClusterView::Pages(words) = self.table.view(cluster) else {
                return false;
            };
            pages += mask.count_ones() as usize;
            gaps += runs(mask).count();
            let there = words.iter().filter(|it| it.peek().state() == State::Mapped);
            mapped += there.count();
        }
        let few_stay = mapped <= (1 + BYSTANDERS) * pages;
        self.unit == Unit::Page
            && pages >= LEAST
            && few_stay
            && self.together.is_better(pages, gaps)
    }

    /// Takes the victims of a stretch out of the guest's reach, to be passed on in their turn; returns how many left. 0 if they
    /// have to be moved.
    pub(super) fn leave_together(&self, stretch: &Stretch) -> usize {
        let start = Instant::now();
        if !self.copies_better(stretch) {
            return 0;
        }
        // Without accelerators nobody else protects pages, or has copies of them. They cannot be attached meanwhile.
        let Some(_unshared) = self.unshared() else {
            return 0;
        };
        let may_leave =
            |_, entry: Entry| entry.state() == State::Mapped && !entry.flags().has(Flags::PINNED);
        let lock = |&(cluster, mask): &_| self.table.try_lock_pages(cluster, mask, may_leave);
        let mut held: Vec<Pages<'_>> = stretch.0.iter().filter_map(lock).collect();
        let (Some(first), Some(last)) = (held.first(), held.last()) else {
            return 0;
        };
        let first = first.cluster().page(first.mask().trailing_zeros() as usize);
        let end = last
            .cluster()
            .page(CLUSTER_PAGES - last.mask().leading_zeros() as usize);
        let span = (end.0 - first.0) as usize;
        let protected = self.beneath.protect(first, span);
        let groups = if protected {
            self.copy_and_drop(&mut held)
        } else {
            Vec::new()
        };
        self.beneath.unprotect(first, span);
        drop(held);
        // Who wrote meanwhile, to a page that stays or to one that has left, tries again.
        self.beneath.wake(first, span);
        if !protected {
            self.together.impossible.store(true, Ordering::Relaxed);
        }
        let mut left = 0;
        for (cluster, mask) in groups {
            left += mask.count_ones() as usize;
            self.staged.push(Victims::Pages { cluster, mask });
        }
        // In vain, it was dear.
        self.together.copied(left.max(1), start.elapsed());
        left
    }

    /// Copies protected pages into frames of the arena, as many as there are, drops them, and commits them as staged; returns
    /// which, by clusters.
    fn copy_and_drop(&self, held: &mut [Pages<'_>]) -> Vec<(ClusterNo, u64)> {
        let (mut copies, mut ranges) = (Vec::new(), Vec::new());
        // Faults go on meanwhile, and want frames too.
        let mut most = usize::try_from(self.arena.available() / 2).unwrap_or(usize::MAX);
        for (group, pages) in held.iter().enumerate() {
            for (at, length) in runs(pages.mask()) {
                let wanted = length.min(most);
                let Some(mut frames) = (wanted > 0).then(|| self.arena.take(wanted)).flatten()
                else {
                    break;
                };
                most -= frames.pages();
                let first = pages.cluster().page(at);
                if self.beneath.read(first, frames.bytes_mut()) {
                    ranges.push((first, frames.pages()));
                    copies.push((group, at, frames));
                }
            }
        }
        let dropped = self.beneath.discard(&ranges);
        let mut out: Vec<_> = held.iter().map(|pages| (pages.cluster(), 0)).collect();
        for (group, at, frames) in copies.into_iter().take(dropped) {
            let count = frames.pages();
            self.arena.dropped(count as u64);
            self.staged.more(count);
            self.stats.moved(Site::Host, Site::Staged, count);
            let slot = frames.keep();
            for i in 0..count {
                let flags = held[group].entry(at + i).flags();
                let frame = Frame(slot.0 + i as u64);
                held[group].commit(at + i, Entry::held(Place::RAM, frame, flags));
                out[group].1 |= 1 << (at + i);
            }
        }
        out.retain(|(_, mask)| *mask != 0);
        out
    }
}
