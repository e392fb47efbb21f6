//! A tier that is about to end is relieved of what it holds.

use super::{Engine, FaultError};
use crate::page::{CLUSTER_PAGES, ClusterNo};
use crate::table::{ClusterView, Entry, State};
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages that leave in one turn of the background thread.
const AT_ONCE: usize = 1024;

/// Where the search for pages that fit into the host goes on.
#[derive(Debug, Default)]
pub(super) struct Evacuation {
    next: AtomicU64,
}

impl Engine {
    /// Moves pages out of tiers that are about to end: to other tiers, and what finds no room there beneath the guest, as far as
    /// there is some without evicting others. Returns how many moved.
    pub(super) fn evacuate(&self) -> Result<usize, FaultError> {
        let mut moved = 0;
        for hnode in 1..=self.tiers.len() as u8 {
            let tier = self.tier(hnode);
            if !tier.is_going() || tier.usage().pages == 0 {
                continue;
            }
            moved += match self.demote(hnode, AT_ONCE)? {
                0 => self.bring_from(hnode)?,
                count => count,
            };
        }
        Ok(moved)
    }

    fn bring_from(&self, hnode: u8) -> Result<usize, FaultError> {
        let here =
            |entry: Entry| matches!(entry.state(), State::Held(place) if place.hnode == hnode);
        let clusters = self.table.clusters();
        let mut moved = 0;
        for _ in 0..clusters {
            if moved >= AT_ONCE
                || self.arena.available() < self.low_watermark() + CLUSTER_PAGES as u64
            {
                break;
            }
            let cluster =
                ClusterNo(self.evacuation.next.fetch_add(1, Ordering::Relaxed) % clusters);
            let mask = match self.table.view(cluster) {
                ClusterView::Whole(entry) if here(entry) => u64::MAX,
                ClusterView::Whole(_) => 0,
                _ => (0..CLUSTER_PAGES)
                    .filter(|index| here(self.table.peek(cluster.page(*index))))
                    .fold(0, |mask, index| mask | 1 << index),
            };
            if mask != 0 {
                moved += self.bring_some(cluster, mask)?.unwrap_or(0);
            }
        }
        Ok(moved)
    }
}
