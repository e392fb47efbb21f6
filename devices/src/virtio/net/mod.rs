//! virtio-net (virtio 1.2, 5.1) over a tap interface.
//!
//! | file | part |
//! |---|---|
//! | `device` | the device and its two queues |
//! | `request` | one packet, out or in |
//! | `tap` | the host's side: a network interface whose wire is a descriptor |
//! | `metrics`, `state` | counters; what a snapshot needs |
//!
//! Packets travel with virtio's own header on both sides: checksums and segmentation are left to who is better at
//! it. Outgoing packets go from guest memory to the kernel without a copy. Incoming ones pass through one buffer: the
//! kernel does not say how large the next packet is, and one for which the driver has no room yet waits there, with
//! the rest in the interface's queue, where nobody has to look at them.

mod device;
mod metrics;
#[cfg(test)]
mod real_tap;
mod request;
mod state;
mod tap;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod worker_test;

pub use device::{Net, NetOptions};
pub use metrics::Metrics;
pub use state::State;
pub use tap::{Tap, TapError};
