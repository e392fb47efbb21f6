//! Pages that the guest gives back: their frames are freed wherever they are, and they read as zeros.
//!
//! A page beneath the guest leaves it as a victim does, by a move into an empty slot, so that no accessor
//! reaches it when it is committed; but nothing is passed on, its frame is free at once. The move is not
//! spared: pages dropped where they lie would, out of a huge frame, leave that frame whole, existing but no
//! longer counted. Frames go back to the kernel, except for the few that are wanted when free ones are short.

use super::{Engine, FaultError};
use crate::hnode::ram::Frames;
use crate::mmu::Obstacle;
use crate::page::{BLOCK_PAGES, CLUSTER_PAGES, ClusterNo, PageNo, PageRange, Unit, bits, runs};
use crate::stats::Site;
use crate::table::lock::Atomic;
use crate::table::{Block, Entry, Flags, Frame, Guard, Pages, Place, State};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long pages that the kernel calls busy are tried again, in all.
const BUSY_LIMIT: Duration = Duration::from_millis(100);

const UNTOUCHED: Entry = Entry::new(State::Untouched, Flags::NONE);

/// What became of pages that were given back. The others of the range held nothing before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Pages whose frame, wherever it was, is free.
    pub pages: u64,
    /// Pages that stayed as they were because they are pinned ([`Engine::set_pinned`]).
    pub pinned: u64,
    /// Pages that stayed as they were because the kernel would not move them: a device reads or writes
    /// them directly, and went on for longer than is worth waiting.
    pub busy: u64,
}

/// Why pages were not freed. Each page of the range is as it was, or free.
#[derive(Debug, thiserror::Error)]
pub enum FreeError {
    /// Some of the range is not guest RAM; nothing was freed.
    #[error("{pages} pages from {start} are not all guest RAM; only RAM can be given back")]
    NotRam {
        /// First page of the range.
        start: PageNo,
        /// Its length.
        pages: u64,
    },
    /// The microVM cannot go on.
    #[error(transparent)]
    Failed(#[from] FaultError),
}

/// With pages that are busy.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
    attempt: u32,
}

impl Patience {
    /// Gives way, unless that was done long enough.
    fn is_over(&mut self) -> bool {
        let since = self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= BUSY_LIMIT {
            return true;
        }
        AtomicU64::give_way(self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        false
    }
}

impl Engine {
    /// Frees the pages of `range`: they read as zeros until they are written again, and what held them is
    /// free for others. A block that is whole goes whole if `range` holds all of it, and is split otherwise.
    ///
    /// Waits for a page that another migration holds, as a fault does. An access that races with this finds
    /// the page as it was, or zeros.
    pub fn free(&self, range: PageRange) -> Result<Freed, FreeError> {
        if !self.is_all_ram(range) {
            return Err(FreeError::NotRam {
                start: range.start,
                pages: range.pages,
            });
        }
        let mut freed = Freed::default();
        let mut patience = Patience::default();
        let mut result = Ok(());
        let mut page = range.start;
        while page < range.end() && result.is_ok() {
            let end = page.block_start().add(BLOCK_PAGES as u64).min(range.end());
            // The gate is passed block by block: who wants to close it does not wait for gigabytes.
            let _passing = self.gate.pass();
            result = self.free_in_block(
                PageRange::new(page, end.0 - page.0),
                &mut freed,
                &mut patience,
            );
            page = end;
        }
        let pages = &self.stats.freed;
        pages.fetch_add(freed.pages, Ordering::Relaxed);
        if self.stalls().waiting > 0 {
            self.wake_background();
        }
        result.map(|()| freed)
    }

    fn is_all_ram(&self, range: PageRange) -> bool {
        let within = |ram: &PageRange| {
            ram.contains(range.start) && range.pages <= ram.end().0 - range.start.0
        };
        range.pages == 0 || self.ram.iter().any(within)
    }

    /// Frees pages of one block.
    fn free_in_block(
        &self,
        range: PageRange,
        freed: &mut Freed,
        patience: &mut Patience,
    ) -> Result<(), FreeError> {
        loop {
            let block = match self.table.lock(range.start) {
                Guard::Block(block) => block,
                Guard::Pages(pages) => {
                    drop(pages);
                    if self.free_pages(range, freed, patience)? {
                        return Ok(());
                    }
                    // It has become whole meanwhile.
                    continue;
                }
            };
            let entry = block.entry();
            match entry.state() {
                State::Untouched => return Ok(()),
                _ if entry.flags().has(Flags::PINNED) => {
                    freed.pinned += range.pages;
                    return Ok(());
                }
                _ if range.pages == BLOCK_PAGES as u64 => {
                    if self.free_block(block)? {
                        freed.pages += range.pages;
                        return Ok(());
                    }
                    if patience.is_over() {
                        freed.busy += range.pages;
                        return Ok(());
                    }
                }
                // A staged block lies in one frame of 2 MiB: it cannot be split there.
                State::Held(Place {
                    hnode: Place::RAM, ..
                }) => {
                    self.bring_block(block)?;
                }
                _ => self.split(block),
            }
        }
    }

    /// Frees a block that is whole; false if it is busy, or there is no slot for it at this moment.
    fn free_block(&self, block: Block<'_>) -> Result<bool, FaultError> {
        let _turning = self.turning.begin();
        let from = Self::site(block.entry().state());
        let frames = match block.entry().state() {
            State::Mapped => {
                let empty = self.arena.take_empty_to_free(1, Unit::Block);
                let taken = empty.map(|empty| self.unmap_block(&block, empty));
                let Some(frames) = taken.transpose()?.flatten() else {
                    return Ok(false);
                };
                frames
            }
            State::Held(Place {
                hnode: Place::RAM,
                frame,
            }) => {
                self.staged.less(BLOCK_PAGES);
                self.arena.kept(frame, BLOCK_PAGES, Unit::Block)
            }
            State::Held(place) => {
                block.commit(UNTOUCHED);
                self.tier(place.hnode).free(place.frame, Unit::Block);
                self.stats.moved(from, Site::Zero, BLOCK_PAGES);
                return Ok(true);
            }
            _ => return Ok(true),
        };
        block.commit(UNTOUCHED);
        self.stats.moved(from, Site::Zero, BLOCK_PAGES);
        self.let_go(frames);
        Ok(true)
    }

    /// Frees pages of a block that is split; false if it becomes whole meanwhile.
    fn free_pages(
        &self,
        range: PageRange,
        freed: &mut Freed,
        patience: &mut Patience,
    ) -> Result<bool, FaultError> {
        let mut page = range.start;
        while page < range.end() {
            let (cluster, first) = (ClusterNo::of(page), ClusterNo::index(page));
            let length = (CLUSTER_PAGES - first).min((range.end().0 - page.0) as usize);
            let mut left = bits(first, length);
            while let Some(wanted) = self.holds_something(cluster, left) {
                // Waits for one page, holding nothing; the others are tried.
                let wait_for = cluster.page(wanted.trailing_zeros() as usize);
                let Guard::Pages(mut pages) = self.table.lock(wait_for) else {
                    return Ok(false);
                };
                pages.try_add(wanted, |_, _| true);
                let held = pages.mask();
                let busy = self.free_held(pages, freed)?;
                left = wanted & !(held & !busy);
                if busy != 0 && patience.is_over() {
                    freed.busy += u64::from(busy.count_ones());
                    left &= !busy;
                }
            }
            page = page.add(length as u64);
        }
        Ok(true)
    }

    /// Those pages in `mask` that are not untouched, or may be no longer: one that somebody brings is within the guest's
    /// reach before its entry says so.
    fn holds_something(&self, cluster: ClusterNo, mask: u64) -> Option<u64> {
        let mut found = 0;
        let untouched = |entry: Entry| entry.state() == State::Untouched;
        for page in cluster.pages(mask) {
            if !self.table.settled(page).is_some_and(untouched) {
                found |= 1 << ClusterNo::index(page);
            }
        }
        (found != 0).then_some(found)
    }

    /// Frees the pages that are held; returns which of them stay because they are busy, or because there
    /// is no slot for them at this moment.
    fn free_held(&self, mut pages: Pages<'_>, freed: &mut Freed) -> Result<u64, FaultError> {
        let _turning = self.turning.begin();
        for (first, length) in runs(pages.mask()) {
            for index in first..first + length {
                if !pages.entry(index).flags().has(Flags::PINNED) {
                    self.collapse(pages.cluster().page(index), 1, None);
                }
            }
        }
        let mut busy = 0;
        while let Some((at, length)) = runs(pages.mask()).next() {
            let entry = pages.entry(at);
            let alike = |test: &dyn Fn(usize, Entry) -> bool| {
                let like = |i: &usize| {
                    let entry = pages.entry(at + i);
                    !entry.flags().has(Flags::PINNED) && test(*i, entry)
                };
                (0..length).take_while(like).count()
            };
            match entry.state() {
                State::Untouched => pages.release(1 << at),
                _ if entry.flags().has(Flags::PINNED) => {
                    freed.pinned += 1;
                    pages.release(1 << at);
                }
                State::Mapped => {
                    let count = alike(&|_, entry| entry.state() == State::Mapped);
                    let (moved, stays) = self.free_mapped(&mut pages, at, count)?;
                    freed.pages += moved as u64;
                    busy |= stays;
                    pages.release(stays);
                }
                State::Held(Place {
                    hnode: Place::RAM,
                    frame,
                }) => {
                    let next = |i: usize| {
                        State::Held(Place {
                            hnode: Place::RAM,
                            frame: Frame(frame.0 + i as u64),
                        })
                    };
                    let count = alike(&|i, entry| entry.state() == next(i));
                    let frames = self.arena.kept(frame, count, Unit::Page);
                    self.staged.less(count);
                    self.freed_frames(&mut pages, at, Site::Staged, frames);
                    freed.pages += count as u64;
                }
                State::Held(place) => {
                    self.withdraw(place.hnode, pages.cluster().page(at), 1);
                    pages.commit(at, UNTOUCHED);
                    self.tier(place.hnode).free(place.frame, Unit::Page);
                    self.stats.moved(Site::Tier(place.hnode), Site::Zero, 1);
                    freed.pages += 1;
                }
                // Not of a page that is locked.
                State::Split | State::InBlock => pages.release(1 << at),
            }
        }
        Ok(busy)
    }

    /// Frees up to `most` mapped pages from index `at` on; returns how many, and which stay as they are.
    fn free_mapped(
        &self,
        pages: &mut Pages<'_>,
        at: usize,
        most: usize,
    ) -> Result<(usize, u64), FaultError> {
        let Some(empty) = self.arena.take_empty_to_free(most, Unit::Page) else {
            return Ok((0, bits(at, most)));
        };
        let start = pages.cluster().page(at);
        let moved = self.leave(start, empty.address(), empty.pages());
        if let Some(frames) = empty.arrived(moved.pages) {
            self.freed_frames(pages, at, Site::Host, frames);
        }
        match moved.stopped {
            None => Ok((moved.pages, 0)),
            Some(Obstacle::Busy) => Ok((moved.pages, 1 << (at + moved.pages))),
            Some(obstacle) => Err(FaultError::Mmu {
                verb: "taken from the guest",
                page: start.add(moved.pages as u64),
                obstacle,
            }),
        }
    }

    /// Commits the pages from index `at` on, whose bytes are in `frames` and out of the guest's reach.
    fn freed_frames(&self, pages: &mut Pages<'_>, at: usize, from: Site, frames: Frames<'_>) {
        let count = frames.pages();
        for index in at..at + count {
            pages.commit(index, UNTOUCHED);
        }
        self.stats.moved(from, Site::Zero, count);
        self.let_go(frames);
    }

    /// Keeps frames to be used again if free ones are short, and gives them back to the kernel otherwise.
    fn let_go(&self, frames: Frames<'_>) {
        if self.is_low() {
            drop(frames);
        } else {
            frames.release();
        }
    }
}
