//! The guest's door to the memory system (docs/virtio-gmem.md): hints, copies, questions, and word of pressure.

mod device;
mod event;
mod metrics;
mod nodes;
mod request;
mod state;

pub use device::Gmem;
pub use metrics::Metrics;
pub use nodes::{Node, NodeError, Nodes};
pub use state::State;

#[cfg(test)]
mod tests;
