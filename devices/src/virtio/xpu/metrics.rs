//! What the device counts.

use serde::Serialize;

/// Counters since the device was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Commands that were done.
    pub done: u64,
    /// Commands that made no sense.
    pub invalid: u64,
    /// Commands whose operands are not all guest memory.
    pub faults: u64,
    /// Commands whose operands found no room.
    pub no_memory: u64,
    /// Commands that failed otherwise.
    pub failures: u64,
    /// Commands that a reset ended.
    pub aborted: u64,
    /// The most that were under way or waited at a time.
    pub most_under_way: usize,
}
