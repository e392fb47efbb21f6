//! What the engine knows of an accelerator in an address space.

use crate::hnode::device::Device;
use crate::page::{PAGE_SIZE, PageNo};
use crate::policy::{Heat, Placement};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What crossed an accelerator's link, and what did not have to. Bytes, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Came into its memory, to be nowhere else. Zeros are made there.
    pub migrated_in: u64,
    /// Left its memory for host RAM, a tier or another accelerator.
    pub migrated_out: u64,
    /// Came into its memory as copies.
    pub copied_in: u64,
    /// Accessed beneath the guest.
    pub remote: u64,
    /// Pages of copies that made way for others; nothing crosses the link.
    pub dropped: u64,
    /// Pages of copies that ended because somebody wrote to the page, or might.
    pub collapsed: u64,
    /// Pages that were copies and became the accelerator's own when it wrote to them; nothing crosses the link.
    pub upgraded: u64,
    /// Pages that came within its reach with one that it touched, because its command was about them too.
    pub ahead: u64,
}

impl Traffic {
    /// All that crossed the link.
    pub fn bytes(&self) -> u64 {
        self.migrated_in + self.migrated_out + self.copied_in + self.remote
    }
}

/// One number of [`Traffic`].
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn add_pages(&self, pages: usize) {
        self.add((pages * PAGE_SIZE) as u64);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The cluster at which the next search for pages to send away begins.
    pub(super) hand: AtomicU64,
    /// The page at which the next search for copies to drop begins.
    pub(super) copies_hand: AtomicU64,
    /// Bytes accessed over the link.
    pub(super) heat: Heat,
    /// Bytes that came into its memory.
    moves: Heat,
    pub(super) migrated_in: Counter,
    pub(super) migrated_out: Counter,
    pub(super) copied_in: Counter,
    pub(super) remote: Counter,
    pub(super) dropped: Counter,
    pub(super) collapsed: Counter,
    pub(super) upgraded: Counter,
    pub(super) ahead: Counter,
    /// Pages of which it has copies now.
    copies: AtomicU64,
    placement: AtomicU8,
    granule: u64,
}

impl Ledger {
    pub(super) fn new(device: &dyn Device) -> Self {
        let granules = device.usage().capacity_bytes / (device.granule() * PAGE_SIZE) as u64;
        Self {
            hand: AtomicU64::default(),
            copies_hand: AtomicU64::default(),
            heat: Heat::new(granules),
            moves: Heat::new(granules),
            granule: device.granule() as u64,
            migrated_in: Counter::default(),
            migrated_out: Counter::default(),
            copied_in: Counter::default(),
            remote: Counter::default(),
            dropped: Counter::default(),
            collapsed: Counter::default(),
            upgraded: Counter::default(),
            ahead: Counter::default(),
            copies: AtomicU64::default(),
            placement: AtomicU8::new(Placement::default() as u8),
        }
    }

    /// Notes that `crossed` of the `count` pages from `page` on, whole granules, came over the link.
    pub(super) fn note_came(&self, page: PageNo, count: usize, crossed: usize) {
        if crossed > 0 {
            // Which of them were zeros is not worth knowing.
            let bytes = (crossed * PAGE_SIZE) as u64 * self.granule / count as u64;
            for granule in (page.0..page.0 + count as u64).step_by(self.granule as usize) {
                self.moves.note(granule / self.granule, self.granule, bytes);
            }
        }
    }

    /// How often the granule of `page` came over the link lately.
    pub(super) fn came(&self, page: PageNo) -> u64 {
        self.moves.of(page.0 / self.granule) / (self.granule * PAGE_SIZE as u64)
    }

    /// Bytes that it takes.
    pub(super) fn metadata_bytes(&self) -> u64 {
        self.heat.metadata_bytes() + self.moves.metadata_bytes()
    }

    /// Pages of which it has copies.
    pub(super) fn copies(&self) -> u64 {
        self.copies.load(Ordering::SeqCst)
    }

    pub(super) fn more_copies(&self, pages: usize) {
        self.copies.fetch_add(pages as u64, Ordering::SeqCst);
    }

    pub(super) fn fewer_copies(&self, pages: usize) {
        self.copies.fetch_sub(pages as u64, Ordering::SeqCst);
    }

    pub(super) fn placement(&self) -> Placement {
        let all = [
            Placement::Adaptive,
            Placement::FirstTouch,
            Placement::Remote,
        ];
        let now = self.placement.load(Ordering::Relaxed);
        all.into_iter()
            .find(|placement| *placement as u8 == now)
            .unwrap_or_default()
    }

    pub(super) fn set_placement(&self, placement: Placement) {
        self.placement.store(placement as u8, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            migrated_in: self.migrated_in.get(),
            migrated_out: self.migrated_out.get(),
            copied_in: self.copied_in.get(),
            remote: self.remote.get(),
            dropped: self.dropped.get(),
            collapsed: self.collapsed.get(),
            upgraded: self.upgraded.get(),
            ahead: self.ahead.get(),
        }
    }
}
