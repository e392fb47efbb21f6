//! What plugged memory counts.

use serde::Serialize;

/// Since the device was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Blocks that the guest has plugged.
    pub plugged_blocks: u64,
    /// Blocks that it has unplugged.
    pub unplugged_blocks: u64,
    /// Memory freed because it was unplugged, bytes.
    pub freed_bytes: u64,
    /// Unplugged memory that the host would not free, bytes.
    pub not_freed_bytes: u64,
    /// Requests that were done.
    pub acknowledged: u64,
    /// Requests to plug more than is requested.
    pub too_much: u64,
    /// Requests that the monitor could not do then.
    pub busy: u64,
    /// Requests that made no sense.
    pub errors: u64,
}
