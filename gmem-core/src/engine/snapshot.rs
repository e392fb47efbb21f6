//! How things stand, in numbers.

use super::Engine;
use crate::hnode::{Hnode, Kind, Peers};
use crate::page::{BLOCK_SIZE, PAGE_SIZE};
use crate::policy::hotness::cluster;
use crate::stats::{Flow, LatencySummary, Site};
use crate::table::{ClusterView, State};
use std::sync::atomic::Ordering::Relaxed;

/// A tier's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierSnapshot {
    /// Its name in reports.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Bytes it may use.
    pub capacity_bytes: u64,
    /// Bytes it uses.
    pub used_bytes: u64,
    /// The most it ever used.
    pub peak_bytes: u64,
    /// Guest pages it holds.
    pub pages: u64,
    /// How those are who hold them, if others do.
    pub peers: Option<Peers>,
}

/// An engine's numbers at one moment; not of one instant while pages move.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Guest memory, bytes.
    pub memory_bytes: u64,
    /// What the engine keeps about it, bytes.
    pub metadata_bytes: u64,
    /// The host first, then the tiers in their order, then accelerators.
    pub tiers: Vec<TierSnapshot>,
    /// Latency from learning of a fault to waking who waited.
    pub faults: LatencySummary,
    /// Latency of accelerators' faults, from asking to having the page.
    pub device_faults: LatencySummary,
    /// Pages that came along with a touched one.
    pub prefetched_pages: u64,
    /// Of those, pages that a stream of touches went past later.
    pub prefetch_used_pages: u64,
    /// Pages that the guest gave back and that held something.
    pub freed_pages: u64,
    /// Blocks that were made one frame of 2 MiB.
    pub promotions: u64,
    /// Blocks beneath the guest that were one frame, and no longer count as one.
    pub splits: u64,
    /// Bytes of blocks beneath the guest that count as one frame each.
    pub huge_bytes: u64,
    /// What moved where.
    pub flows: Vec<Flow>,
    /// Faults that wait for room now.
    pub waiting: usize,
    /// Faults that ever waited for room.
    pub stalls: u64,
    /// Writes to a tier that failed.
    pub store_errors: u64,
}

impl Engine {
    /// What holds pages now: the host first, then the tiers in their order, then accelerators.
    pub fn tier_snapshots(&self) -> Vec<TierSnapshot> {
        let page = PAGE_SIZE as u64;
        let host = TierSnapshot {
            name: Kind::Host.to_string(),
            kind: Kind::Host,
            capacity_bytes: self.arena.cap() * page,
            used_bytes: self.arena.existing() * page,
            peak_bytes: self.arena.peak() * page,
            pages: self.arena.existing() - self.arena.free_frames().min(self.arena.existing()),
            peers: None,
        };
        let of = |tier: &dyn Hnode| {
            let usage = tier.usage();
            TierSnapshot {
                name: tier.name().to_owned(),
                kind: tier.kind(),
                capacity_bytes: usage.capacity_bytes,
                used_bytes: usage.used_bytes,
                peak_bytes: usage.peak_bytes,
                pages: usage.pages,
                peers: tier.peers(),
            }
        };
        let tiers = self.tiers.iter().map(|tier| of(&**tier));
        let devices = self.attached_devices();
        let devices = devices.iter().map(|(_, device)| of(&**device));
        std::iter::once(host).chain(tiers).chain(devices).collect()
    }

    /// The numbers now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            memory_bytes: self.memory_pages() * PAGE_SIZE as u64,
            metadata_bytes: self.table.metadata_bytes()
                + self.arena.metadata_bytes()
                + self.promotion.metadata_bytes()
                + self
                    .tiers
                    .iter()
                    .map(|tier| tier.metadata_bytes())
                    .sum::<u64>()
                + self.devices_metadata_bytes(),
            tiers: self.tier_snapshots(),
            faults: self.stats.latency(),
            device_faults: self.stats.device_latency(),
            prefetched_pages: self.stats.prefetched.load(Relaxed),
            prefetch_used_pages: self.stats.prefetch_used.load(Relaxed),
            freed_pages: self.stats.freed.load(Relaxed),
            promotions: self.stats.promotions.load(Relaxed),
            splits: self.stats.splits.load(Relaxed),
            huge_bytes: self.huge_bytes(),
            flows: self.stats.flows(),
            waiting: self.stalls().waiting,
            stalls: self.stats.stalls.load(Relaxed),
            store_errors: self.stats.store_errors.load(Relaxed),
        }
    }

    /// Bytes of blocks beneath the guest that count as one frame each.
    fn huge_bytes(&self) -> u64 {
        let first = |block| cluster(block, 0);
        let is_whole = |block: &u64| match self.table.view(first(*block)) {
            ClusterView::Whole(entry) => entry.state() == State::Mapped,
            ClusterView::Pages(_) => false,
        };
        (0..self.table.blocks()).filter(is_whole).count() as u64 * BLOCK_SIZE as u64
    }

    /// The name of a site in reports.
    pub fn site_name(&self, site: Site) -> String {
        match site {
            Site::Zero => "zero".to_owned(),
            Site::Staged => "staged".to_owned(),
            Site::Host => "host".to_owned(),
            Site::Tier(n) => match self.tiers.get(usize::from(n) - 1) {
                Some(tier) => tier.name().to_owned(),
                None => self.device_name(n).unwrap_or_else(|| "?".to_owned()),
            },
        }
    }
}
