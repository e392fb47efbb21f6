//! Whether guest memory fits its tiers: when it is made, and when budget or memory change their size.

use super::{ConfigError, Engine};
use crate::bytes::Bytes;
use crate::page::{BLOCK_PAGES, PAGE_SIZE, PageRange, Unit};
use std::sync::{MutexGuard, PoisonError};

/// Checks that there is RAM, in ranges of whole units that do not overlap.
pub(super) fn check_ram(ram: &[PageRange], unit: Unit) -> Result<(), ConfigError> {
    let wrong = |range: &PageRange, problem| {
        Err(ConfigError::Ram {
            start: range.start,
            pages: range.pages,
            problem,
        })
    };
    if ram.is_empty() {
        return wrong(&PageRange::default(), "is none: give at least one range");
    }
    for (at, range) in ram.iter().enumerate() {
        let whole = |page: u64| page.is_multiple_of(unit.pages() as u64);
        if range.pages == 0 {
            return wrong(range, "is empty");
        }
        if !whole(range.start.0) || !whole(range.pages) {
            return wrong(
                range,
                "is not made of whole units: with units of 2M give multiples of 2M",
            );
        }
        let overlaps = |other: &PageRange| other.start < range.end() && range.start < other.end();
        if ram[..at].iter().any(overlaps) {
            return wrong(range, "overlaps another range");
        }
    }
    Ok(())
}

/// Pages of the host budget that are not counted as room for guest memory: full tiers exchange pages
/// through them.
pub const fn reserve_pages(unit: Unit) -> u64 {
    match unit {
        Unit::Page => 128,
        Unit::Block => 2 * BLOCK_PAGES as u64,
    }
}

/// The smallest host budget, pages.
pub const fn least_budget_pages(unit: Unit) -> u64 {
    match unit {
        Unit::Page => 256,
        Unit::Block => 4 * BLOCK_PAGES as u64,
    }
}

impl Engine {
    /// Pages of guest memory, without what is not plugged in.
    pub fn memory_pages(&self) -> u64 {
        let unplugged = *self.unplugged();
        self.ram_pages().saturating_sub(unplugged)
    }

    fn ram_pages(&self) -> u64 {
        self.ram.iter().map(|range| range.pages).sum()
    }

    fn unplugged(&self) -> MutexGuard<'_, u64> {
        self.unplugged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how many pages of RAM the guest may not use: fewer when memory is plugged in, more when it is
    /// unplugged, and then [freed](Engine::free) first. Refused if guest memory would not fit, unless
    /// overcommit is allowed.
    ///
    /// The engine does not ask which pages these are. A guest that uses them all the same, or makes a device
    /// use them, finds memory there, within the host budget as ever: what it fills are its own tiers, and it
    /// waits for its own room.
    pub fn set_unplugged(&self, pages: u64) -> Result<(), ConfigError> {
        let mut unplugged = self.unplugged();
        self.check_sizes(self.arena.cap(), pages)?;
        *unplugged = pages;
        Ok(())
    }

    /// Changes the host budget, in pages, while the guest runs.
    ///
    /// Raising it lets waiting faults go on at once. Lowering it returns at once; the background thread
    /// evicts the excess. Refused if guest memory would then not fit, unless overcommit is allowed.
    pub fn set_budget(&self, pages: u64) -> Result<(), ConfigError> {
        let _passing = self.gate.pass();
        let unplugged = self.unplugged();
        self.check_sizes(pages, *unplugged)?;
        self.arena.set_cap(pages);
        self.wake_background();
        Ok(())
    }

    pub(super) fn check_sizes(&self, host: u64, unplugged: u64) -> Result<(), ConfigError> {
        let bytes = |pages: u64| Bytes(pages * PAGE_SIZE as u64);
        let least = least_budget_pages(self.unit);
        if host < least {
            return Err(ConfigError::Budget {
                found: bytes(host),
                least: bytes(least),
            });
        }
        let memory = self.ram_pages().saturating_sub(unplugged);
        let reserve = reserve_pages(self.unit);
        let tiers: u64 = self.tiers.iter().map(|tier| tier.guaranteed_pages()).sum();
        let capacity = host - reserve + tiers;
        // Memory that fits the host as it is needs no room to turn: each page has a frame to come back to.
        if memory > host.max(capacity) && !self.overcommit {
            return Err(ConfigError::Capacity {
                memory: bytes(memory),
                capacity: bytes(capacity),
                host: bytes(host),
                reserve: bytes(reserve),
                tiers: bytes(tiers),
            });
        }
        Ok(())
    }
}
