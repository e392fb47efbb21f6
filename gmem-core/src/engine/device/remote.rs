//! Pages that accelerators reach where they are, beneath the guest.

use super::ahead::map_all;
use super::place::indices;
use super::sharing::clusters;
use super::{Attached, DeviceError, Near};
use crate::engine::{Engine, Outcome};
use crate::hnode::device::{Device, Reach};
use crate::page::{ClusterNo, PageNo, runs};
use crate::table::{Flags, Pages, State};

impl Engine {
    /// Lets an accelerator reach a granule beneath the guest. What of it is elsewhere is brought there first, as by a
    /// touch of a vCPU: the locks are let go of for that, and the granule has come closer.
    pub(super) fn reach_remotely(
        &self,
        mut pages: Pages<'_>,
        mask: u64,
        attached: &Attached,
    ) -> Result<Near, DeviceError> {
        let cluster = pages.cluster();
        let elsewhere = |index: &usize| pages.entry(*index).state() != State::Mapped;
        if indices(mask).any(|index| elsewhere(&index)) {
            drop(pages);
            return self.bring_beneath(cluster, mask);
        }
        // A unit that wrote to a protected page would wait in the middle of a chunk.
        self.open(cluster, mask);
        self.sharing.set_remote(cluster, mask);
        let first = cluster.page(mask.trailing_zeros() as usize);
        map_all(
            &*attached.device,
            first,
            mask.count_ones() as usize,
            Reach::Host,
        )?;
        for index in indices(mask) {
            let entry = pages.entry(index);
            pages.commit(index, entry.with_flags(entry.flags().with(Flags::ACCESSED)));
        }
        Ok(Near::There)
    }

    fn bring_beneath(&self, cluster: ClusterNo, mask: u64) -> Result<Near, DeviceError> {
        for page in cluster.pages(mask) {
            if self.table.peek(page).state() == State::Mapped {
                continue;
            }
            let outcome = self.bring(page, mask)?;
            self.wake(page, mask, outcome);
            if outcome == Outcome::Waiting {
                return Ok(Near::NoRoom);
            }
        }
        Ok(Near::Closer)
    }

    /// Takes pages out of the reach of every accelerator that reaches them beneath the guest. On return none does. The
    /// caller holds their entries.
    ///
    /// Of a larger granule one page is enough to lose the others: their bits stay, for nothing.
    pub(in crate::engine) fn withdraw_remote(&self, page: PageNo, pages: usize) {
        for (cluster, mask) in clusters(page, pages) {
            let reached = self.sharing.remote(cluster) & mask;
            if reached == 0 {
                continue;
            }
            for (_, attached) in self.all_attached() {
                for (first, length) in runs(reached) {
                    attached.device.withdraw(cluster.page(first), length);
                }
            }
            self.sharing.forget_remote(cluster, reached);
        }
    }

    /// Takes all that an accelerator may reach beneath the guest out of its reach; nothing migrates meanwhile.
    pub(super) fn withdraw_all_remote(&self, device: &dyn Device) {
        for (cluster, mask) in self.sharing.remote_clusters() {
            for (first, length) in runs(mask) {
                device.withdraw(cluster.page(first), length);
            }
        }
    }
}
