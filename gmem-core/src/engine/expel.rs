//! Pages leave the guest's reach: staged in the arena, whence a touch brings them back for the price of
//! a move.

use super::{Engine, FaultError};
use crate::mmu::Obstacle;
use crate::page::{BLOCK_PAGES, ClusterNo, PageNo, runs};
use crate::policy::Victims;
use crate::stats::{Site, Stats};
use crate::table::{Entry, Flags, Frame, Place, State};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is staged, in the order in which it left. Groups may be stale: their pages may have come back.
#[derive(Debug, Default)]
pub(super) struct Staged {
    groups: Mutex<VecDeque<Victims>>,
    pages: AtomicU64,
}

impl Staged {
    /// A group that waits to be passed on. Its pages are counted apart, before they are committed.
    pub(super) fn push(&self, group: Victims) {
        self.lock().push_back(group);
    }

    pub(super) fn pop(&self) -> Option<Victims> {
        self.lock().pop_front()
    }

    /// The group that came last: one that was just tried in vain, where the caller has tried the oldest.
    pub(super) fn pop_latest(&self) -> Option<Victims> {
        self.lock().pop_back()
    }

    /// Pages that are staged.
    pub(super) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Groups in the queue, stale ones included.
    pub(super) fn groups(&self) -> usize {
        self.lock().len()
    }

    /// Forgets the groups of which nothing is staged any more.
    fn forget(&self, stale: impl Fn(&Victims) -> bool) {
        self.lock().retain(|group| !stale(group));
    }

    /// `pages` more are staged.
    pub(super) fn more(&self, pages: usize) {
        self.pages.fetch_add(pages as u64, Ordering::Relaxed);
    }

    /// `pages` are no longer staged.
    pub(super) fn less(&self, pages: usize) {
        self.pages.fetch_sub(pages as u64, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Victims>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// More groups than there are slots to stage pages in: some are stale.
const MANY_GROUPS: usize = 1 << 15;

impl Engine {
    /// Takes victims out of the guest's reach, to be passed on in their turn; returns how many pages left.
    pub(super) fn expel(&self, victims: Victims) -> Result<usize, FaultError> {
        let (out, result) = self.take_out(victims);
        let Some(out) = out else {
            return result.map(|()| 0);
        };
        if self.staged.groups() >= MANY_GROUPS {
            self.staged.forget(|group| !self.is_staged(group));
        }
        self.staged.push(out);
        result.map(|()| match out {
            Victims::Pages { mask, .. } => mask.count_ones() as usize,
            Victims::Block(_) => BLOCK_PAGES,
        })
    }

    /// Takes victims out of the guest's reach; returns what is now staged of them, also after an error.
    pub(super) fn take_out(&self, victims: Victims) -> (Option<Victims>, Result<(), FaultError>) {
        match victims {
            Victims::Block(number) => match self.take_out_block(number) {
                Ok(out) => (out.then_some(victims), Ok(())),
                Err(error) => (None, Err(error)),
            },
            Victims::Pages { cluster, mask } => {
                let mut out = 0;
                let result = self.take_out_pages(cluster, mask, &mut out);
                let group = Victims::Pages { cluster, mask: out };
                ((out != 0).then_some(group), result)
            }
        }
    }

    /// Whether any of the group is staged at this moment.
    pub(super) fn is_staged(&self, group: &Victims) -> bool {
        let staged = |page| Self::site(self.table.peek(page).state()) == Site::Staged;
        match *group {
            Victims::Block(number) => staged(PageNo(number * BLOCK_PAGES as u64)),
            Victims::Pages { cluster, mask } => cluster.pages(mask).any(staged),
        }
    }

    fn take_out_pages(
        &self,
        cluster: ClusterNo,
        mask: u64,
        out: &mut u64,
    ) -> Result<(), FaultError> {
        let may_leave =
            |_, entry: Entry| entry.state() == State::Mapped && !entry.flags().has(Flags::PINNED);
        let Some(mut pages) = self.table.try_lock_pages(cluster, mask, may_leave) else {
            return Ok(());
        };
        for (first, length) in runs(pages.mask()) {
            let mut at = first;
            while at < first + length {
                let Some(empty) = self.arena.take_empty(first + length - at) else {
                    return Ok(());
                };
                let moved = self.leave(cluster.page(at), empty.address(), empty.pages());
                if let Some(frames) = empty.arrived(moved.pages) {
                    self.staged.more(moved.pages);
                    self.stats.moved(Site::Host, Site::Staged, moved.pages);
                    let slot = frames.keep();
                    for index in at..at + moved.pages {
                        let frame = Frame(slot.0 + (index - at) as u64);
                        let flags = pages.entry(index).flags();
                        pages.commit(index, Entry::held(Place::RAM, frame, flags));
                        *out |= 1 << index;
                    }
                }
                at += moved.pages;
                match moved.stopped {
                    None => {}
                    Some(Obstacle::Busy) => {
                        Stats::one(&self.stats.busy);
                        at += 1;
                    }
                    Some(obstacle) => {
                        return Err(FaultError::Mmu {
                            verb: "taken from the guest",
                            page: cluster.page(at),
                            obstacle,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}
