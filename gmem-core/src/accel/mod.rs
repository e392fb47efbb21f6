//! Accelerators in one address space with the vCPUs: GMEM's interface for drivers.
//!
//! | GMEM | here |
//! |---|---|
//! | `gm_dev_create`, `gm_dev_register_physmem` | [`Accelerator::new`] |
//! | `gm_dev_destroy` | dropping the last handle, after [`Attachment::detach`] everywhere |
//! | `gm_as_create` | an [`Engine`](crate::engine::Engine) |
//! | `gm_as_attach` | [`Accelerator::attach`] |
//! | `gm_dev_fault` | [`Attachment::fault`] |
//! | `hmadvise` `PREFETCH`, `DONTNEED`, `PINNED`, `UNPINNED`; the modifier `WILLNEED` | [`Attachment::advise`] |
//! | none: what crossed the link | [`Attachment::traffic`] |
//! | `hnodeN/max_memsize`, `nr_freepages`, `nr_activepages` | [`Attachment::set_cap`], [`Attachment::usage`] |
//! | `peer_map`, `peer_unmap`, `pmap_create`, `pmap_destroy`, `tlb_invl` | the trait [`Pmap`], which a driver implements |
//!
//! A guest-physical address means the same bytes to every vCPU and every accelerator. An accelerator has a page in
//! its own memory, and then nobody else reaches it; or a copy for reading, which ends when anybody is to write; or it
//! reaches the page beneath the guest, as the vCPUs do, over its link. Which of these a fault brings is the policy's
//! decision ([`Attachment::set_placement`]), and advice overrides it.

mod accelerator;
mod advice;
mod attachment;
mod pmap;

pub use crate::engine::{Cause, Traffic};
pub use crate::hnode::device::{Access, Reach};
pub use crate::policy::Placement;
pub use accelerator::Accelerator;
pub use advice::{Advice, Advised};
pub use attachment::{Attachment, CapError};
pub use pmap::{ContextId, Pmap};
