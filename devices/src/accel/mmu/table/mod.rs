//! The driver's side of an address space's page tables.
//!
//! Which tables there are is known here, not read from the device's memory: what that holds may lead nowhere, but
//! not in circles, and not to anybody else's tables.

mod change;
mod map;
mod split;

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gmem_core::page::{PAGE_SIZE, PageNo, PageRange};

use super::{
    Access, Fault, Format, LocalMemory, Region, TABLE_SIZE, TableError, Target, Translation, walk,
};

/// The page tables of one address space, in device memory `M` and format `F`.
///
/// All methods may be called from any thread; those that change something take turns. Units walk meanwhile.
#[derive(Debug)]
pub struct PageTable<F: Format, M: LocalMemory> {
    memory: M,
    region: Arc<Region>,
    root: Table,
    tables: Mutex<Tables>,
    format: PhantomData<F>,
}

/// A table: where it lies, its level, and the first page that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    at: u64,
    level: usize,
    base: PageNo,
}

#[derive(Debug, Default)]
struct Tables {
    /// All tables in use, with the number of entries in each that are not empty.
    live: HashMap<u64, (Table, u64)>,
    /// Tables lost to damage. They are free when the address space ends.
    stranded: Vec<u64>,
}

impl<F: Format, M: LocalMemory> PageTable<F, M> {
    /// An empty address space. Its tables lie in `region`, which is part of `memory` and nobody else's.
    ///
    /// # Errors
    ///
    /// The region is full, or not in the memory.
    pub fn new(memory: M, region: Arc<Region>) -> Result<Self, TableError> {
        let at = region.take(1)?.remove(0);
        let (level, base) = (0, PageNo(0));
        let root = Table { at, level, base };
        let table = Self {
            memory,
            region,
            root,
            tables: Mutex::default(),
            format: PhantomData,
        };
        table.tables().live.insert(at, (root, 0));
        table.clear(at)?;
        Ok(table)
    }

    /// Byte offset of the root table in the device's memory.
    pub fn root(&self) -> u64 {
        self.root.at
    }

    /// Tables in use, the root included.
    pub fn tables_used(&self) -> u64 {
        self.tables().live.len() as u64
    }

    /// As [`walk()`] does it, with these tables.
    pub fn walk(&self, page: PageNo, access: Access) -> Result<Translation, Fault> {
        walk::<F>(&self.memory, self.root.at, page, access)
    }

    fn clear(&self, at: u64) -> Result<(), TableError> {
        for at in (at..at + TABLE_SIZE).step_by(8) {
            self.memory.word(at)?.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The entry of `table` that covers `page`.
    fn word(&self, table: Table, page: PageNo) -> Result<&AtomicU64, TableError> {
        let at = F::LEVELS[table.level].entry(table.at, page);
        Ok(self.memory.word(at)?)
    }

    fn damaged(&self, table: Table, page: PageNo, entry: u64) -> TableError {
        let at = F::LEVELS[table.level].entry(table.at, page);
        TableError::Damaged { at, entry }
    }

    /// Checks that the format can name `range`, and that it and `target` are multiples of `granule` pages.
    fn check(
        &self,
        range: PageRange,
        target: Option<Target>,
        granule: u64,
    ) -> Result<(), TableError> {
        let end = F::end();
        let fits = range
            .start
            .0
            .checked_add(range.pages)
            .is_some_and(|last| last <= end);
        if !fits {
            return Err(TableError::Beyond { range, end });
        }
        let address = target.map_or(0, |target| target.address);
        let aligned = (range.start.0 | range.pages).is_multiple_of(granule)
            && address.is_multiple_of(granule * PAGE_SIZE as u64);
        match aligned {
            true => Ok(()),
            false => Err(TableError::Misaligned {
                range,
                target,
                granule,
            }),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// The table at byte offset `at`, to which the entry `entry` of `parent` leads that covers `page`.
    fn child<F: Format>(
        &self,
        parent: Table,
        page: PageNo,
        at: u64,
        entry: u64,
    ) -> Result<Table, TableError> {
        let level = &F::LEVELS[parent.level];
        let (base, number) = (level.covered(page).start, parent.level + 1);
        let expected = Table {
            at,
            level: number,
            base,
        };
        match self.live.get(&at) {
            Some((table, _)) if *table == expected => Ok(expected),
            _ => Err(TableError::Damaged {
                at: level.entry(parent.at, page),
                entry,
            }),
        }
    }

    /// Counts entries of the table at `at` that came or went.
    fn count(&mut self, at: u64, more: i64) {
        if let Some((_, live)) = self.live.get_mut(&at) {
            *live = live.saturating_add_signed(more);
        }
    }
}

/// Nobody walks the tables any more: their room is free.
impl<F: Format, M: LocalMemory> Drop for PageTable<F, M> {
    fn drop(&mut self) {
        let mut tables = self.tables();
        let tables = std::mem::take(&mut *tables);
        self.region
            .give_back(tables.live.into_keys().chain(tables.stranded));
    }
}
