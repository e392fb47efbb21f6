//! What becomes of a granule that an accelerator touched: the policy decides, the engine does it.

use super::ahead::map_all;
use super::{Attached, DeviceError, Near};
use crate::engine::Engine;
use crate::hnode::device::Access;
use crate::page::PageNo;
use crate::policy::placement::is_hot;
use crate::policy::{Choice, Wanted, Whereabouts};
use crate::table::{Flags, Pages, State};

/// Why a granule is wanted within an accelerator's reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The accelerator touched it.
    Touch,
    /// The accelerator used it much, over the link.
    Heat,
    /// Somebody said that the accelerator will use it.
    Advice,
}

impl Engine {
    /// Brings a granule, all of its pages locked, within an accelerator's reach; or closer; or says what stands in the
    /// way.
    pub(super) fn place(
        &self,
        pages: Pages<'_>,
        mask: u64,
        hnode: u8,
        attached: &Attached,
        access: Access,
        cause: Cause,
    ) -> Result<Near, DeviceError> {
        if let Some(there) = self.is_near(&pages, mask, hnode, access) {
            let count = mask.count_ones() as usize;
            map_all(&*attached.device, there.page, count, there.reach)?;
            return Ok(Near::There);
        }
        // Only a vCPU gets what is pinned in an accelerator's memory.
        let is_near = |state| matches!(state, State::Held(place) if self.is_device(place));
        let pinned = |index: &usize| pages.entry(*index).flags().has(Flags::PINNED);
        let pinned_near = |index: &usize| pinned(index) && is_near(pages.entry(*index).state());
        if let Some(index) = indices(mask).find(pinned_near) {
            let page = pages.cluster().page(index);
            return Err(DeviceError::Pinned { page });
        }
        let device = &*attached.device;
        let cluster = pages.cluster();
        let first = cluster.page(mask.trailing_zeros() as usize);
        let wanted = Wanted {
            access,
            whereabouts: self.whereabouts(&pages, mask),
            pinned: indices(mask).any(|index| pinned(&index)),
            room: device.has_room(mask.count_ones() as usize),
            copied: self.copied_frames(cluster, mask, hnode).is_some(),
            came: attached.ledger.came(first),
            reaches_host: device.reaches_host(),
            near: cause != Cause::Touch,
        };
        match attached.ledger.placement().choose(wanted) {
            Choice::Migrate => self.bring_near(pages, mask, hnode, attached),
            Choice::Copy => self.copy_near(pages, mask, hnode, attached),
            Choice::Remote => self.reach_remotely(pages, mask, attached),
        }
    }

    fn whereabouts(&self, pages: &Pages<'_>, mask: u64) -> Whereabouts {
        let mut found = Whereabouts::Untouched;
        for index in indices(mask) {
            match pages.entry(index).state() {
                State::Mapped => return Whereabouts::Guest,
                State::Held(place) if self.is_device(place) => found = Whereabouts::Accelerator,
                State::Held(_) if found == Whereabouts::Untouched => found = Whereabouts::Tier,
                _ => {}
            }
        }
        found
    }

    /// Notes that accelerator `hnode` accessed `bytes` of a page over the link, and that its command is about `ahead` pages
    /// from there on; a granule that is hot comes, with those.
    pub fn device_accessed(
        &self,
        hnode: u8,
        page: PageNo,
        access: Access,
        bytes: u64,
        ahead: u64,
    ) -> Result<(), DeviceError> {
        let attached = self.attached(hnode)?;
        let ledger = &attached.ledger;
        ledger.remote.add(bytes);
        if ledger.placement() != crate::policy::Placement::Adaptive {
            return Ok(());
        }
        let pages = attached.device.granule() as u64;
        let granule = page.0 / pages;
        let noted = ledger.heat.note(granule, pages, bytes);
        if !is_hot(noted, pages, ledger.came(page)) {
            return Ok(());
        }
        ledger.heat.forget(granule);
        // What its command touches next was, in all likelihood, used as much.
        match self.device_fault_ahead(hnode, page, access, Cause::Heat, ahead) {
            // It works as well, if slower, where it is.
            Err(
                DeviceError::Full { .. } | DeviceError::Busy { .. } | DeviceError::Pinned { .. },
            ) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

/// The indices in a mask.
pub(super) fn indices(mask: u64) -> impl Iterator<Item = usize> {
    (0..crate::page::CLUSTER_PAGES).filter(move |index| mask & 1 << index != 0)
}
