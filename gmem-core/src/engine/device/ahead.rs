//! Faults that bring more than was touched: what the command that touched it will touch next, at once.
//!
//! Unlike a guess this is known: a command says what it is about. A transfer that is sixty-four times as long pays the
//! link's latency once, and the locks, the invalidation and the mapping of what lies together are taken together.

use super::place::indices;
use super::{Attached, Cause, DeviceError, Near};
use crate::engine::Engine;
use crate::hnode::device::{Access, Device, MapError, Reach};
use crate::page::{CLUSTER_PAGES, ClusterNo, PAGE_SIZE, PageNo, bits};
use crate::table::{Flags, Frame, Pages, State};
use std::time::Instant;

/// At most one in so many pages of the accelerator's memory comes at once.
const SHARES: u64 = 8;
/// How often more is tried for before a granule alone is brought.
const ATTEMPTS: usize = 4;

impl Engine {
    /// As [`Engine::device_fault`], for an accelerator that touched `page` and will touch up to `pages` from there on, itself
    /// included: as many of a cluster come along as lie together, if none of them is in its memory. Returns how many from
    /// `page` on were brought.
    pub fn device_fault_ahead(
        &self,
        hnode: u8,
        page: PageNo,
        access: Access,
        cause: Cause,
        pages: u64,
    ) -> Result<u64, DeviceError> {
        let attached = self.attached(hnode)?;
        let granule = attached.device.granule();
        let first = PageNo(page.0 / granule as u64 * granule as u64);
        // A command has several operands: one must not drive the others out.
        let share = attached.device.usage().capacity_bytes / PAGE_SIZE as u64 / SHARES;
        let room = (CLUSTER_PAGES - ClusterNo::index(first)).min(share as usize);
        let wanted = (page.0 - first.0).saturating_add(pages).min(room as u64) as usize;
        let count = 1 << wanted.max(1).ilog2();
        let want = (access, cause);
        if count > granule && self.bring_together(hnode, &attached, first, count, want)? {
            return Ok(count as u64 - (page.0 - first.0));
        }
        self.device_fault(hnode, page, access, cause)?;
        Ok(granule as u64 - (page.0 - first.0))
    }

    /// Brings several granules at once; false if they do not come together.
    fn bring_together(
        &self,
        hnode: u8,
        attached: &Attached,
        first: PageNo,
        count: usize,
        (access, cause): (Access, Cause),
    ) -> Result<bool, DeviceError> {
        let arrived = Instant::now();
        let (cluster, mask) = (ClusterNo::of(first), bits(ClusterNo::index(first), count));
        if !cluster.pages(mask).all(|page| self.is_ram(page)) {
            return Ok(false);
        }
        for _ in 0..ATTEMPTS {
            let _passing = self.gate.pass();
            let Some(held) = self.lock_all(cluster, mask)? else {
                return Ok(false);
            };
            if indices(mask).any(|index| self.stands_apart(&held, index, hnode)) {
                return Ok(false);
            }
            match self.place(held, mask, hnode, attached, access, cause) {
                Ok(Near::There) => {
                    let along = count - attached.device.granule();
                    attached.ledger.ahead.add(along as u64);
                    self.stats.device_faults.record(arrived.elapsed());
                    self.wake_background_if_low();
                    return Ok(true);
                }
                Ok(Near::Closer) => {}
                // The granule that was touched may come all the same.
                Ok(Near::Busy(_) | Near::NoRoom) | Err(DeviceError::Full { .. }) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether a page is not to be brought with others: it is in the accelerator's memory in some way, or pinned.
    fn stands_apart(&self, pages: &Pages<'_>, index: usize, hnode: u8) -> bool {
        let entry = pages.entry(index);
        matches!(entry.state(), State::Held(place) if place.hnode == hnode)
            || entry.flags().has(Flags::PINNED)
            || self
                .sharing
                .copy(pages.cluster().page(index), hnode)
                .is_some()
    }
}

/// Maps `count` pages from `page` on, granule by granule; all or none.
pub(super) fn map_all(
    device: &dyn Device,
    page: PageNo,
    count: usize,
    reach: Reach,
) -> Result<(), MapError> {
    for done in (0..count).step_by(device.granule()) {
        let reach = match reach {
            Reach::Local { frame, writable } => Reach::Local {
                frame: Frame(frame.0 + done as u64),
                writable,
            },
            Reach::Host => Reach::Host,
        };
        device
            .map(page.add(done as u64), reach)
            .inspect_err(|_| device.withdraw(page, done))?;
    }
    Ok(())
}
