//! Pages come within an accelerator's reach, into its own memory, and leave it for host RAM.
//!
//! On the way in all pages of a granule are locked together: those beneath the guest leave it as victims do, the bytes
//! of all go to consecutive frames, the accelerator maps them, the entries are committed. On the way out, for a vCPU
//! or another accelerator, the accelerator lets go first, and acknowledges, before a byte is read.

use super::reclaim::NoRoom;
use super::{Engine, FaultError, FreeError, MigrateError};
use crate::hnode::Hnode;
use crate::hnode::device::{Device, MapError};
use crate::hnode::ram::Scratch;
use crate::mmu::Obstacle;
use crate::page::{CLUSTER_PAGES, ClusterNo, PageNo, Unit, bits, runs};
use crate::policy::Victims;
use crate::stats::Site;
use crate::table::lock::Atomic;
use crate::table::{ClusterView, Entry, Flags, Frame, Guard, Pages, Place, State};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

/// How often a granule whose pages others hold, or the kernel calls busy, is tried again.
const PATIENCE: u32 = 20_000;

/// Why an accelerator does not get its pages. Each page is where it was, or in host RAM, or within its reach.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The address is not guest RAM.
    #[error("{page} is not guest RAM")]
    NotRam {
        /// The page.
        page: PageNo,
    },
    /// A page of the granule may not leave the vCPUs' reach.
    #[error("{page} is pinned where it is; unpin it first")]
    Pinned {
        /// The page.
        page: PageNo,
    },
    /// A page could not be had for long: somebody reads or writes it directly.
    #[error("{page} is busy: a device of the host uses it directly")]
    Busy {
        /// The page.
        page: PageNo,
    },
    /// There is no room, in the accelerator's memory or for what would have to leave it.
    #[error(
        "{name} has no room for {pages} pages more, and host and tiers none for what would make way; make a tier larger"
    )]
    Full {
        /// The accelerator's name.
        name: String,
        /// What it wanted.
        pages: usize,
    },
    /// The accelerator is not attached.
    #[error("no accelerator is attached as hnode {0}")]
    Detached(u8),
    /// Its page tables do not take the mapping.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Pages could not be freed, as advised.
    #[error(transparent)]
    Free(#[from] FreeError),
    /// Pages could not be pinned, or unpinned, as advised.
    #[error(transparent)]
    Pin(#[from] MigrateError),
    /// The microVM cannot go on.
    #[error(transparent)]
    Failed(#[from] FaultError),
}

/// Why an accelerator cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// An entry cannot name more hnodes.
    #[error("{0} tiers and accelerators are too many for one address space: at most 15")]
    TooMany(usize),
    /// Its granule is none.
    #[error("a granule of {0} pages is not a power of two from 1 to 64")]
    Granule(usize),
    /// It has no room for page tables.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// The accelerators of an address space, by hnode number less those of the tiers.
#[derive(Default)]
pub(super) struct Devices(RwLock<Vec<Slot>>);

struct Slot {
    /// Of the accelerator that is attached, or was last: reports name it still.
    name: String,
    attached: Option<Attached>,
}

#[derive(Clone)]
struct Attached {
    device: Arc<dyn Device>,
    /// The cluster at which the next search for victims begins.
    hand: Arc<AtomicU64>,
}

/// A tier or an accelerator's memory.
pub(super) enum Holder<'e> {
    Tier(&'e dyn Hnode),
    Device(Arc<dyn Device>),
}

impl<'e> Deref for Holder<'e> {
    type Target = dyn Hnode + 'e;

    fn deref(&self) -> &(dyn Hnode + 'e) {
        match self {
            Self::Tier(tier) => *tier,
            Self::Device(device) => &**device,
        }
    }
}

impl Engine {
    /// Lets `device` have pages of this address space. Returns the hnode number that stands for it from now on.
    pub fn attach(&self, device: Arc<dyn Device>) -> Result<u8, AttachError> {
        let granule = device.granule();
        if !granule.is_power_of_two() || granule > CLUSTER_PAGES {
            return Err(AttachError::Granule(granule));
        }
        let mut devices = self
            .devices
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let free = devices.iter().position(|slot| slot.attached.is_none());
        let at = free.unwrap_or(devices.len());
        let hnode = self.tiers.len() + at + 1;
        if hnode > usize::from(Place::MAX_HNODE) {
            return Err(AttachError::TooMany(hnode));
        }
        let slot = Slot {
            name: device.name().to_owned(),
            attached: Some(Attached {
                device,
                hand: Arc::default(),
            }),
        };
        match devices.get_mut(at) {
            Some(place) => *place = slot,
            None => devices.push(slot),
        }
        Ok(hnode as u8)
    }

    /// Takes every page back from an accelerator, into host RAM and the tiers, and lets it go. It must ask for nothing
    /// any more. Fails where there is no room for its pages: it then stays attached, with what is left.
    pub fn detach(&self, hnode: u8) -> Result<(), DeviceError> {
        let attached = self.attached(hnode)?;
        let device = &*attached.device;
        while device.usage().pages > 0 {
            let _passing = self.gate.pass();
            if self.send_away(hnode, &attached, CLUSTER_PAGES)? == 0 {
                return Err(DeviceError::Full {
                    name: device.name().to_owned(),
                    pages: 0,
                });
            }
        }
        let _still = self.quiesce();
        let mut devices = self
            .devices
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        devices[usize::from(hnode) - self.tiers.len() - 1].attached = None;
        Ok(())
    }

    /// Brings the granule of `page` within the reach of accelerator `hnode`, which touched it or is expected to.
    pub fn device_fault(&self, hnode: u8, page: PageNo) -> Result<(), DeviceError> {
        let arrived = Instant::now();
        let attached = self.attached(hnode)?;
        let pages = attached.device.granule();
        let first = PageNo(page.0 / pages as u64 * pages as u64);
        if let Some(page) = (0..pages as u64)
            .map(|i| first.add(i))
            .find(|page| !self.is_ram(*page))
        {
            return Err(DeviceError::NotRam { page });
        }
        let _passing = self.gate.pass();
        let cluster = ClusterNo::of(first);
        let mask = bits(ClusterNo::index(first), pages);
        let mut attempt = 0;
        loop {
            let busy = match self.lock_all(cluster, mask)? {
                Some(held) => self.bring_near(held, mask, hnode, &attached)?,
                None => Some(first),
            };
            let Some(page) = busy else { break };
            if attempt == PATIENCE {
                return Err(DeviceError::Busy { page });
            }
            AtomicU64::give_way(attempt);
            attempt += 1;
        }
        self.stats.device_faults.record(arrived.elapsed());
        self.wake_background_if_low();
        Ok(())
    }

    /// The tier, or the accelerator's memory, that an entry's hnode number names.
    pub(super) fn tier(&self, hnode: u8) -> Holder<'_> {
        match self.tiers.get(usize::from(hnode) - 1) {
            Some(tier) => Holder::Tier(&**tier),
            None => match self.attached(hnode) {
                Ok(attached) => Holder::Device(attached.device),
                // It is let go of only when no entry names it.
                Err(_) => unreachable!("an entry names hnode {hnode}, which is not there"),
            },
        }
    }

    /// Before bytes of pages that hnode `hnode` holds are read to go elsewhere, or are dropped: an accelerator lets go
    /// of them. The caller holds their locks.
    pub(super) fn withdraw(&self, hnode: u8, page: PageNo, pages: usize) {
        if usize::from(hnode) > self.tiers.len()
            && let Ok(attached) = self.attached(hnode)
        {
            attached.device.withdraw(page, pages);
        }
    }

    /// Whether an entry's place is in an accelerator's memory.
    pub(super) fn is_device(&self, place: Place) -> bool {
        usize::from(place.hnode) > self.tiers.len()
    }

    /// The accelerators that are attached, each with its hnode number.
    pub(super) fn attached_devices(&self) -> Vec<(u8, Arc<dyn Device>)> {
        let devices = self
            .devices
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let numbered = devices.iter().enumerate();
        let there = numbered.filter_map(|(at, slot)| Some((at, slot.attached.as_ref()?)));
        there
            .map(|(at, attached)| {
                (
                    (self.tiers.len() + at + 1) as u8,
                    Arc::clone(&attached.device),
                )
            })
            .collect()
    }

    /// The name in reports of the accelerator that is, or was, hnode `hnode`.
    pub(super) fn device_name(&self, hnode: u8) -> Option<String> {
        let at = usize::from(hnode).checked_sub(self.tiers.len() + 1)?;
        let devices = self
            .devices
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Some(devices.get(at)?.name.clone())
    }

    fn attached(&self, hnode: u8) -> Result<Attached, DeviceError> {
        let at = usize::from(hnode).checked_sub(self.tiers.len() + 1);
        let devices = self
            .devices
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        at.and_then(|at| devices.get(at)?.attached.clone())
            .ok_or(DeviceError::Detached(hnode))
    }

    /// Locks all pages in `mask` of `cluster`, one by one and never waiting with one held; `None` if somebody holds
    /// another.
    fn lock_all(&self, cluster: ClusterNo, mask: u64) -> Result<Option<Pages<'_>>, DeviceError> {
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

    /// Brings the pages, all of a granule and locked, within the accelerator's reach; or says which page is busy.
    fn bring_near(
        &self,
        mut pages: Pages<'_>,
        mask: u64,
        hnode: u8,
        attached: &Attached,
    ) -> Result<Option<PageNo>, DeviceError> {
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
            return Ok(None);
        }
        let pinned = |i: &usize| pages.entry(at + i).flags().has(Flags::PINNED);
        if let Some(i) = (0..count).find(pinned) {
            return Err(DeviceError::Pinned {
                page: first.add(i as u64),
            });
        }
        let Some(frame) = device.take(count) else {
            drop(pages);
            return self
                .make_room_in(hnode, attached, count)
                .map(|()| Some(first));
        };
        let taken = Taken {
            device,
            frame,
            count,
        };
        if let Some(busy) = self.leave_guest(&mut pages, mask)? {
            return Ok(Some(busy));
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
        Ok(None)
    }

    /// Takes those of the pages that are beneath the guest out of its reach: they are staged, and stay locked. Says
    /// which page the kernel calls busy, or has no slot, if there is one.
    fn leave_guest(&self, pages: &mut Pages<'_>, mask: u64) -> Result<Option<PageNo>, DeviceError> {
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
                    self.wake_background();
                    return Ok(Some(cluster.page(at)));
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

    /// Makes room for `pages` in the accelerator's memory.
    fn make_room_in(
        &self,
        hnode: u8,
        attached: &Attached,
        pages: usize,
    ) -> Result<(), DeviceError> {
        if self.send_away(hnode, attached, pages)? > 0 {
            return Ok(());
        }
        Err(DeviceError::Full {
            name: attached.device.name().to_owned(),
            pages,
        })
    }

    /// Sends at least `wanted` pages of an accelerator's memory to host RAM, in the order of the hand, cluster by cluster;
    /// returns how many went, 0 if none can.
    fn send_away(
        &self,
        hnode: u8,
        attached: &Attached,
        wanted: usize,
    ) -> Result<usize, DeviceError> {
        let clusters = self.table.clusters();
        let mut sent = 0;
        for _ in 0..clusters {
            let cluster = ClusterNo(attached.hand.fetch_add(1, Ordering::Relaxed) % clusters);
            if !matches!(self.table.view(cluster), ClusterView::Pages(_)) {
                continue;
            }
            let here = |_, entry: Entry| {
                matches!(entry.state(), State::Held(place) if place.hnode == hnode)
                    && !entry.flags().has(Flags::PINNED)
            };
            if let Some(pages) = self.table.try_lock_pages(cluster, u64::MAX, here) {
                match self.send_cluster_away(pages, hnode, &*attached.device) {
                    Ok(count) => sent += count,
                    Err(NoRoom::Full) => break,
                    Err(NoRoom::Failed(error)) => return Err(error.into()),
                }
            }
            if sent >= wanted {
                break;
            }
        }
        Ok(sent)
    }

    fn send_cluster_away(
        &self,
        mut pages: Pages<'_>,
        hnode: u8,
        device: &dyn Device,
    ) -> Result<usize, NoRoom> {
        let cluster = pages.cluster();
        let mut sent = 0;
        while let Some((at, length)) = runs(pages.mask()).next() {
            let _turning = self.turning.begin();
            let mut frames = loop {
                match self.arena.take(length) {
                    Some(frames) => break frames,
                    None => self.make_room(1)?,
                }
            };
            let count = frames.pages();
            device.withdraw(cluster.page(at), count);
            let mut sources = [Frame(0); CLUSTER_PAGES];
            for (i, source) in sources[..count].iter_mut().enumerate() {
                if let State::Held(place) = pages.entry(at + i).state() {
                    *source = place.frame;
                }
            }
            device
                .load_pages(&sources[..count], frames.bytes_mut())
                .map_err(|source| FaultError::Load {
                    page: cluster.page(at),
                    tier: device.name().to_owned(),
                    source,
                })?;
            let slot = frames.keep();
            self.staged.more(count);
            for i in 0..count {
                let flags = pages.entry(at + i).flags();
                pages.commit(
                    at + i,
                    Entry::held(Place::RAM, Frame(slot.0 + i as u64), flags),
                );
                device.free(sources[i], Unit::Page);
            }
            self.staged.push(Victims::Pages {
                cluster,
                mask: bits(at, count),
            });
            self.stats.moved(Site::Tier(hnode), Site::Staged, count);
            sent += count;
        }
        Ok(sent)
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
