//! Pages come within an accelerator's reach, into its own memory, and leave it for host RAM.
//!
//! On the way in all pages of a granule are locked together: those beneath the guest leave it as victims do, the bytes
//! of all go to consecutive frames, the accelerator maps them, the entries are committed. On the way out, for a vCPU
//! or another accelerator, the accelerator lets go first, and acknowledges, before a byte is read.
//!
//! | file | what an accelerator gets |
//! |---|---|
//! | `place` | what the policy says of the granule that it touched |
//! | `near`, `away` | the granule, in its own memory and nowhere else; room for it |
//! | `remote` | the granule where it is beneath the guest |
//! | `copies` | a copy of it for reading, which the first write of anybody ends |
//! | `sharing` | which pages are reached so; `ledger` what is known of an accelerator |

mod ahead;
mod away;
mod copies;
mod error;
mod ledger;
mod near;
mod place;
mod remote;
mod sharing;

pub use error::{AttachError, DeviceError};
pub use ledger::Traffic;
pub use place::Cause;
pub(super) use sharing::Sharing;

use super::Engine;
use crate::hnode::Hnode;
use crate::hnode::device::{Access, Device};
use crate::page::{CLUSTER_PAGES, ClusterNo, PageNo, bits};
use crate::policy::Placement;
use crate::table::Place;
use crate::table::lock::Atomic;
use ledger::Ledger;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

/// How often a granule whose pages others hold, or the kernel calls busy, is tried again.
const PATIENCE: u32 = 20_000;
/// How often staged pages are put back beneath the guest for room in the arena, before all is said to be full.
const UNSTAGES: u32 = 8;
/// How often room is looked for where everything that could make way is locked, or pinned.
const ROOM_PATIENCE: u32 = 2000;

/// How far a granule has come.
enum Near {
    /// It is within the accelerator's reach.
    There,
    /// Something made way for it, or brought it closer.
    Closer,
    /// Nothing can make way for it at this moment.
    NoRoom,
    /// The page is somebody else's at this moment.
    Busy(PageNo),
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
    ledger: Arc<Ledger>,
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
        self.sharing.begin(self.table.blocks());
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
                ledger: Arc::new(Ledger::new(&*device)),
                device,
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
        let mut unstaged = 0;
        loop {
            while device.usage().pages > attached.ledger.copies() {
                let sent = {
                    let _passing = self.gate.pass();
                    self.send_away(hnode, &attached, CLUSTER_PAGES, true)?
                };
                match sent.pages {
                    0 if unstaged < UNSTAGES && self.unstage()? => unstaged += 1,
                    0 => return Err(DeviceError::full(device, 0)),
                    _ => unstaged = 0,
                }
            }
            let _still = self.quiesce();
            self.drop_copies(hnode, &attached, u64::MAX, true);
            self.withdraw_all_remote(device);
            // A fault may have come in between.
            if device.usage().pages == 0 {
                let mut devices = self.slots_mut();
                devices[usize::from(hnode) - self.tiers.len() - 1].attached = None;
                return Ok(());
            }
        }
    }

    /// Brings the granule of `page` within the reach of accelerator `hnode` for `access`.
    pub fn device_fault(
        &self,
        hnode: u8,
        page: PageNo,
        access: Access,
        cause: Cause,
    ) -> Result<(), DeviceError> {
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
        let mut unstaged = 0;
        for attempt in 0.. {
            let near = {
                let _passing = self.gate.pass();
                // Asked again: it may have been detached meanwhile.
                let attached = self.attached(hnode)?;
                match self.lock_all(cluster, mask)? {
                    Some(held) => self.place(held, mask, hnode, &attached, access, cause),
                    None => Ok(Near::Busy(first)),
                }
            };
            let near = match near {
                Err(DeviceError::Full { .. }) if unstaged < UNSTAGES && self.unstage()? => {
                    unstaged += 1;
                    Near::Closer
                }
                near => near?,
            };
            match near {
                Near::There => break,
                Near::Busy(page) if attempt == PATIENCE => return Err(DeviceError::Busy { page }),
                // What is hot works where it is.
                Near::NoRoom if attempt >= ROOM_PATIENCE || cause == Cause::Heat => {
                    return Err(DeviceError::full(&*attached.device, pages));
                }
                Near::Busy(_) | Near::NoRoom => AtomicU64::give_way(attempt),
                Near::Closer if attempt >= PATIENCE => {
                    return Err(DeviceError::Busy { page: first });
                }
                Near::Closer => {}
            }
        }
        self.stats.device_faults.record(arrived.elapsed());
        self.wake_background_if_low();
        Ok(())
    }

    /// Says where pages go that accelerator `hnode` touches; nothing if it is not attached.
    pub fn set_placement(&self, hnode: u8, placement: Placement) {
        if let Ok(attached) = self.attached(hnode) {
            attached.ledger.set_placement(placement);
        }
    }

    /// What crossed the link of accelerator `hnode`; nothing if it is not attached.
    pub fn traffic(&self, hnode: u8) -> Traffic {
        self.attached(hnode)
            .map(|attached| attached.ledger.traffic())
            .unwrap_or_default()
    }

    /// Bytes that are kept about accelerators and what they reach.
    pub(super) fn devices_metadata_bytes(&self) -> u64 {
        let ledgers = self.all_attached().into_iter();
        let ledgers = ledgers.map(|(_, attached)| attached.ledger.metadata_bytes());
        ledgers.sum::<u64>() + self.sharing.metadata_bytes()
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
        let all = self.all_attached().into_iter();
        all.map(|(hnode, attached)| (hnode, attached.device))
            .collect()
    }

    fn all_attached(&self) -> Vec<(u8, Attached)> {
        let devices = self.slots();
        let numbered = devices.iter().enumerate();
        let there = numbered.filter_map(|(at, slot)| Some((at, slot.attached.clone()?)));
        there
            .map(|(at, attached)| ((self.tiers.len() + at + 1) as u8, attached))
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

    /// Proof that no accelerator is attached, nor will be while it lives. Nothing else that asks for the accelerators may be
    /// called meanwhile.
    pub(super) fn unshared(&self) -> Option<impl Drop + '_> {
        let slots = self.slots();
        let none = slots.iter().all(|slot| slot.attached.is_none());
        none.then_some(slots)
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
