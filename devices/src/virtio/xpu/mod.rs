//! An accelerator that a guest drives (docs/virtio-xpu.md): each queue is a stream of commands on guest-physical
//! addresses.
//!
//! The device only reads commands and answers them. They are carried out by [`Streams`], on threads of their own, so that
//! a long one holds nobody up; what is done is put on a list, and an eventfd calls the device's worker to answer.

mod device;
mod metrics;
mod request;
mod state;
mod streams;

pub(super) use request::advised;

pub use device::{Xpu, XpuConfig};
pub use metrics::Metrics;
pub use state::State;
pub use streams::{Accelerator, Done, Streams, StreamsError};

#[cfg(test)]
mod tests;
