//! What a page table is: a map from pages to where they lie.

use std::collections::BTreeMap;

use gmem_core::page::{PAGE_SIZE, PageNo, PageRange};

use crate::accel::mmu::{Access, Cause, Format, Leaf, Mapping, Rights};

/// A smallest page of the format, and the page of which it is a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub whole: PageRange,
    pub leaf: Leaf,
    pub accessed: bool,
    pub dirty: bool,
}

/// Smallest pages by number.
#[derive(Debug, Default)]
pub struct Model(pub BTreeMap<u64, Cell>);

impl Model {
    pub fn is_free(&self, range: PageRange) -> bool {
        self.0.range(range.start.0..range.end().0).next().is_none()
    }

    pub fn map<F: Format>(&mut self, whole: PageRange, leaf: Leaf) {
        for page in whole.iter().step_by(F::granule() as usize) {
            let target = leaf.target.add(page.address() - whole.start.address());
            let cell = Cell {
                whole,
                leaf: Leaf { target, ..leaf },
                accessed: F::ACCESSED == 0,
                dirty: F::DIRTY == 0,
            };
            self.0.insert(page.0, cell);
        }
    }

    /// If a page begins before `at` and goes on there, it becomes small ones.
    pub fn split<F: Format>(&mut self, at: PageNo) {
        let Some(whole) = self
            .0
            .get(&at.0)
            .map(|cell| cell.whole)
            .filter(|whole| whole.start != at)
        else {
            return;
        };
        for (page, cell) in self.0.range_mut(whole.start.0..whole.end().0) {
            cell.whole = PageRange::new(PageNo(*page), F::granule());
        }
    }

    pub fn walk<F: Format>(&mut self, page: PageNo, access: Access) -> Result<Cell, Cause> {
        let granule = page.0 - page.0 % F::granule();
        let cell = *self.0.get(&granule).ok_or(Cause::NotMapped)?;
        if cell.leaf.rights < access.needs() {
            return Err(Cause::Denied(cell.leaf.rights));
        }
        for (_, part) in self.0.range_mut(cell.whole.start.0..cell.whole.end().0) {
            part.accessed = true;
            part.dirty |= access.writes();
        }
        Ok(self.0[&granule])
    }

    /// The pages of which a part is in `range`.
    pub fn mappings(&self, range: PageRange) -> Vec<Mapping> {
        let mut found: Vec<Mapping> = Vec::new();
        for cell in self.0.values() {
            let whole = cell.whole;
            if touches(whole, range) && found.last().is_none_or(|last| last.range != whole) {
                found.push(Mapping {
                    range: whole,
                    target: cell.leaf.target,
                    rights: cell.leaf.rights,
                    accessed: cell.accessed,
                    dirty: cell.dirty,
                });
            }
        }
        found
    }

    pub fn unmap(&mut self, range: PageRange) {
        self.0.retain(|page, _| !range.contains(PageNo(*page)));
    }

    pub fn protect(&mut self, range: PageRange, rights: Rights) {
        for (_, cell) in self.0.range_mut(range.start.0..range.end().0) {
            cell.leaf.rights = rights;
        }
    }

    pub fn forget_accesses(&mut self, range: PageRange) {
        for cell in self.0.values_mut() {
            if touches(cell.whole, range) {
                (cell.accessed, cell.dirty) = (false, false);
            }
        }
    }
}

/// Bytes of `pages` logical pages.
pub const fn bytes(pages: u64) -> u64 {
    pages * PAGE_SIZE as u64
}

fn touches(whole: PageRange, range: PageRange) -> bool {
    range.pages > 0 && whole.start < range.end() && range.start < whole.end()
}
