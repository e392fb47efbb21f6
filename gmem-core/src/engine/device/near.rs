//! Into an accelerator's memory.

use super::{Attached, DeviceError, Near};
use crate::engine::reclaim::NoRoom;
use crate::engine::{Engine, FaultError};
use crate::hnode::device::Device;
use crate::hnode::ram::Scratch;
use crate::mmu::Obstacle;
use crate::page::{CLUSTER_PAGES, ClusterNo, PageNo, Unit, bits, runs};
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
                Guard::Block(block) => block.split(),
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
        let (at, count) = (mask.trailing_zeros() as usize, mask.count_ones() as usize);
        let first = pages.cluster().page(at);
        if let State::Held(place) = pages.entry(at).state()
            && place.hnode == hnode
            && (0..count).all(|i| {
                let expected = Place {
                    hnode,
                    frame: Frame(place.frame.0 + i as u64),
                };
                pages.entry(at + i).state() == State::Held(expected)
            })
            && place.frame.0.is_multiple_of(count as u64)
        {
            device.map(first, place.frame)?;
            return Ok(Near::There);
        }
        let pinned = |i: &usize| pages.entry(at + i).flags().has(Flags::PINNED);
        if let Some(i) = (0..count).find(pinned) {
            return Err(DeviceError::Pinned {
                page: first.add(i as u64),
            });
        }
        let Some(frame) = device.take(count) else {
            drop(pages);
            return self.make_room_in(hnode, attached, count);
        };
        let taken = Taken {
            device,
            frame,
            count,
        };
        if let Some(busy) = self.leave_guest(&mut pages, mask, device)? {
            return Ok(Near::Busy(busy));
        }
        let _turning = self.turning.begin();
        self.copy_near(&pages, at, &taken)?;
        device.map(first, frame)?;
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
                }) => {
                    self.staged.less(1);
                    drop(self.arena.kept(frame, 1, Unit::Page));
                }
                State::Held(place) => self.tier(place.hnode).free(place.frame, Unit::Page),
                _ => {}
            }
            self.stats
                .moved(Self::site(entry.state()), Site::Tier(hnode), 1);
        }
        std::mem::forget(taken);
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
                let moved = self
                    .mmu
                    .unmap(cluster.page(at), empty.address(), empty.pages());
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

    /// Copies the bytes of the pages from index `at` on, none of them beneath the guest, into the frames taken.
    fn copy_near(
        &self,
        pages: &Pages<'_>,
        at: usize,
        taken: &Taken<'_>,
    ) -> Result<(), DeviceError> {
        let first = pages.cluster().page(at);
        let mut scratch: Option<Scratch> = None;
        for i in 0..taken.count {
            let near = Frame(taken.frame.0 + i as u64);
            match pages.entry(at + i).state() {
                State::Held(Place {
                    hnode: Place::RAM,
                    frame,
                }) => {
                    let mut frames = self.arena.kept(frame, 1, Unit::Page);
                    taken.device.fill(near, frames.bytes_mut());
                    frames.keep();
                }
                State::Held(place) => {
                    self.withdraw(place.hnode, first.add(i as u64), 1);
                    let scratch = match &mut scratch {
                        Some(scratch) => scratch,
                        none => none.insert(Scratch::new().map_err(|error| FaultError::Load {
                            page: first,
                            tier: "host".to_owned(),
                            source: std::io::Error::other(error).into(),
                        })?),
                    };
                    self.load(first.add(i as u64), place, scratch.bytes_mut(1))?;
                    taken.device.fill(near, scratch.bytes_mut(1));
                }
                _ => taken.device.zero(near, 1),
            }
        }
        Ok(())
    }
}

/// Frames of an accelerator that no page has yet. Dropped, they are free again.
struct Taken<'a> {
    device: &'a dyn Device,
    frame: Frame,
    count: usize,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for i in 0..self.count as u64 {
            self.device.free(Frame(self.frame.0 + i), Unit::Page);
        }
    }
}
