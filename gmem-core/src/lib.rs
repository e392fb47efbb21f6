//! The memory system of gmem.
//!
//! Knows nothing of KVM, virtio or the command line.
pub mod mmu;
pub mod page;
