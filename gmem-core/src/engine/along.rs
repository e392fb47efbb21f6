//! Pages come that nobody has touched yet.

use super::bring::NOBODY;
use super::{Engine, FaultError};
use crate::hnode::Owner;
use crate::page::{CLUSTER_PAGES, ClusterNo, PageNo, Unit, runs};
use crate::policy::Plan;
use crate::table::{ClusterView, Entry, Pages, Place, State};

impl Engine {
    /// Brings in what a plan names beside the cluster of `touched`, where nobody has it locked and as far as there is room
    /// without making any; returns how many pages came. Who waits for them has a fault of its own under way.
    pub(super) fn bring_along(&self, touched: PageNo, plan: &Plan) -> Result<usize, FaultError> {
        if !self.has_room_for(plan) {
            return Ok(0);
        }
        let own = ClusterNo::of(touched);
        self.announce(plan, Some(own));
        let mut brought = 0;
        for &(cluster, mask) in plan.clusters().iter().filter(|(it, _)| *it != own) {
            match self.bring_some(cluster, mask)? {
                None => break,
                Some(count) => brought += count,
            }
        }
        Ok(brought)
    }

    /// Tells tiers that are far away what of theirs a plan's clusters are about to want, but for one cluster.
    pub(super) fn announce(&self, plan: &Plan, but: Option<ClusterNo>) {
        if !self.far {
            return;
        }
        let mut frames = Vec::with_capacity(CLUSTER_PAGES);
        for (tier, hnode) in self.tiers.iter().zip(1..) {
            frames.clear();
            for &(cluster, mask) in plan.clusters().iter().filter(|(it, _)| Some(*it) != but) {
                frames.extend(
                    cluster
                        .pages(self.in_ram(cluster, mask))
                        .filter_map(|page| match self.table.peek(page).state() {
                            State::Held(place) if place.hnode == hnode => Some(place.frame),
                            _ => None,
                        }),
                );
            }
            // All clusters' together: each time is a request.
            if !frames.is_empty() && tier.capabilities().owner == Owner::Peer {
                tier.announce(&frames);
            }
        }
    }

    /// Whether a plan's pages may come without making anybody wait for room.
    pub(super) fn has_room_for(&self, plan: &Plan) -> bool {
        self.unit == Unit::Page && 2 * plan.pages() <= self.arena.available()
    }

    /// Brings in those pages in `mask` of `cluster` that are not there and that nobody has locked; `None` if there is no
    /// room.
    pub(super) fn bring_some(
        &self,
        cluster: ClusterNo,
        mask: u64,
    ) -> Result<Option<usize>, FaultError> {
        let mut brought = 0;
        if let Some(mut pages) = self.lock_along(cluster, mask) {
            while let Some((first, length)) = runs(pages.mask()).next() {
                match self.bring_run(&mut pages, first, length, NOBODY)? {
                    0 => return Ok(None),
                    count => brought += count,
                }
            }
        }
        Ok(Some(brought))
    }

    /// Locks the pages in `mask` of `cluster` that may come along.
    fn lock_along(&self, cluster: ClusterNo, mask: u64) -> Option<Pages<'_>> {
        let mask = self.in_ram(cluster, mask);
        if mask == 0 {
            return None;
        }
        // What accelerators use is not taken from them unasked.
        let mask = mask & !self.sharing.copied(cluster);
        let comes = |entry: Entry| match entry.state() {
            State::Untouched => true,
            State::Held(place) => !self.is_device(place),
            _ => false,
        };
        if let ClusterView::Whole(_) = self.table.view(cluster) {
            let block = self.table.try_lock_block(cluster.block())?;
            let staged = |place: Place| place.hnode == Place::RAM;
            // Staged blocks lie in one frame of 2 MiB: they come back whole, when they are touched.
            if !comes(block.entry())
                || matches!(block.entry().state(), State::Held(it) if staged(it))
            {
                return None;
            }
            block.split();
        }
        self.table
            .try_lock_pages(cluster, mask, |_, entry| comes(entry))
    }
}
