//! An accelerator's MMU: page tables that lie in its own memory, walked by the device itself.
//!
//! | file | part |
//! |---|---|
//! | `npu`, `gpu` | the *MMU functions*: what an entry of that micro-architecture looks like, and nothing else |
//! | `format` | the trait that a micro-architecture implements |
//! | `types` | targets, rights, translations, faults |
//! | `memory` | the device's memory, in which the tables lie; `region` the part of it that holds them |
//! | `walk` | the device's side: walks tables, notes accesses, trusts nothing |
//! | `table` | the driver's side: map, unmap, protect, harvest; `error` why not |
//! | `tlb`, `shootdown` | an execution unit's cache of translations, and how it is made to forget |
//!
//! # Taking a page away
//!
//! 1. [`PageTable::unmap`]: no walk finds it from now on. The tables that this emptied come back as [`Retired`]: a
//!    unit may be in the middle of one.
//! 2. [`Shootdown::invalidate`]: on return no unit uses an old translation, nor walks a retired table.
//! 3. The frame may be copied and reused, and [`Retired`] dropped.
//!
//! The same after [`PageTable::protect`] took rights away. After [`PageTable::harvest`], units note new accesses in
//! the pages that they have in their TLBs only when these were invalidated: until then `dirty` may say too little.

mod error;
mod format;
mod gpu;
mod memory;
mod npu;
mod region;
mod shootdown;
mod table;
#[cfg(test)]
mod tests;
mod tlb;
mod types;
mod walk;

pub use error::TableError;
pub use format::{Decoded, Format, Leaf, Level};
pub use gpu::Gpu;
pub use memory::{BadAddress, LocalMemory};
pub use npu::Npu;
pub use region::{Region, Retired, TABLE_SIZE};
pub use shootdown::{Fence, Inside, Shootdown, Unit};
pub use table::PageTable;
pub use tlb::{Counters, Tlb};
pub use types::{Access, Aperture, Cause, Fault, Mapping, Rights, Target, Translation};
pub use walk::walk;
