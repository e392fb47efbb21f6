//! What the device counts.

use serde::Serialize;

/// Counters since the device was made, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Given to the driver.
    pub input_bytes: u64,
    /// Written by the driver.
    pub output_bytes: u64,
    /// Written by the driver and lost, because the output was too slow or had failed.
    pub dropped_bytes: u64,
}
