//! Into an accelerator's memory.

use super::ahead::map_all;
use super::{Attached, DeviceError, Near};
use crate::engine::reclaim::NoRoom;
use crate::engine::{Engine, FaultError};
use crate::hnode::device::{Device, Reach};
use crate::hnode::ram::Borrowed;
use crate::mmu::Obstacle;
use crate::page::{CLUSTER_PAGES, ClusterNo, PAGE_SIZE, PageNo, Unit, bits, runs};
use crate::policy::Victims;
use crate::stats::Site;
use crate::table::{Entry, Flags, Frame, Guard, Pages, Place, State};

impl Engine {
    /// Locks all pages in `mask` of `cluster`, one by one and never waiting with one held; `None` if somebody holds
    /// another.
    pub(super) fn lock_all(
        &self,
        cluster: ClusterNo,
        mask: u64,
    ) -> Result<Option<Pages<'_>>, DeviceError> {
        let first = cluster.page(mask.trailing_zeros() as usize);
        loop {
            match self.table.lock(first) {
                Guard::Pages(mut pages) => {
                    pages.try_add(mask, |_, _| true);
                    return Ok((pages.mask() == mask).then_some(pages));
                }
                // A staged block lies in one frame of 2 MiB: it cannot be split there.
                Guard::Block(block) if Self::site(block.entry().state()) == Site::Staged => {
                    self.bring_block(block)?;
                }
                Guard::Block(block) => self.split(block),
            }
        }
    }

    /// Brings the pages, all of a granule and locked, within the accelerator's reach; or says what stands in the way.
    pub(super) fn bring_near(
        &self,
        mut pages: Pages<'_>,
        mask: u64,
        hnode: u8,
        attached: &Attached,
    ) -> Result<Near, DeviceError> {
        let device = &*attached.device;
        let cluster = pages.cluster();
        let (at, count) = (mask.trailing_zeros() as usize, mask.count_ones() as usize);
        let first = cluster.page(at);
        let pinned = |i: &usize| pages.entry(at + i).flags().has(Flags::PINNED);
        if let Some(i) = (0..count).find(pinned) {
            return Err(DeviceError::Pinned {
                page: first.add(i as u64),
            });
        }
        // Of copies that it has itself it becomes the owner: no bytes move.
        let home = match self.copied_frames(cluster, mask, hnode) {
            Some(frame) => Home::Copies(frame),
            None => {
                self.collapse(first, count, None);
                let Some(taken) = Taken::take(device, count) else {
                    drop(pages);
                    return self.make_room_in(hnode, attached, count);
                };
                Home::Taken(taken)
            }
        };
        if let Some(busy) = self.leave_guest(&mut pages, mask, device)? {
            return Ok(Near::Busy(busy));
        }
        self.collapse(first, count, Some(hnode));
        let _turning = self.turning.begin();
        let (frame, crossed) = match &home {
            Home::Copies(frame) => (*frame, 0),
            Home::Taken(taken) => (taken.frame, self.carry(&pages, at, taken)?),
        };
        let reach = Reach::Local {
            frame,
            writable: true,
        };
        map_all(device, first, count, reach)?;
        match home {
            Home::Copies(_) => self.own_copies(cluster, mask, hnode, attached),
            Home::Taken(taken) => taken.keep(),
        }
        attached.ledger.migrated_in.add_pages(crossed);
        attached.ledger.note_came(first, count, crossed);
        self.sharing.forget_copied(first, count);
        // What was staged lies in consecutive slots where it left the guest together: freed together, in one system call.
        let mut left: Option<(Frame, usize)> = None;
        let free = |left: Option<(Frame, usize)>| {
            if let Some((frame, count)) = left {
                self.staged.less(count);
                drop(self.arena.kept(frame, count, Unit::Page));
            }
        };
        for i in 0..count {
            let entry = pages.entry(at + i);
            let flags = entry
                .flags()
                .without(Flags::WILL_NEED)
                .with(Flags::DIRTY)
                .with(Flags::ACCESSED);
            let near = Frame(frame.0 + i as u64);
            pages.commit(at + i, Entry::held(hnode, near, flags));
            match entry.state() {
                State::Held(Place {
                    hnode: Place::RAM,
                    frame,
                }) => match &mut left {
                    Some((start, count)) if start.0 + *count as u64 == frame.0 => *count += 1,
                    left => free(left.replace((frame, 1))),
                },
                State::Held(place) => self.tier(place.hnode).free(place.frame, Unit::Page),
                _ => {}
            }
            self.stats
                .moved(Self::site(entry.state()), Site::Tier(hnode), 1);
        }
        free(left);
        Ok(Near::There)
    }

    /// Takes those of the pages that are beneath the guest out of its reach: they are staged, and stay locked. Says
    /// which page the kernel calls busy, or has no slot, if there is one.
    fn leave_guest(
        &self,
        pages: &mut Pages<'_>,
        mask: u64,
        device: &dyn Device,
    ) -> Result<Option<PageNo>, DeviceError> {
        let cluster = pages.cluster();
        let mapped = |index: &usize| pages.entry(*index).state() == State::Mapped;
        let beneath = (0..CLUSTER_PAGES)
            .filter(|index| mask & 1 << index != 0)
            .filter(mapped);
        let beneath = beneath.fold(0, |mask, index| mask | 1 << index);
        for (first, length) in runs(beneath) {
            let mut at = first;
            while at < first + length {
                let Some(empty) = self.arena.take_empty(first + length - at) else {
                    // Much is staged: passed on, it leaves slots.
                    match self.pass_on_oldest() {
                        Ok(1..) => continue,
                        Ok(0) => return Ok(Some(cluster.page(at))),
                        Err(NoRoom::Full) => {
                            return Err(DeviceError::full(device, mask.count_ones() as usize));
                        }
                        Err(NoRoom::Failed(error)) => return Err(error.into()),
                    }
                };
                let moved = self.leave(cluster.page(at), empty.address(), empty.pages());
                if let Some(frames) = empty.arrived(moved.pages) {
                    self.staged.more(moved.pages);
                    self.stats.moved(Site::Host, Site::Staged, moved.pages);
                    let slot = frames.keep();
                    for i in 0..moved.pages {
                        let flags = pages.entry(at + i).flags();
                        pages.revise(
                            at + i,
                            Entry::held(Place::RAM, Frame(slot.0 + i as u64), flags),
                        );
                    }
                    // Where it ends before the commit, they wait here to be passed on; else this is stale.
                    self.staged.push(Victims::Pages {
                        cluster,
                        mask: bits(at, moved.pages),
                    });
                }
                at += moved.pages;
                match moved.stopped {
                    None => {}
                    Some(Obstacle::Busy) => return Ok(Some(cluster.page(at))),
                    Some(obstacle) => {
                        return Err(FaultError::Mmu {
                            verb: "taken from the guest",
                            page: cluster.page(at),
                            obstacle,
                        }
                        .into());
                    }
                }
            }
        }
        Ok(None)
    }

    /// Copies the bytes of the pages from index `at` on, none of them writable beneath the guest, into the frames taken.
    /// Returns how many pages crossed the link.
    pub(super) fn carry(
        &self,
        pages: &Pages<'_>,
        at: usize,
        taken: &Taken<'_>,
    ) -> Result<usize, DeviceError> {
        let zero = |i: usize| pages.entry(at + i).state() == State::Untouched;
        let mut scratch: Option<Borrowed<'_>> = None;
        let (mut done, mut crossed) = (0, 0);
        while done < taken.count {
            let near = Frame(taken.frame.0 + done as u64);
            let length = (done..taken.count).take_while(|i| !zero(*i)).count();
            if length == 0 {
                taken.device.zero(near, 1);
                done += 1;
                continue;
            }
            let scratch = match &mut scratch {
                Some(scratch) => scratch,
                none => none.insert(self.scratch.borrow().map_err(|error| FaultError::Load {
                    page: pages.cluster().page(at),
                    tier: "host".to_owned(),
                    source: std::io::Error::other(error).into(),
                })?),
            };
            let bytes = scratch.bytes_mut(length);
            self.gather(pages, at + done, bytes)?;
            taken.device.fill(near, bytes);
            done += length;
            crossed += length;
        }
        Ok(crossed)
    }

    /// Copies the bytes of the pages from index `at` on, wherever each is, into `into`.
    fn gather(&self, pages: &Pages<'_>, at: usize, into: &mut [u8]) -> Result<(), FaultError> {
        let start = pages.cluster().page(at);
        let total = into.len() / PAGE_SIZE;
        let mut done = 0;
        while done < total {
            let rest = &mut into[done * PAGE_SIZE..];
            let page = start.add(done as u64);
            match pages.entry(at + done).state() {
                State::Held(Place {
                    hnode: Place::RAM,
                    frame,
                }) => {
                    let mut frames = self.arena.kept(frame, 1, Unit::Page);
                    rest[..PAGE_SIZE].copy_from_slice(frames.bytes_mut());
                    frames.keep();
                    done += 1;
                }
                State::Held(Place { hnode, .. }) => {
                    let sources: Vec<Frame> = (done..total)
                        .map_while(|i| match pages.entry(at + i).state() {
                            State::Held(place) if place.hnode == hnode => Some(place.frame),
                            _ => None,
                        })
                        .collect();
                    let count = sources.len();
                    self.withdraw(hnode, page, count);
                    let tier = self.tier(hnode);
                    tier.load_pages(&sources, &mut rest[..count * PAGE_SIZE])
                        .map_err(|source| FaultError::Load {
                            page,
                            tier: tier.name().to_owned(),
                            source,
                        })?;
                    self.sent_out(hnode, count);
                    done += count;
                }
                _ if self.beneath.read(page, &mut rest[..PAGE_SIZE]) => done += 1,
                _ => {
                    return Err(FaultError::Mmu {
                        verb: "read beneath the guest",
                        page,
                        obstacle: Obstacle::Absent,
                    });
                }
            }
        }
        Ok(())
    }
}

/// The frames that a granule migrates to.
enum Home<'a> {
    /// They have copies of it.
    Copies(Frame),
    Taken(Taken<'a>),
}

/// Frames of an accelerator that no page has yet. Dropped, they are free again.
pub(super) struct Taken<'a> {
    device: &'a dyn Device,
    pub(super) frame: Frame,
    count: usize,
}

impl<'a> Taken<'a> {
    /// Frames for a granule of `count` pages, if there are.
    pub(super) fn take(device: &'a dyn Device, count: usize) -> Option<Self> {
        let frame = device.take(count)?;
        Some(Self {
            device,
            frame,
            count,
        })
    }

    /// They have pages now.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for i in 0..self.count as u64 {
            self.device.free(Frame(self.frame.0 + i), Unit::Page);
        }
    }
}
