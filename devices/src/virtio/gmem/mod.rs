//! The guest's door to the memory system (docs/virtio-gmem.md): hints, copies, questions, and word of pressure.

mod calls;
mod desk;
mod device;
mod event;
mod metrics;
mod nodes;
mod request;
mod state;

pub use calls::{AskError, CONNECTIONS, Calls, Line, Message};
pub use device::Gmem;
pub use metrics::Metrics;
pub use nodes::{Node, NodeError, Nodes};
pub use state::State;

#[cfg(test)]
mod calls_tests;
#[cfg(test)]
mod tests;
