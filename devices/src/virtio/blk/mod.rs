//! Disks (virtio 1.2, 5.2): raw files and block devices of the host.
//!
//! | file | part |
//! |---|---|
//! | `file` | opening an image: what it must be, and who else may use it |
//! | `offer` | features and the configuration space |
//! | `request` | from a descriptor chain to what is to be done |
//! | `operation` | one thing that an engine does to the file, perhaps in several goes |
//! | `engine` | what does operations; `uring` while the device goes on, `blocking` where the host has no io_uring |
//! | `device` | the device and its queue: requests under way, and their answers |
//! | `metrics`, `state` | what it counts, what a snapshot keeps |
//!
//! Requests complete in any order. A flush makes stable what had completed when it was sent, as virtio says, and
//! so it waits for nothing: a driver that wants a write in front of it waits for that write.
//!
//! The kernel reads and writes guest memory directly. Buffers are never registered with io_uring, which would pin
//! all guest memory.

mod blocking;
mod device;
mod engine;
mod file;
mod metrics;
mod offer;
mod operation;
mod request;
mod state;
mod uring;

#[cfg(test)]
mod tests;

pub use device::Blk;
pub use file::{BlkOptions, OpenError};
pub use metrics::Metrics;
pub use state::State;
