//! Why a page table was not changed.

use gmem_core::page::{PAGE_SIZE, PageRange};

use super::{BadAddress, Rights, Target};

/// Why a page table was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Pages beyond the virtual addresses of the format.
    #[error("{} pages from {}: the format ends at page {end:#x}", .range.pages, .range.start)]
    Beyond {
        /// The pages.
        range: PageRange,
        /// One past the last page that it can name.
        end: u64,
    },
    /// Not as many pages as one entry maps.
    #[error("an entry of {} KiB: this format has entries of {sizes_kib:?} KiB", .pages * PAGE_SIZE as u64 / 1024)]
    PageSize {
        /// Pages wanted.
        pages: u64,
        /// What there is, KiB.
        sizes_kib: Vec<u64>,
    },
    /// Pages or target that do not begin or end where an entry can.
    #[error("{} pages from {} to {target:x?}: not in multiples of {granule} pages", .range.pages, .range.start)]
    Misaligned {
        /// The pages.
        range: PageRange,
        /// What to map there.
        target: Option<Target>,
        /// Both must be multiples of so many pages.
        granule: u64,
    },
    /// Some of the pages are mapped already.
    #[error("{} pages from {}: some are mapped already", .0.pages, .0.start)]
    Mapped(PageRange),
    /// The format has no entry that says this.
    #[error("{format} entries cannot say {rights:?} of {target:x?}")]
    Inexpressible {
        /// The format.
        format: &'static str,
        /// Where the page lies.
        target: Target,
        /// What may be done to it.
        rights: Rights,
    },
    /// The region for tables is full.
    #[error("{wanted} more tables wanted, {free} of {total} are free")]
    NoTables {
        /// Tables wanted.
        wanted: u64,
        /// Tables free.
        free: u64,
        /// Tables in the region.
        total: u64,
    },
    /// An entry that nobody wrote: the device's memory is damaged.
    #[error("entry {entry:#x} at {at:#x} of the tables is not one of ours")]
    Damaged {
        /// Byte offset in the device's memory.
        at: u64,
        /// What is there.
        entry: u64,
    },
    /// The region for tables is not in the device's memory.
    #[error(transparent)]
    Address(#[from] BadAddress),
}
