//! One large page becomes many small ones.

use std::sync::atomic::Ordering;

use gmem_core::page::{PAGE_SIZE, PageNo};

use super::super::format::decode;
use super::super::{Decoded, Format, Leaf, LocalMemory, TableError};
use super::{PageTable, Table, Tables};

impl<F: Format, M: LocalMemory> PageTable<F, M> {
    /// If a page contains `page` and begins before it, makes it small ones, with what is noted of its accesses.
    pub(super) fn split(&self, tables: &mut Tables, page: PageNo) -> Result<(), TableError> {
        let mut table = self.root;
        while page.0 < F::end() {
            let level = &F::LEVELS[table.level];
            let range = level.covered(page);
            if range.start == page {
                break;
            }
            let word = self.word(table, page)?;
            let mut entry = word.load(Ordering::Relaxed);
            match decode::<F>(table.level, entry) {
                Decoded::Empty => break,
                Decoded::Malformed => return Err(self.damaged(table, page, entry)),
                Decoded::Table(at) => table = tables.child::<F>(table, page, at, entry)?,
                Decoded::Page(leaf) => {
                    let at = self.region.take(1)?.remove(0);
                    let (base, number) = (range.start, table.level + 1);
                    let small = Table {
                        at,
                        level: number,
                        base,
                    };
                    tables.live.insert(at, (small, F::LEVELS[number].entries()));
                    loop {
                        self.fill(small, leaf, entry)?;
                        let linked = word.compare_exchange(
                            entry,
                            F::table(at),
                            Ordering::AcqRel,
                            Ordering::Relaxed,
                        );
                        match linked {
                            Ok(_) => return Ok(()),
                            // Accessed meanwhile.
                            Err(now) => entry = now,
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Fills `table` with entries that together say what `entry`, `leaf` at the level above, says.
    fn fill(&self, table: Table, leaf: Leaf, entry: u64) -> Result<(), TableError> {
        let level = &F::LEVELS[table.level];
        let noted = entry & (F::ACCESSED | F::DIRTY);
        self.clear(table.at)?;
        for index in 0..level.entries() {
            let page = table.base.add(index * level.pages());
            let target = leaf.target.add(index * level.pages() * PAGE_SIZE as u64);
            let rights = leaf.rights;
            let small = F::page(level, Leaf { target, rights });
            let small = small.ok_or_else(|| self.damaged(table, page, entry))?;
            self.word(table, page)?
                .store(small | noted, Ordering::Relaxed);
        }
        Ok(())
    }
}
