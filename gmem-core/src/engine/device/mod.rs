//! Pages come within an accelerator's reach, into its own memory, and leave it for host RAM.
//!
//! On the way in all pages of a granule are locked together: those beneath the guest leave it as victims do, the bytes
//! of all go to consecutive frames, the accelerator maps them, the entries are committed. On the way out, for a vCPU
//! or another accelerator, the accelerator lets go first, and acknowledges, before a byte is read.

mod away;
mod near;

use super::{Engine, FaultError, FreeError, MigrateError};
use crate::hnode::Hnode;
use crate::hnode::device::{Device, MapError};
use crate::page::{CLUSTER_PAGES, ClusterNo, PageNo, bits};
use crate::table::Place;
use crate::table::lock::Atomic;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

/// How often a granule whose pages others hold, or the kernel calls busy, is tried again.
const PATIENCE: u32 = 20_000;
/// How often room is looked for where everything that could make way is locked, or pinned.
const ROOM_PATIENCE: u32 = 2000;

/// How far a granule has come.
enum Near {
    /// It is within the accelerator's reach.
    There,
    /// Something made way for it.
    RoomMade,
    /// Nothing can make way for it at this moment.
    NoRoom,
    /// The page is somebody else's at this moment.
    Busy(PageNo),
}

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

impl DeviceError {
    fn full(device: &dyn Device, pages: usize) -> Self {
        Self::Full {
            name: device.name().to_owned(),
            pages,
        }
    }
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
        let mut devices = self.slots_mut();
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

    /// Takes every page back from an accelerator, pinned ones too, into host RAM and the tiers, and lets it go. It must ask
    /// for nothing any more. Fails where there is no room for its pages: it then stays attached, with what is left.
    pub fn detach(&self, hnode: u8) -> Result<(), DeviceError> {
        let attached = self.attached(hnode)?;
        let device = &*attached.device;
        loop {
            while device.usage().pages > 0 {
                let _passing = self.gate.pass();
                if self.send_away(hnode, &attached, CLUSTER_PAGES, true)?.pages == 0 {
                    return Err(DeviceError::full(device, 0));
                }
            }
            let _still = self.quiesce();
            // A fault may have come in between.
            if device.usage().pages == 0 {
                let mut devices = self.slots_mut();
                devices[usize::from(hnode) - self.tiers.len() - 1].attached = None;
                return Ok(());
            }
        }
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
        let cluster = ClusterNo::of(first);
        let mask = bits(ClusterNo::index(first), pages);
        for attempt in 0.. {
            let near = {
                let _passing = self.gate.pass();
                // Asked again: it may have been detached meanwhile.
                let attached = self.attached(hnode)?;
                match self.lock_all(cluster, mask)? {
                    Some(held) => self.bring_near(held, mask, hnode, &attached)?,
                    None => Near::Busy(first),
                }
            };
            match near {
                Near::There => break,
                Near::Busy(page) if attempt == PATIENCE => return Err(DeviceError::Busy { page }),
                Near::NoRoom if attempt >= ROOM_PATIENCE => {
                    return Err(DeviceError::full(&*attached.device, pages));
                }
                Near::Busy(_) | Near::NoRoom => AtomicU64::give_way(attempt),
                Near::RoomMade => {}
            }
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
        let devices = self.slots();
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
        let devices = self.slots();
        Some(devices.get(at)?.name.clone())
    }

    fn slots(&self) -> RwLockReadGuard<'_, Vec<Slot>> {
        let slots = self.devices.0.read();
        slots.unwrap_or_else(PoisonError::into_inner)
    }

    fn slots_mut(&self) -> RwLockWriteGuard<'_, Vec<Slot>> {
        let slots = self.devices.0.write();
        slots.unwrap_or_else(PoisonError::into_inner)
    }

    fn attached(&self, hnode: u8) -> Result<Attached, DeviceError> {
        let at = usize::from(hnode).checked_sub(self.tiers.len() + 1);
        let devices = self.slots();
        at.and_then(|at| devices.get(at)?.attached.clone())
            .ok_or(DeviceError::Detached(hnode))
    }
}
