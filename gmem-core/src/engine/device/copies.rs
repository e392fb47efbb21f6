//! Copies for reading in accelerators' memories. The owner stays where it is, and nobody can write to it unnoticed: it is
//! held in a tier, or staged, or protected beneath the guest.
//!
//! Whoever is to write has the copies taken away first, and whoever is to lie beneath the guest writable. A copy that
//! makes way is dropped: its owner has the bytes.

use super::ahead::map_all;
use super::place::indices;
use super::sharing::clusters;
use super::{Attached, DeviceError, Near};
use crate::engine::reclaim::NoRoom;
use crate::engine::{Engine, FaultError};
use crate::hnode::device::{Access, Reach};
use crate::page::{BLOCK_PAGES, CLUSTER_PAGES, ClusterNo, PageNo, Unit, runs};
use crate::table::{Flags, Frame, Guard, Pages, State};

/// A granule that an accelerator has already, and how it may reach it.
pub(super) struct There {
    pub(super) page: PageNo,
    pub(super) reach: Reach,
}

impl Engine {
    /// Whether all of a granule is in the accelerator's memory as `access` wants it.
    pub(super) fn is_near(
        &self,
        pages: &Pages<'_>,
        mask: u64,
        hnode: u8,
        access: Access,
    ) -> Option<There> {
        let owned = |index| match pages.entry(index).state() {
            State::Held(place) if place.hnode == hnode => Some(place.frame),
            _ => None,
        };
        let page = pages.cluster().page(mask.trailing_zeros() as usize);
        let there = |frame, writable| There {
            page,
            reach: Reach::Local { frame, writable },
        };
        if let Some(frame) = together(mask, owned) {
            return Some(there(frame, true));
        }
        let frame = self.copied_frames(pages.cluster(), mask, hnode)?;
        (access == Access::Read).then(|| there(frame, false))
    }

    /// The first of the consecutive frames in which an accelerator has copies of all pages of a granule.
    pub(super) fn copied_frames(&self, cluster: ClusterNo, mask: u64, hnode: u8) -> Option<Frame> {
        if self.sharing.copied(cluster) & mask != mask {
            return None;
        }
        together(mask, |index| self.sharing.copy(cluster.page(index), hnode))
    }

    /// Copies a granule, all of its pages locked, into the accelerator's memory for reading; or says what stands in the
    /// way.
    pub(super) fn copy_near(
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
        // Of a granule that lost some of its pages the others are copied with them again.
        self.end_copies(cluster, mask, hnode, attached);
        let Some(taken) = super::near::Taken::take(device, count) else {
            drop(pages);
            return self.make_room_in(hnode, attached, count);
        };
        match self.stage_from_accelerators(&mut pages, mask) {
            Ok(()) => {}
            Err(NoRoom::Full) => return Err(DeviceError::full(device, count)),
            Err(NoRoom::Failed(error)) => return Err(error.into()),
        }
        if !self.protect(&pages, mask) {
            drop(taken);
            let pinned = |index| pages.entry(index).flags().has(Flags::PINNED);
            return match device.reaches_host() && indices(mask).any(pinned) {
                true => self.reach_remotely(pages, mask, attached),
                false => self.bring_near(pages, mask, hnode, attached),
            };
        }
        let crossed = self.carry(&pages, at, &taken)?;
        let frame = taken.frame;
        let reach = Reach::Local {
            frame,
            writable: false,
        };
        self.sharing.set_copied(cluster, mask);
        map_all(device, first, count, reach)?;
        taken.keep();
        attached.ledger.more_copies(count);
        attached.ledger.copied_in.add_pages(crossed);
        attached.ledger.note_came(first, count, crossed);
        for index in indices(mask) {
            let near = Frame(frame.0 + (index - at) as u64);
            self.sharing.add_copy(cluster.page(index), hnode, near);
            let entry = pages.entry(index);
            pages.commit(index, entry.with_flags(entry.flags().with(Flags::ACCESSED)));
        }
        Ok(Near::There)
    }

    /// Protects those of the pages that lie beneath the guest; false if that cannot be done.
    fn protect(&self, pages: &Pages<'_>, mask: u64) -> bool {
        let cluster = pages.cluster();
        let mapped = |index: &usize| pages.entry(*index).state() == State::Mapped;
        let beneath = indices(mask)
            .filter(mapped)
            .fold(0, |mask, index| mask | 1 << index);
        // Before one is protected: were it done in part, who is to write finds out.
        self.sharing.set_copied(cluster, beneath);
        // A unit that wrote to a protected page would wait in the middle of a chunk.
        for (first, length) in runs(beneath) {
            self.withdraw_remote(cluster.page(first), length);
        }
        runs(beneath).all(|(first, length)| self.beneath.protect(cluster.page(first), length))
    }

    /// Ends all accelerators' copies of pages, but those of `keep`. The caller holds their entries.
    pub(in crate::engine) fn collapse(&self, page: PageNo, pages: usize, keep: Option<u8>) {
        for (cluster, mask) in clusters(page, pages) {
            if self.sharing.copied(cluster) & mask == 0 {
                continue;
            }
            for (hnode, attached) in self.all_attached() {
                if keep != Some(hnode) {
                    let ended = self.end_copies(cluster, mask, hnode, &attached);
                    attached.ledger.collapsed.add(ended as u64);
                }
            }
        }
    }

    /// Lets pages beneath the guest be written by everybody: no copies, no protection. The caller holds their entries.
    pub(super) fn open(&self, cluster: ClusterNo, mask: u64) {
        for (first, length) in runs(self.sharing.copied(cluster) & mask) {
            let page = cluster.page(first);
            self.collapse(page, length, None);
            self.beneath.unprotect(page, length);
            self.sharing.forget_copied(page, length);
        }
    }

    /// Lets `page`, which somebody wants to write and found protected, be written, and wakes who waits.
    pub fn write_fault(&self, page: PageNo) -> Result<(), FaultError> {
        if !self.is_ram(page) {
            return Err(FaultError::NotRam { page });
        }
        {
            let _passing = self.gate.pass();
            match self.table.lock(page) {
                Guard::Pages(pages)
                    if pages.entry(ClusterNo::index(page)).state() == State::Mapped =>
                {
                    let (cluster, mask) = (ClusterNo::of(page), 1 << ClusterNo::index(page));
                    match self.sharing.copied(cluster) & mask {
                        // Nobody of ours protected it.
                        0 => self.beneath.unprotect(page, 1),
                        _ => self.open(cluster, mask),
                    }
                }
                // All of it, though one page of it was written to: the kernel would split a huge page.
                Guard::Block(block) if block.entry().state() == State::Mapped => {
                    self.beneath.unprotect(block.start(), BLOCK_PAGES);
                }
                // It has left since: the next access is a fault like any other.
                Guard::Pages(_) | Guard::Block(_) => {}
            }
        }
        self.beneath.wake(page, 1);
        Ok(())
    }

    /// Ends an accelerator's copies of pages, whose entries the caller holds: it lets go, then their frames are free.
    /// Returns how many there were.
    pub(super) fn end_copies(
        &self,
        cluster: ClusterNo,
        mask: u64,
        hnode: u8,
        attached: &Attached,
    ) -> usize {
        let mut frames = [Frame(0); CLUSTER_PAGES];
        let mut held = 0u64;
        for index in indices(mask & self.sharing.copied(cluster)) {
            if let Some(frame) = self.sharing.copy(cluster.page(index), hnode) {
                frames[index] = frame;
                held |= 1 << index;
            }
        }
        for (first, length) in runs(held) {
            attached.device.withdraw(cluster.page(first), length);
        }
        for index in indices(held) {
            self.sharing.remove_copy(cluster.page(index), hnode);
            attached.device.free(frames[index], Unit::Page);
        }
        attached.ledger.fewer_copies(held.count_ones() as usize);
        held.count_ones() as usize
    }

    /// What were an accelerator's copies of a granule are its own pages from now on.
    pub(super) fn own_copies(&self, cluster: ClusterNo, mask: u64, hnode: u8, attached: &Attached) {
        for page in cluster.pages(mask) {
            self.sharing.remove_copy(page, hnode);
        }
        let count = mask.count_ones() as usize;
        attached.ledger.fewer_copies(count);
        attached.ledger.upgraded.add(count as u64);
    }

    /// Those pages that accelerators hold are staged instead, and stay locked.
    fn stage_from_accelerators(&self, pages: &mut Pages<'_>, mask: u64) -> Result<(), NoRoom> {
        let holder = |pages: &Pages<'_>, index| match pages.entry(index).state() {
            State::Held(place) if self.is_device(place) => Some(place.hnode),
            _ => None,
        };
        for index in indices(mask) {
            let Some(hnode) = holder(pages, index) else {
                continue;
            };
            let rest = (index..CLUSTER_PAGES)
                .take_while(|next| mask & 1 << next != 0 && holder(pages, *next) == Some(hnode));
            let length = rest.count();
            self.stage_run(pages, index, length, hnode)?;
        }
        Ok(())
    }
}

/// The first of consecutive frames, aligned to their number, that `frame_of` says the pages of a granule are in.
fn together(mask: u64, frame_of: impl Fn(usize) -> Option<Frame>) -> Option<Frame> {
    let (at, count) = (mask.trailing_zeros() as usize, mask.count_ones() as u64);
    let first = frame_of(at)?;
    let follows = |index| frame_of(index) == Some(Frame(first.0 + (index - at) as u64));
    (first.0.is_multiple_of(count) && indices(mask).all(follows)).then_some(first)
}
