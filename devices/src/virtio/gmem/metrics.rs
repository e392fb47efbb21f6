//! What the device counts.

use serde::Serialize;

/// Counters since the device was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Advice taken.
    pub advised: u64,
    /// Bytes that it was about.
    pub advised_bytes: u64,
    /// Bytes copied.
    pub copied_bytes: u64,
    /// Questions answered.
    pub answered: u64,
    /// Requests refused, or not done to their end.
    pub refused: u64,
    /// Events told.
    pub events: u64,
    /// Calls, of those who use what the guest lends, that the guest was told of.
    pub calls: u64,
}
