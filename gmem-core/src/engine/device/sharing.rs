//! Which pages accelerators reach beside their owners: remotely beneath the guest, or as copies.
//!
//! What is said of a page here is changed by the holder of its entry's lock only. The masks are cautious: a bit may stay
//! set when nothing is reached any more, and who looks closer finds out.

use crate::page::{BLOCK_CLUSTERS, CLUSTER_PAGES, ClusterNo, PageNo, bits};
use crate::table::Frame;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Parts of the table of copies, each with a lock of its own.
const SHARDS: usize = 32;

/// Pages of one cluster.
#[derive(Debug, Default)]
struct Masks {
    /// Some accelerator may reach them beneath the guest.
    remote: AtomicU64,
    /// Some accelerator may have a copy, or they are protected beneath the guest.
    copied: AtomicU64,
}

type Block = [Masks; BLOCK_CLUSTERS];

/// See the module's page.
#[derive(Debug, Default)]
pub(in crate::engine) struct Sharing {
    /// By block, from the first attachment on; filled when a page of the block is first shared.
    blocks: OnceLock<Box<[OnceLock<Box<Block>>]>>,
    filled: AtomicU64,
    /// Copies: from page and hnode, in one word, to the frame.
    copies: [Mutex<HashMap<u64, u64>>; SHARDS],
}

fn key(page: PageNo, hnode: u8) -> u64 {
    page.0 << 4 | u64::from(hnode)
}

/// The parts of `pages` pages from `page` on that lie in each cluster.
pub(super) fn clusters(page: PageNo, pages: usize) -> impl Iterator<Item = (ClusterNo, u64)> {
    let (mut next, end) = (page.0, page.0 + pages as u64);
    std::iter::from_fn(move || {
        let first = ClusterNo::index(PageNo(next));
        let length = (CLUSTER_PAGES - first).min((end - next) as usize);
        let part = (ClusterNo::of(PageNo(next)), bits(first, length));
        next += length as u64;
        (length > 0).then_some(part)
    })
}

impl Sharing {
    /// There will be accelerators, in a table of so many blocks.
    pub(super) fn begin(&self, blocks: u64) {
        self.blocks
            .get_or_init(|| (0..blocks).map(|_| OnceLock::new()).collect());
    }

    fn masks(&self, cluster: ClusterNo) -> Option<&Masks> {
        let block = self.blocks.get()?[cluster.block() as usize].get()?;
        Some(&block[cluster.0 as usize % BLOCK_CLUSTERS])
    }

    fn masks_or_new(&self, cluster: ClusterNo) -> Option<&Masks> {
        let block = self.blocks.get()?[cluster.block() as usize].get_or_init(|| {
            self.filled.fetch_add(1, Ordering::Relaxed);
            Box::default()
        });
        Some(&block[cluster.0 as usize % BLOCK_CLUSTERS])
    }

    /// Pages of a cluster that some accelerator may reach beneath the guest.
    pub(in crate::engine) fn remote(&self, cluster: ClusterNo) -> u64 {
        // Relaxed, as everywhere here: the entry's lock orders it.
        self.masks(cluster)
            .map_or(0, |masks| masks.remote.load(Ordering::Relaxed))
    }

    /// Pages of a cluster of which some accelerator may have a copy, or that are protected.
    pub(in crate::engine) fn copied(&self, cluster: ClusterNo) -> u64 {
        self.masks(cluster)
            .map_or(0, |masks| masks.copied.load(Ordering::Relaxed))
    }

    pub(super) fn set_remote(&self, cluster: ClusterNo, mask: u64) {
        if let Some(masks) = self.masks_or_new(cluster) {
            masks.remote.fetch_or(mask, Ordering::Relaxed);
        }
    }

    pub(super) fn forget_remote(&self, cluster: ClusterNo, mask: u64) {
        if let Some(masks) = self.masks(cluster) {
            masks.remote.fetch_and(!mask, Ordering::Relaxed);
        }
    }

    pub(super) fn set_copied(&self, cluster: ClusterNo, mask: u64) {
        if let Some(masks) = self.masks_or_new(cluster) {
            masks.copied.fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// Nobody has copies of these pages, and none of them is protected.
    pub(in crate::engine) fn forget_copied(&self, page: PageNo, pages: usize) {
        for (cluster, mask) in clusters(page, pages) {
            if self.copied(cluster) & mask != 0
                && let Some(masks) = self.masks(cluster)
            {
                masks.copied.fetch_and(!mask, Ordering::Relaxed);
            }
        }
    }

    /// The frame of accelerator `hnode` that has a copy of `page`.
    pub(in crate::engine) fn copy(&self, page: PageNo, hnode: u8) -> Option<Frame> {
        self.shard(page).get(&key(page, hnode)).copied().map(Frame)
    }

    pub(super) fn add_copy(&self, page: PageNo, hnode: u8, frame: Frame) {
        self.shard(page).insert(key(page, hnode), frame.0);
    }

    pub(super) fn remove_copy(&self, page: PageNo, hnode: u8) {
        self.shard(page).remove(&key(page, hnode));
    }

    /// Every copy there is, for an audit: page, hnode, frame.
    pub(in crate::engine) fn copies(&self) -> Vec<(PageNo, u8, Frame)> {
        let shards = self.copies.iter();
        let of = |shard: &Mutex<HashMap<u64, u64>>| -> Vec<(PageNo, u8, Frame)> {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let named =
                |(key, frame): (&u64, &u64)| (PageNo(key >> 4), (key & 15) as u8, Frame(*frame));
            shard.iter().map(named).collect()
        };
        shards.flat_map(of).collect()
    }

    /// Clusters in which a page may be reached beneath the guest.
    pub(in crate::engine) fn remote_clusters(&self) -> Vec<(ClusterNo, u64)> {
        let blocks = self.blocks.get().map_or(0, |blocks| blocks.len());
        let clusters = (0..(blocks * BLOCK_CLUSTERS) as u64).map(ClusterNo);
        let remote = clusters.map(|cluster| (cluster, self.remote(cluster)));
        remote.filter(|(_, mask)| *mask != 0).collect()
    }

    /// Bytes that all this takes.
    pub(in crate::engine) fn metadata_bytes(&self) -> u64 {
        let blocks = self.blocks.get().map_or(0, |blocks| blocks.len());
        let entry = size_of::<OnceLock<Box<Block>>>();
        let shards = self.copies.iter().map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            // Two words, and a byte of the hash table's own.
            shard.capacity() as u64 * 17
        });
        (blocks * entry) as u64
            + self.filled.load(Ordering::Relaxed) * size_of::<Block>() as u64
            + shards.sum::<u64>()
    }

    fn shard(&self, page: PageNo) -> MutexGuard<'_, HashMap<u64, u64>> {
        // A granule's pages have one lock.
        let shard = &self.copies[page.0 as usize / CLUSTER_PAGES % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
