//! Pages leave the guest's reach: staged in the arena, whence a touch brings them back for the price of
//! a move.

use super::{Engine, FaultError};
use crate::mmu::Obstacle;
use crate::page::{ClusterNo, runs};
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
    pub(super) fn push(&self, group: Victims, pages: usize) {
        self.pages.fetch_add(pages as u64, Ordering::Relaxed);
        self.lock().push_back(group);
    }

    /// Puts back what could not be passed on.
    pub(super) fn put_back(&self, group: Victims) {
        self.lock().push_front(group);
    }

    pub(super) fn pop(&self) -> Option<Victims> {
        self.lock().pop_front()
    }

    /// Pages that are staged.
    pub(super) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Groups in the queue, stale ones included.
    pub(super) fn groups(&self) -> usize {
        self.lock().len()
    }

    /// `pages` are no longer staged.
    pub(super) fn less(&self, pages: usize) {
        self.pages.fetch_sub(pages as u64, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Victims>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Takes victims out of the guest's reach; returns how many pages left.
    pub(super) fn expel(&self, victims: Victims) -> Result<usize, FaultError> {
        match victims {
            Victims::Block(number) => self.expel_block(number),
            Victims::Pages { cluster, mask } => {
                let mut out = 0;
                let result = self.expel_pages(cluster, mask, &mut out);
                let count = out.count_ones() as usize;
                if count > 0 {
                    self.staged
                        .push(Victims::Pages { cluster, mask: out }, count);
                    self.stats.moved(Site::Host, Site::Staged, count);
                }
                result.map(|()| count)
            }
        }
    }

    fn expel_pages(&self, cluster: ClusterNo, mask: u64, out: &mut u64) -> Result<(), FaultError> {
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
                let moved = self
                    .mmu
                    .unmap(cluster.page(at), empty.address(), empty.pages());
                if let Some(frames) = empty.arrived(moved.pages) {
                    let slot = frames.keep();
                    for index in at..at + moved.pages {
                        let frame = Frame(slot.0 + (index - at) as u64);
                        pages.commit(
                            index,
                            Entry::held(Place::RAM, frame, pages.entry(index).flags()),
                        );
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
