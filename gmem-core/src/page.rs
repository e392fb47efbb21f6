//! Pages, blocks and ranges of them: the units in which memory is named and moved.

use std::fmt;

/// Bytes of a logical page.
pub const PAGE_SIZE: usize = 4096;
/// Logical pages of a block.
pub const BLOCK_PAGES: usize = 512;
/// Bytes of a block: 2 MiB.
pub const BLOCK_SIZE: usize = PAGE_SIZE * BLOCK_PAGES;

/// Number of a logical page: a guest-physical address divided by [`PAGE_SIZE`] (a guest frame number).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(pub u64);

impl PageNo {
    /// The page that holds guest-physical address `gpa`.
    pub const fn of_address(gpa: u64) -> Self {
        Self(gpa / PAGE_SIZE as u64)
    }

    /// Guest-physical address of the page's first byte.
    pub const fn address(self) -> u64 {
        self.0 * PAGE_SIZE as u64
    }

    /// Number of the block that holds this page.
    pub const fn block(self) -> u64 {
        self.0 / BLOCK_PAGES as u64
    }

    /// First page of the block that holds this page.
    pub const fn block_start(self) -> Self {
        Self(self.0 & !(BLOCK_PAGES as u64 - 1))
    }

    /// Index of this page in its block, 0 to 511.
    pub const fn index_in_block(self) -> usize {
        (self.0 % BLOCK_PAGES as u64) as usize
    }

    /// The page `n` pages further.
    pub const fn add(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {:#x} (address {:#x})", self.0, self.address())
    }
}

/// Consecutive logical pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// First page.
    pub start: PageNo,
    /// How many pages.
    pub pages: u64,
}

impl PageRange {
    /// The range of `pages` pages from `start`.
    pub const fn new(start: PageNo, pages: u64) -> Self {
        Self { start, pages }
    }

    /// One past the last page.
    pub const fn end(&self) -> PageNo {
        PageNo(self.start.0 + self.pages)
    }

    /// Whether `page` is in the range.
    pub const fn contains(&self, page: PageNo) -> bool {
        page.0 >= self.start.0 && page.0 < self.start.0 + self.pages
    }

    /// The pages of the range, in order.
    pub fn iter(&self) -> impl Iterator<Item = PageNo> + use<> {
        (self.start.0..self.start.0 + self.pages).map(PageNo)
    }
}

/// What moves at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unit {
    /// One logical page, 4 KiB.
    #[default]
    Page,
    /// One block, 2 MiB, that is whole in one place.
    Block,
}

impl Unit {
    /// Logical pages of the unit.
    pub const fn pages(self) -> usize {
        match self {
            Self::Page => 1,
            Self::Block => BLOCK_PAGES,
        }
    }

    /// Bytes of the unit.
    pub const fn bytes(self) -> usize {
        self.pages() * PAGE_SIZE
    }
}

/// Logical pages of a cluster: what one bit mask covers.
pub const CLUSTER_PAGES: usize = 64;
/// Clusters of a block.
pub const BLOCK_CLUSTERS: usize = BLOCK_PAGES / CLUSTER_PAGES;

/// Number of a cluster: 64 aligned pages, the largest group that a fault brings in or a sweep evicts at
/// once. Bit `i` of a mask that goes with it is page `64 * number + i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterNo(pub u64);

impl ClusterNo {
    /// The cluster that holds `page`.
    pub const fn of(page: PageNo) -> Self {
        Self(page.0 / CLUSTER_PAGES as u64)
    }

    /// Page `index` (0 to 63) of the cluster.
    pub const fn page(self, index: usize) -> PageNo {
        PageNo(self.0 * CLUSTER_PAGES as u64 + index as u64)
    }

    /// The pages of the cluster in `mask`, in order.
    pub fn pages(self, mask: u64) -> impl Iterator<Item = PageNo> + Clone {
        (0..CLUSTER_PAGES)
            .filter(move |index| mask & 1 << index != 0)
            .map(move |index| self.page(index))
    }

    /// Number of the block that holds this cluster.
    pub const fn block(self) -> u64 {
        self.0 / BLOCK_CLUSTERS as u64
    }

    /// Index of `page` in its cluster, 0 to 63.
    pub const fn index(page: PageNo) -> usize {
        (page.0 % CLUSTER_PAGES as u64) as usize
    }
}

/// The runs of consecutive set bits in `mask`, lowest first, as (first bit, length).
pub fn runs(mut mask: u64) -> impl Iterator<Item = (usize, usize)> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let first = mask.trailing_zeros() as usize;
        let length = (mask >> first).trailing_ones() as usize;
        mask &= !bits(first, length);
        Some((first, length))
    })
}

/// A mask of `length` (at most 64) set bits from bit `first` on.
pub const fn bits(first: usize, length: usize) -> u64 {
    if length == 0 {
        0
    } else {
        (u64::MAX >> (64 - length)) << first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_cover_exactly_the_mask_and_are_maximal(mask: u64) {
            let mut rebuilt = 0;
            let mut last_end = None;
            for (first, length) in runs(mask) {
                prop_assert_eq!(rebuilt & bits(first, length), 0);
                prop_assert_ne!(last_end, Some(first), "two runs touch");
                rebuilt |= bits(first, length);
                last_end = Some(first + length);
            }
            prop_assert_eq!(rebuilt, mask);
        }
    }

    #[test]
    fn a_page_knows_its_block_and_its_place_in_it() {
        let page = PageNo::of_address(0x40_3fff);
        assert_eq!((page.0, page.block(), page.index_in_block()), (0x403, 2, 3));
        assert_eq!(page.block_start(), PageNo(0x400));
        assert_eq!(ClusterNo::of(page).page(3), page);
    }
}
