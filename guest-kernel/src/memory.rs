//! Which RAM the workloads use, as one row of pages.

use core::sync::atomic::AtomicU64;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// 64-bit words of a page.
pub const PAGE_WORDS: usize = 512;
/// Pages of a 2 MiB block.
pub const BLOCK_PAGES: u64 = 512;

const BLOCK_SIZE: u64 = BLOCK_PAGES * PAGE_SIZE;
const MAX_REGIONS: usize = 8;

/// The words of one page. CPUs share pages, hence atomics.
pub type Page = [AtomicU64; PAGE_WORDS];

/// A range of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
}

impl Region {
    fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE_SIZE
    }
}

/// The pages of up to eight regions, numbered from 0 in ascending order of address.
#[derive(Clone, Debug)]
pub struct WorkingSet {
    regions: [Region; MAX_REGIONS],
    pages: u64,
}

impl WorkingSet {
    /// The part of `ram` from `floor` on: regions start at a 2 MiB boundary and end at a page's. Regions
    /// beyond the eighth are left out.
    ///
    /// # Safety
    ///
    /// For as long as the working set is used, these addresses must be readable and writable memory, the
    /// regions must not overlap, and only working sets may use them.
    pub unsafe fn new(ram: impl Iterator<Item = Region>, floor: u64) -> Self {
        let mut set = Self {
            regions: [Region::default(); MAX_REGIONS],
            pages: 0,
        };
        let usable = ram
            .filter_map(|region| {
                let start = region
                    .start
                    .max(floor)
                    .checked_next_multiple_of(BLOCK_SIZE)?;
                let end = region.end / PAGE_SIZE * PAGE_SIZE;
                (start < end).then_some(Region { start, end })
            })
            .take(MAX_REGIONS);
        for (slot, region) in set.regions.iter_mut().zip(usable) {
            *slot = region;
            set.pages += region.pages();
        }
        set.regions.sort_unstable_by_key(|region| match region.end {
            0 => u64::MAX,
            _ => region.start,
        });
        set
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The first address after the last page; 0 if there is no page.
    pub fn end(&self) -> u64 {
        let used = self.regions.iter().filter(|region| region.pages() > 0);
        used.map(|region| region.end).max().unwrap_or(0)
    }

    /// The same, less all pages from number `pages` on.
    pub fn truncated(mut self, pages: u64) -> Self {
        let mut left = pages;
        for region in &mut self.regions {
            let kept = region.pages().min(left);
            region.end = region.start + kept * PAGE_SIZE;
            left -= kept;
        }
        self.pages -= self.pages.saturating_sub(pages);
        self
    }

    /// The same, less all regions but the largest.
    pub fn in_one_piece(mut self) -> Self {
        let largest = self.regions.into_iter().max_by_key(Region::pages);
        self.regions = [Region::default(); MAX_REGIONS];
        self.regions[0] = largest.unwrap_or_default();
        self.pages = self.regions[0].pages();
        self
    }

    /// Address of page number `index`.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    #[inline]
    pub fn address(&self, index: u64) -> u64 {
        let mut left = index;
        for region in &self.regions {
            let pages = region.pages();
            if left < pages {
                return region.start + left * PAGE_SIZE;
            }
            left -= pages;
        }
        panic!("page {index} of a working set of {} pages", self.pages)
    }

    /// Page number `index`.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    #[inline]
    pub fn page(&self, index: u64) -> &Page {
        // SAFETY: `new` was promised memory at these addresses that only working sets use; `address` gives
        // page-aligned ones inside them; all access is atomic.
        unsafe { &*(self.address(index) as *const Page) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn set(regions: &[(u64, u64)], floor: u64) -> WorkingSet {
        let regions = regions.iter().map(|&(start, end)| Region { start, end });
        // SAFETY: the tests only compute addresses.
        unsafe { WorkingSet::new(regions, floor) }
    }

    #[test]
    fn pages_of_several_regions_form_one_row() {
        let ram = [
            (4096 * MIB, 4097 * MIB + 100),
            (0, MIB / 2),
            (MIB, 16 * MIB),
        ];
        let set = set(&ram, 3 * MIB + 1);
        assert_eq!(set.pages(), (12 + 1) * 256);
        assert_eq!(set.address(0), 4 * MIB);
        assert_eq!(set.address(12 * 256 - 1), 16 * MIB - PAGE_SIZE);
        assert_eq!(set.address(12 * 256), 4096 * MIB);
        assert_eq!(set.end(), 4097 * MIB);
    }

    #[test]
    fn truncation_takes_pages_from_the_end() {
        let set = set(&[(0, 4 * MIB), (64 * MIB, 66 * MIB)], 0);
        assert_eq!(set.clone().truncated(1025).pages(), 1025);
        assert_eq!(set.clone().truncated(1025).end(), 64 * MIB + PAGE_SIZE);
        assert_eq!(set.clone().truncated(3).end(), 3 * PAGE_SIZE);
        assert_eq!(set.truncated(9_999).pages(), 1536);
    }

    #[test]
    fn one_piece_is_the_largest_region() {
        let set = set(
            &[(0, 4 * MIB), (64 * MIB, 70 * MIB), (80 * MIB, 82 * MIB)],
            0,
        );
        let piece = set.in_one_piece();
        assert_eq!((piece.address(0), piece.end()), (64 * MIB, 70 * MIB));
        assert_eq!(piece.pages(), 1536);
    }

    #[test]
    fn no_memory_above_the_floor_is_an_empty_set() {
        assert_eq!(set(&[(0, 4 * MIB)], 4 * MIB).pages(), 0);
        assert_eq!(set(&[(0, 4 * MIB)], u64::MAX).pages(), 0);
    }
}
