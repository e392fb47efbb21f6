//! Changing what is mapped: one way through the tables, three things to do there.

use std::sync::atomic::{AtomicU64, Ordering};

use gmem_core::page::PageRange;

use super::super::format::{decode, mapping};
use super::super::{Decoded, Format, Leaf, LocalMemory, Mapping, Retired, Rights, TableError};
use super::{PageTable, Table, Tables};

/// An entry that maps a page, on its way through a change.
struct Found<'a> {
    word: &'a AtomicU64,
    level: usize,
    range: PageRange,
    leaf: Leaf,
}

/// Whether an entry is empty after a visit.
#[derive(PartialEq)]
enum Left {
    Something,
    Nothing,
}

impl<F: Format, M: LocalMemory> PageTable<F, M> {
    /// Unmaps all that is mapped in `range`, in multiples of the format's smallest page, and tells `each` what that
    /// was. A page of which only a part is in the range becomes small ones. The module's page says what comes next.
    ///
    /// # Errors
    ///
    /// Nothing is unmapped: not aligned, beyond the format, no room for the tables of small pages. Or the tables are
    /// damaged: what `each` was told is unmapped.
    pub fn unmap(
        &self,
        range: PageRange,
        mut each: impl FnMut(Mapping),
    ) -> Result<Retired, TableError> {
        self.change(range, true, |found| {
            let entry = found.word.swap(0, Ordering::AcqRel);
            // Only notes of accesses can have been added since the entry was read.
            each(mapping::<F>(found.range, found.leaf, entry));
            Ok(Left::Nothing)
        })
    }

    /// Sets the rights to all that is mapped in `range`, in multiples of the format's smallest page. A page of which
    /// only a part is in the range becomes small ones. What was noted of accesses stays.
    ///
    /// # Errors
    ///
    /// As for [`Self::unmap`]; or the format does not have these rights.
    pub fn protect(&self, range: PageRange, rights: Rights) -> Result<(), TableError> {
        let noted = F::ACCESSED | F::DIRTY;
        let changed = self.change(range, true, |found| {
            let target = found.leaf.target;
            let entry = F::page(&F::LEVELS[found.level], Leaf { target, rights });
            let entry = entry.ok_or(TableError::Inexpressible {
                format: F::NAME,
                target,
                rights,
            })?;
            let change = |old: u64| Some(entry | old & noted);
            let _ = found
                .word
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, change);
            Ok(Left::Something)
        });
        changed.map(drop)
    }

    /// Takes back what was noted of accesses to pages in `range`, and tells `each` which were accessed. A page of which
    /// only a part is in the range is told of whole. A format without such notes has nothing to tell.
    ///
    /// # Errors
    ///
    /// Beyond the format; or the tables are damaged.
    pub fn harvest(
        &self,
        range: PageRange,
        mut each: impl FnMut(Mapping),
    ) -> Result<(), TableError> {
        let noted = F::ACCESSED | F::DIRTY;
        let harvested = self.change(range, false, |found| {
            if noted != 0 && found.word.load(Ordering::Relaxed) & noted != 0 {
                let entry = found.word.fetch_and(!noted, Ordering::AcqRel);
                each(mapping::<F>(found.range, found.leaf, entry));
            }
            Ok(Left::Something)
        });
        harvested.map(drop)
    }

    /// Visits all that is mapped in `range`, after splitting what is partly in it if it is to be `exact`.
    fn change(
        &self,
        range: PageRange,
        exact: bool,
        mut visit: impl FnMut(Found<'_>) -> Result<Left, TableError>,
    ) -> Result<Retired, TableError> {
        self.check(range, None, if exact { F::granule() } else { 1 })?;
        let mut tables = self.tables();
        if exact && range.pages > 0 {
            self.split(&mut tables, range.start)?;
            self.split(&mut tables, range.end())?;
        }
        let mut retired = Vec::new();
        let visited = self.visit(&mut tables, self.root, range, &mut visit, &mut retired);
        if let Err(error) = visited {
            // Nobody will invalidate for what an error interrupted.
            tables.stranded.append(&mut retired);
            return Err(error);
        }
        let region = self.region.clone();
        Ok(Retired {
            region,
            tables: retired,
        })
    }

    fn visit(
        &self,
        tables: &mut Tables,
        table: Table,
        range: PageRange,
        visit: &mut dyn FnMut(Found<'_>) -> Result<Left, TableError>,
        retired: &mut Vec<u64>,
    ) -> Result<Left, TableError> {
        let level = &F::LEVELS[table.level];
        let end = table.base.0 + level.pages() * level.entries();
        let mut next = table.base.max(range.start);
        while next < range.end() && next.0 < end {
            let covered = level.covered(next);
            next = covered.end();
            let word = self.word(table, covered.start)?;
            let entry = word.load(Ordering::Relaxed);
            let left = match decode::<F>(table.level, entry) {
                Decoded::Empty => continue,
                Decoded::Malformed => return Err(self.damaged(table, covered.start, entry)),
                Decoded::Page(leaf) => visit(Found {
                    word,
                    level: table.level,
                    range: covered,
                    leaf,
                })?,
                Decoded::Table(at) => {
                    let child = tables.child::<F>(table, covered.start, at, entry)?;
                    let left = self.visit(tables, child, range, visit, retired)?;
                    if left == Left::Nothing {
                        word.store(0, Ordering::Release);
                        tables.live.remove(&at);
                        retired.push(at);
                    }
                    left
                }
            };
            if left == Left::Nothing {
                tables.count(table.at, -1);
            }
        }
        match tables.live.get(&table.at) {
            Some((_, 0)) if table != self.root => Ok(Left::Nothing),
            _ => Ok(Left::Something),
        }
    }
}
