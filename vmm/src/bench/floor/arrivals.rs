//! Pages that came in, in order.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A ring that handlers write and one thread reads. At most as many pages as the guest has are in it, because each is
/// resident.
pub(super) struct Arrivals {
    /// Numbers of pages, plus one; 0 where none has been written yet.
    ring: Box<[AtomicU32]>,
    /// How many came in, ever.
    count: AtomicU64,
}

impl Arrivals {
    pub(super) fn new(pages: u64) -> Self {
        let len = pages.next_power_of_two();
        Self {
            ring: (0..len).map(|_| AtomicU32::new(0)).collect(),
            count: AtomicU64::new(0),
        }
    }

    pub(super) fn push(&self, page: u64) {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.slot(count).store(page as u32 + 1, Ordering::Release);
    }

    /// Takes out the one that came in after `before` others, if it is there.
    pub(super) fn take(&self, before: u64) -> Option<u64> {
        let found = self.slot(before).swap(0, Ordering::Acquire);
        u64::from(found).checked_sub(1)
    }

    fn slot(&self, number: u64) -> &AtomicU32 {
        &self.ring[number as usize & (self.ring.len() - 1)]
    }
}
