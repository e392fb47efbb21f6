//! Emulated accelerators.
//!
//! | module | part |
//! |---|---|
//! | [`mmu`] | page tables in the device's own memory, in each micro-architecture's format; TLBs and their shootdown |

pub mod mmu;
