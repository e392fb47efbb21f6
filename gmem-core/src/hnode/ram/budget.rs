//! How many frames of host RAM may exist, and how many do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The host budget, in pages. Every frame beneath the guest or in the arena counts.
#[derive(Debug)]
pub(super) struct Budget {
    cap: AtomicU64,
    existing: AtomicU64,
    peak: AtomicU64,
    lifted: AtomicBool,
}

impl Budget {
    pub(super) fn new(cap: u64) -> Self {
        Self {
            cap: AtomicU64::new(cap),
            existing: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            lifted: AtomicBool::new(false),
        }
    }

    /// Counts up to `pages` (in multiples of `step`) that are about to be created; returns how many may
    /// be.
    pub(super) fn create(&self, pages: u64, step: u64) -> u64 {
        let lifted = self.lifted.load(Ordering::Relaxed);
        let mut granted = 0;
        let counted = self
            .existing
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |existing| {
                let room = self.cap().saturating_sub(existing);
                let most = if lifted { pages } else { room.min(pages) };
                granted = most - most % step;
                Some(existing + granted)
            });
        if let Ok(before) = counted {
            self.peak.fetch_max(before + granted, Ordering::Relaxed);
        }
        granted
    }

    /// Counts pages that exist although nobody asked: found present when memory was armed.
    pub(super) fn adopt(&self, pages: u64) {
        let before = self.existing.fetch_add(pages, Ordering::AcqRel);
        self.peak.fetch_max(before + pages, Ordering::Relaxed);
    }

    /// Counts pages that were given back to the kernel.
    pub(super) fn released(&self, pages: u64) {
        self.existing.fetch_sub(pages, Ordering::AcqRel);
    }

    pub(super) fn cap(&self) -> u64 {
        self.cap.load(Ordering::Relaxed)
    }

    pub(super) fn set_cap(&self, pages: u64) {
        self.cap.store(pages, Ordering::Relaxed);
    }

    /// From now on frames may be created without limit: for the end of the microVM.
    pub(super) fn lift(&self) {
        self.lifted.store(true, Ordering::Relaxed);
    }

    pub(super) fn existing(&self) -> u64 {
        self.existing.load(Ordering::Acquire)
    }

    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// How many frames exist beyond the cap: after the cap was lowered.
    pub(super) fn excess(&self) -> u64 {
        if self.lifted.load(Ordering::Relaxed) {
            return 0;
        }
        self.existing().saturating_sub(self.cap())
    }
}
