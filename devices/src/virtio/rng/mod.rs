//! Entropy (virtio 1.2, 5.4): random bytes from the host.

mod device;
mod metrics;
mod request;
mod state;

pub use device::Rng;
pub use metrics::Metrics;
pub use state::State;
