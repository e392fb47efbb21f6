//! What the device counts.

use serde::Serialize;

/// Counters since the device was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Requests served.
    pub requests: u64,
    /// Random bytes given.
    pub bytes: u64,
    /// Requests that got nothing because the host had nothing.
    pub failures: u64,
    /// Times that the rate limit made the driver wait.
    pub held_back: u64,
}
