//! Guest memory and the kernel's means of moving its frames.
//!
//! [`ram`] is the guest's RAM as this process sees it. [`managed`] decides when it is armed, [`arming`]
//! does it: from then on [`service`] reads faults from [`userfault`] and hands them to the engine of
//! `gmem-core`, which moves frames through [`mmu`]. [`freeing`] is the side that devices see,
//! `in_place` the one of accelerators, [`plugging`] memory that comes and goes in a running guest.
//! Where touches are recorded, [`recorder`] takes the engine's place.

pub mod arming;
mod discard;
pub mod failure;
pub mod freeing;
mod huge;
mod in_place;
pub mod managed;
mod mmu;
pub mod page_use;
pub mod pagemap;
pub mod plan;
pub mod plugging;
pub mod ram;
pub mod recorder;
pub mod server;
mod service;
pub mod swap;
pub mod userfault;

pub use gmem_core::reserve;
