//! Pages come beneath the guest.

use super::fault::bit;
use super::reclaim::NoRoom;
use super::{Engine, FaultError, Outcome};
use crate::hnode::ram::Frames;
use crate::mmu::{Moved, Obstacle};
use crate::page::{BLOCK_PAGES, CLUSTER_PAGES, ClusterNo, PAGE_SIZE, PageNo, Unit, runs};
use crate::policy::Victims;
use crate::stats::Site;
use crate::table::lock::Atomic;
use crate::table::{Entry, Frame, Guard, Pages, Place, State};
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// How often a page that the kernel calls busy is tried again.
const BUSY_ATTEMPTS: u32 = 1000;

/// Touched by nobody: a page that comes along.
pub(super) const NOBODY: PageNo = PageNo(u64::MAX);

impl Engine {
    /// Brings in `touched`, and those pages of its cluster in `plan` for which there is room without
    /// making any. Whoever waits for them is still to be woken, by [`Engine::wake`].
    pub(super) fn bring(&self, touched: PageNo, plan: u64) -> Result<Outcome, FaultError> {
        let mut attempt = 0;
        let mut in_small_pages = self.unit == Unit::Page;
        loop {
            match self.table.lock(touched) {
                Guard::Block(block) => match block.entry().state() {
                    State::Mapped => return Ok(Outcome::There),
                    // Staged blocks lie in one frame of 2 MiB, so they come back whole.
                    State::Held(place) if place.hnode == Place::RAM => {
                        return self.bring_block(block);
                    }
                    _ if self.unit == Unit::Block => return self.bring_block(block),
                    _ => block.split(),
                },
                Guard::Pages(pages) => {
                    if pages.entry(ClusterNo::index(touched)).state() == State::Mapped {
                        return Ok(Outcome::There);
                    }
                    if in_small_pages {
                        return self.bring_pages(pages, touched, plan);
                    }
                    drop(pages);
                    if let Some(leaf) = self.table.try_lock_leaf(touched.block()) {
                        match self.bring_leaf(leaf)? {
                            Some(outcome) => return Ok(outcome),
                            None => in_small_pages = true,
                        }
                        continue;
                    }
                    // Somebody holds one of the pages, for a moment.
                    AtomicU64::give_way(attempt);
                    attempt = attempt.saturating_add(1);
                }
            }
        }
    }

    /// Wakes whoever waits for what [`Engine::bring`] brought, having been asked for `touched` and `plan`.
    ///
    /// To be called when no lock is held: a vCPU that wakes may take this thread's CPU at once, and keep it
    /// for as long as it likes. Only those who wait for `touched` depend on this; others that it wakes have a
    /// fault of their own under way.
    pub(super) fn wake(&self, touched: PageNo, plan: u64, outcome: Outcome) {
        let (first, pages) = match outcome {
            Outcome::Waiting => return,
            Outcome::There | Outcome::Resolved { along: 0 } => (touched, 1),
            Outcome::Resolved { along } if along >= CLUSTER_PAGES => {
                (touched.block_start(), BLOCK_PAGES)
            }
            Outcome::Resolved { .. } => {
                let wanted = plan | bit(touched);
                let first = wanted.trailing_zeros() as usize;
                let end = CLUSTER_PAGES - wanted.leading_zeros() as usize;
                (ClusterNo::of(touched).page(first), end - first)
            }
        };
        self.beneath.wake(first, pages);
    }

    /// Wakes whoever waits for `page` if it is there, although bringing it failed: what came along did.
    pub(super) fn wake_if_there(&self, page: PageNo) {
        if self.table.peek(page).state() == State::Mapped {
            self.beneath.wake(page, 1);
        }
    }

    fn bring_pages(
        &self,
        mut pages: Pages<'_>,
        touched: PageNo,
        plan: u64,
    ) -> Result<Outcome, FaultError> {
        let own = bit(touched);
        // What comes along must not make anybody wait for room; what is staged needs none.
        let roomy = 2 * u64::from(plan.count_ones()) <= self.arena.available();
        // What an accelerator uses is not taken from it unasked.
        let copied = self.sharing.copied(pages.cluster());
        pages.try_add(plan & !own & !copied, |_, entry| match entry.state() {
            State::Held(place) if place.hnode == Place::RAM => true,
            State::Held(place) if self.is_device(place) => false,
            State::Untouched | State::Held(_) => roomy,
            _ => false,
        });
        let mut brought = 0;
        for (first, length) in runs(pages.mask()) {
            let mut at = first;
            while at < first + length {
                match self.bring_run(&mut pages, at, first + length - at, touched)? {
                    0 if pages.mask() & own == 0 => {
                        return Ok(Outcome::Resolved { along: brought - 1 });
                    }
                    0 => {
                        // No frame: let go of everything but the touched page and make room for that.
                        pages.release(!own);
                        return self.bring_alone(pages, touched, brought);
                    }
                    count => {
                        brought += count;
                        at += count;
                    }
                }
            }
        }
        Ok(Outcome::Resolved { along: brought - 1 })
    }

    fn bring_alone(
        &self,
        mut pages: Pages<'_>,
        touched: PageNo,
        along: usize,
    ) -> Result<Outcome, FaultError> {
        // Tried before room is made: what is staged needs none.
        while self.bring_run(&mut pages, ClusterNo::index(touched), 1, touched)? == 0 {
            match self.make_room_for_page() {
                Ok(()) => {}
                Err(NoRoom::Full) => return Ok(Outcome::Waiting),
                Err(NoRoom::Failed(error)) => return Err(error),
            }
        }
        Ok(Outcome::Resolved { along })
    }

    /// Brings in up to `most` consecutive held pages from index `at` on, as many as lie or fit in
    /// consecutive frames; 0 if there is no frame.
    pub(super) fn bring_run(
        &self,
        pages: &mut Pages<'_>,
        at: usize,
        most: usize,
        touched: PageNo,
    ) -> Result<usize, FaultError> {
        let entry = pages.entry(at);
        if let State::Held(Place {
            hnode: Place::RAM,
            frame,
        }) = entry.state()
        {
            let together = |i: &usize| {
                pages.entry(at + i)
                    == Entry::held(
                        Place::RAM,
                        Frame(frame.0 + *i as u64),
                        pages.entry(at + i).flags(),
                    )
            };
            let count = (0..most).take_while(together).count();
            let frames = self.arena.kept(frame, count, Unit::Page);
            // What does not move stays where it is: staged.
            return self.map(pages, at, frames, touched, |frames| {
                frames.keep();
            });
        }
        let elsewhere = |i: &usize| Self::site(pages.entry(at + i).state()) != Site::Staged;
        let count = (0..most).take_while(elsewhere).count();
        let _turning = self.turning.begin();
        if self.entering.by_copy(count)
            && let Some(copied) = self.bring_copied(pages, at, count, touched)?
        {
            return Ok(copied);
        }
        let Some(mut frames) = self.arena.take(count) else {
            return Ok(0);
        };
        self.fill(pages, at, frames.bytes_mut())?;
        self.map(pages, at, frames, touched, drop)
    }

    /// Puts a staged group back beneath the guest: others may find room where it did not.
    pub(super) fn bring_back(&self, group: Victims) -> Result<(), FaultError> {
        match group {
            Victims::Block(number) => {
                if let Some(block) = self.table.try_lock_block(number)
                    && Self::site(block.entry().state()) == Site::Staged
                {
                    self.bring_block(block)?;
                }
            }
            Victims::Pages { cluster, mask } => {
                let staged = |_, entry: Entry| Self::site(entry.state()) == Site::Staged;
                if let Some(mut pages) = self.table.try_lock_pages(cluster, mask, staged) {
                    while let Some((first, length)) = runs(pages.mask()).next() {
                        self.bring_run(&mut pages, first, length, NOBODY)?;
                    }
                }
            }
        }
        // What somebody has locked at this moment may stay staged, and must not be forgotten.
        if self.is_staged(&group) {
            self.staged.push(group);
        }
        Ok(())
    }

    /// Fills `bytes` with those of the pages from index `at` on, none of them staged.
    pub(super) fn fill(
        &self,
        pages: &Pages<'_>,
        at: usize,
        bytes: &mut [u8],
    ) -> Result<(), FaultError> {
        let count = bytes.len() / PAGE_SIZE;
        let mut done = 0;
        while done < count {
            let rest = &mut bytes[done * PAGE_SIZE..];
            let State::Held(Place { hnode, .. }) = pages.entry(at + done).state() else {
                rest[..PAGE_SIZE].fill(0);
                done += 1;
                continue;
            };
            let mut sources = [Frame(0); CLUSTER_PAGES];
            let mut together = 0;
            while done + together < count {
                match pages.entry(at + done + together).state() {
                    State::Held(place) if place.hnode == hnode => sources[together] = place.frame,
                    _ => break,
                }
                together += 1;
            }
            self.withdraw(hnode, pages.cluster().page(at + done), together);
            let tier = self.tier(hnode);
            tier.load_pages(&sources[..together], &mut rest[..together * PAGE_SIZE])
                .map_err(|source| {
                    let page = pages.cluster().page(at + done);
                    FaultError::Load {
                        page,
                        tier: tier.name().to_owned(),
                        source,
                    }
                })?;
            self.sent_out(hnode, together);
            done += together;
        }
        Ok(())
    }

    /// Moves `frames` beneath the guest at the pages from index `at` on, commits what moved, and frees
    /// where it was; `leave` gets what did not move.
    fn map<'a>(
        &self,
        pages: &mut Pages<'_>,
        at: usize,
        frames: Frames<'a>,
        touched: PageNo,
        leave: impl FnOnce(Frames<'a>),
    ) -> Result<usize, FaultError> {
        let (start, count) = (pages.cluster().page(at), frames.pages());
        let begun = Instant::now();
        let moved = self.map_patiently(frames.address(), start, count);
        self.entering.moved(count, begun.elapsed());
        self.is_beneath(pages, at, moved.pages, touched);
        if let Some(rest) = frames.departed(moved.pages) {
            leave(rest);
        }
        Self::all_entered(start, moved)
    }

    /// Commits `count` pages from index `at` on, which are beneath the guest now, and frees where they were.
    pub(super) fn is_beneath(
        &self,
        pages: &mut Pages<'_>,
        at: usize,
        count: usize,
        touched: PageNo,
    ) {
        if count > 0 && Self::site(pages.entry(at).state()) != Site::Staged {
            self.promotion.arrived(pages.cluster().page(at));
        }
        for index in at..at + count {
            let entry = pages.entry(index);
            let page = pages.cluster().page(index);
            let flags = self.eviction.arrives(page, entry, page == touched);
            pages.commit(index, Entry::new(State::Mapped, flags));
            match entry.state() {
                State::Held(Place {
                    hnode: Place::RAM, ..
                }) => self.staged.less(1),
                State::Held(place) => self.tier(place.hnode).free(place.frame, Unit::Page),
                _ => {}
            }
            self.stats.moved(Self::site(entry.state()), Site::Host, 1);
        }
    }

    /// How many pages came beneath the guest from `start` on, if nothing stopped them.
    pub(super) fn all_entered(start: PageNo, moved: Moved) -> Result<usize, FaultError> {
        match moved.stopped {
            None => Ok(moved.pages),
            Some(obstacle) => Err(FaultError::Mmu {
                verb: "put beneath the guest",
                page: start.add(moved.pages as u64),
                obstacle,
            }),
        }
    }

    /// As [`Mmu::map`](crate::mmu::Mmu::map), coming back to what is busy.
    pub(super) fn map_patiently(
        &self,
        slot: crate::mmu::HostAddress,
        page: PageNo,
        pages: usize,
    ) -> Moved {
        let mut done = 0;
        let mut attempt = 0;
        loop {
            let from = crate::mmu::HostAddress(slot.0 + done * PAGE_SIZE);
            let moved = self.enter(from, page.add(done as u64), pages - done);
            done += moved.pages;
            if moved.stopped != Some(Obstacle::Busy) || attempt == BUSY_ATTEMPTS {
                return Moved {
                    pages: done,
                    stopped: moved.stopped,
                };
            }
            AtomicU64::give_way(attempt);
            attempt += 1;
        }
    }
}
