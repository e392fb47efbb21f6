//! The console (virtio 1.2, 5.3): one port, without multiport.
//!
//! | file | part |
//! |---|---|
//! | `device` | the device and its two queues |
//! | `request` | a buffer to fill with input, a buffer of output |
//! | `input` | where input comes from |
//! | `output` | a bounded buffer before an output that may block |
//! | `metrics`, `state` | what it counts, what a snapshot keeps |

mod device;
mod input;
mod metrics;
mod output;
mod request;
mod state;

#[cfg(test)]
mod tests;

pub use device::Console;
pub use metrics::Metrics;
pub use output::BUFFER_SIZE;
pub use state::State;
