//! The memory system of gmem: knows nothing of KVM, virtio or the command line.
pub mod accel;
pub mod bytes;
pub mod engine;
pub mod hnode;
pub mod mmu;
pub mod page;
pub mod pager;
pub mod policy;
pub mod reserve;
mod shared;
pub mod stats;
pub mod table;
