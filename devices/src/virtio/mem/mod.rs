//! virtio-mem (virtio 1.2, 5.15): the guest's memory grows and shrinks by blocks.
//!
//! | file | part |
//! |---|---|
//! | `device` | the device, its queue, and what each request does |
//! | `request` | requests and responses |
//! | `blocks` | what the monitor does when a block comes or goes |
//! | `plugged` | which blocks the guest has |
//! | `options` | where memory can be plugged |
//! | `control` | the requested size, changed while the guest runs |
//! | `metrics`, `state` | counters; what a snapshot needs |
//!
//! There is one region of guest-physical addresses. The monitor requests a size; the driver plugs blocks until it
//! has as much, or unplugs those that it can do without. The guest has no more than was requested when it plugged,
//! and what it unplugs is freed.

mod blocks;
mod control;
mod device;
mod metrics;
mod options;
mod plugged;
mod request;
mod state;
#[cfg(test)]
mod tests;

pub use blocks::Blocks;
pub use control::{MemControl, RequestedSizeError};
pub use device::Mem;
pub use metrics::Metrics;
pub use options::{MemOptions, RegionError};
pub use state::{RestoreError, State};

/// Size of a block unless another is asked for, bytes: what is moved and mapped as one on x86.
pub const BLOCK_SIZE: u64 = 2 << 20;
