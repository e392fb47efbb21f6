//! Emulated accelerators.
//!
//! | module | part |
//! |---|---|
//! | [`mmu`] | page tables in the device's own memory, in each micro-architecture's format; TLBs and their shootdown |
//! | [`work`] | the arithmetic of commands; a crate of its own, because the bundled guest checks it |

pub mod mmu;

pub use gmem_work as work;
