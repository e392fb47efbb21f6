//! Mapping a page.

use std::sync::atomic::Ordering;

use gmem_core::page::PageRange;

use super::super::format::decode;
use super::super::{Decoded, Format, Leaf, LocalMemory, Rights, TableError, Target};
use super::{PageTable, Table};

impl<F: Format, M: LocalMemory> PageTable<F, M> {
    /// Maps `range`, as many pages as one entry does, to `target` and what follows it. Seen by walks on return.
    ///
    /// # Errors
    ///
    /// Nothing is mapped: not a page size of the format, not aligned to it, beyond the format, not expressible in it,
    /// mapped already, or no room for tables.
    pub fn map(&self, range: PageRange, target: Target, rights: Rights) -> Result<(), TableError> {
        let mut sizes = F::LEVELS.iter().enumerate().filter(|(_, level)| level.maps);
        let Some((number, level)) = sizes
            .clone()
            .find(|(_, level)| level.pages() == range.pages)
        else {
            let pages = range.pages;
            let sizes_kib = sizes
                .by_ref()
                .map(|(_, level)| 1 << (level.shift - 10))
                .collect();
            return Err(TableError::PageSize { pages, sizes_kib });
        };
        self.check(range, Some(target), level.pages())?;
        let entry = F::page(level, Leaf { target, rights }).ok_or(TableError::Inexpressible {
            format: F::NAME,
            target,
            rights,
        })?;
        let mut tables = self.tables();
        let mut table = self.root;
        let mut word = self.word(table, range.start)?;
        // As far down as there are tables.
        let missing = loop {
            let found = word.load(Ordering::Relaxed);
            match decode::<F>(table.level, found) {
                Decoded::Empty => break number - table.level,
                Decoded::Table(at) if table.level < number => {
                    table = tables.child::<F>(table, range.start, at, found)?;
                    word = self.word(table, range.start)?;
                }
                Decoded::Malformed => return Err(self.damaged(table, range.start, found)),
                Decoded::Table(_) | Decoded::Page(_) => return Err(TableError::Mapped(range)),
            }
        };
        // The rest is built from the bottom up, and linked by the last store: Release, for the walker's Acquire.
        let mut entry = entry;
        let mut level = number;
        for at in self.region.take(missing as u64)? {
            let base = F::LEVELS[level - 1].covered(range.start).start;
            let new = Table { at, level, base };
            tables.live.insert(at, (new, 1));
            self.clear(at)?;
            self.word(new, range.start)?.store(entry, Ordering::Relaxed);
            entry = F::table(at);
            level -= 1;
        }
        word.store(entry, Ordering::Release);
        tables.count(table.at, 1);
        Ok(())
    }
}
