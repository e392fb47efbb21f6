//! What a micro-architecture says of its page tables. All else is common to them.

use gmem_core::page::{PAGE_SIZE, PageNo, PageRange};

use super::{Mapping, Rights, Target};

/// log2 of [`PAGE_SIZE`].
const PAGE_SHIFT: u32 = PAGE_SIZE.trailing_zeros();

/// A level of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// log2 of the bytes that an entry covers; at least 12.
    pub shift: u32,
    /// log2 of the entries in a table, of 8 bytes each; at most 9, a table of 4 KiB.
    pub bits: u32,
    /// An entry may map a page, instead of naming a table of the next level.
    pub maps: bool,
}

impl Level {
    /// Logical pages that an entry covers.
    pub const fn pages(&self) -> u64 {
        1 << (self.shift - PAGE_SHIFT)
    }

    /// Entries of a table.
    pub const fn entries(&self) -> u64 {
        1 << self.bits
    }

    /// Byte offset, in the table at byte offset `table`, of the entry that covers `page`.
    pub const fn entry(&self, table: u64, page: PageNo) -> u64 {
        let index = page.0 / self.pages() % self.entries();
        table.saturating_add(index * 8)
    }

    /// All pages that the entry covers that covers `page`.
    pub const fn covered(&self, page: PageNo) -> PageRange {
        PageRange::new(PageNo(page.0 & !(self.pages() - 1)), self.pages())
    }
}

/// What an entry that maps a page says, but for accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where the page lies.
    pub target: Target,
    /// What may be done to it.
    pub rights: Rights,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Nothing. Zero is such an entry.
    Empty,
    /// A table of the next level is at this byte offset of the device's memory.
    Table(u64),
    /// A page is mapped.
    Page(Leaf),
    /// Nothing that makes sense.
    Malformed,
}

/// A micro-architecture's page-table format.
pub trait Format: Send + Sync + 'static {
    /// Its name in messages.
    const NAME: &'static str;
    /// Its levels, root first, each covered by the one before it. Those that map pages are the last ones.
    const LEVELS: &'static [Level];
    /// Bits of an entry that the walker sets at any access, and at one that writes. 0 where it does not.
    const ACCESSED: u64 = 0;
    /// See [`Self::ACCESSED`].
    const DIRTY: u64 = 0;

    /// The entry that names the table at byte offset `at`, a multiple of 4 KiB, of the device's memory.
    fn table(at: u64) -> u64;

    /// The entry that maps a page at level `level`, never accessed; `None` if the format cannot say it.
    fn page(level: &Level, leaf: Leaf) -> Option<u64>;

    /// What `entry`, which may be garbage, says at level `level`.
    fn decode(level: &Level, entry: u64) -> Decoded;

    /// Logical pages in its smallest page.
    fn granule() -> u64 {
        Self::LEVELS.iter().map(Level::pages).min().unwrap_or(1)
    }

    /// One past the last logical page that it can name.
    fn end() -> u64 {
        Self::LEVELS
            .first()
            .map_or(0, |root| root.pages() << root.bits)
    }
}

/// [`Format::decode`], and the rules that hold in all formats: no page where there can be none, none that is not
/// aligned, no table beneath the last level.
pub(super) fn decode<F: Format>(number: usize, entry: u64) -> Decoded {
    let level = &F::LEVELS[number];
    let size = level.pages() * PAGE_SIZE as u64;
    match F::decode(level, entry) {
        Decoded::Page(leaf) if !level.maps || leaf.target.address % size != 0 => Decoded::Malformed,
        Decoded::Table(_) if number + 1 == F::LEVELS.len() => Decoded::Malformed,
        decoded => decoded,
    }
}

/// What `entry` maps at `range`, if it says `leaf`.
pub(super) fn mapping<F: Format>(range: PageRange, leaf: Leaf, entry: u64) -> Mapping {
    let says = |bit: u64| bit == 0 || entry & bit != 0;
    Mapping {
        range,
        target: leaf.target,
        rights: leaf.rights,
        accessed: says(F::ACCESSED),
        dirty: says(F::DIRTY),
    }
}
