//! Both formats, against a model and against garbage; TLBs; a unit at work while pages are taken away.

mod garbage;
mod history;
mod model;
mod racing;
mod rules;
mod tlb;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use gmem_core::page::{PageNo, PageRange};

use super::{Access, Format, PageTable, Region, Rights, TABLE_SIZE, TableError};

type Memory = Arc<[AtomicU64]>;

const RIGHTS: [Rights; 4] = [Rights::None, Rights::Read, Rights::Write, Rights::Atomic];
const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Atomic];

/// Room for `tables` tables, full of what looks like entries: whoever takes a table has to clear it.
fn memory(tables: u64) -> Memory {
    let words = 0..tables * TABLE_SIZE / 8;
    words.map(|word| AtomicU64::new(word << 12 | 9)).collect()
}

/// An address space with room for `tables` tables, the root included, with its device memory and region.
fn space<F: Format>(tables: u64) -> (PageTable<F, Memory>, Memory, Arc<Region>) {
    let memory = memory(tables);
    let region = Region::new(0..tables * TABLE_SIZE);
    let table = PageTable::new(memory.clone(), region.clone()).unwrap();
    (table, memory, region)
}

/// The pages from `pages.start` up to `pages.end`.
fn range(pages: Range<u64>) -> PageRange {
    PageRange::new(PageNo(pages.start), pages.end - pages.start)
}

/// Whether the region was full.
fn is_full<T>(result: &Result<T, TableError>) -> bool {
    matches!(result, Err(TableError::NoTables { .. }))
}
