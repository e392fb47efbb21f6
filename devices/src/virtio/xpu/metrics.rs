//! What the device counts.

use gmem_core::accel::Traffic;
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
    /// What crossed the accelerator's link, and what did not have to.
    pub link: Link,
}

/// Bytes, unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Came into its memory, to be nowhere else.
    pub migrated_in_bytes: u64,
    /// Left its memory.
    pub migrated_out_bytes: u64,
    /// Came into its memory as copies.
    pub copied_in_bytes: u64,
    /// Accessed beneath the guest.
    pub remote_bytes: u64,
    /// Pages of copies that made way.
    pub dropped_pages: u64,
    /// Pages of copies that ended because somebody wrote to the page, or might.
    pub collapsed_pages: u64,
    /// Pages of copies that became the accelerator's own when it wrote to them.
    pub upgraded_pages: u64,
    /// Pages that came with one that was touched, because the command was about them too.
    pub ahead_pages: u64,
}

impl From<Traffic> for Link {
    fn from(traffic: Traffic) -> Self {
        Self {
            migrated_in_bytes: traffic.migrated_in,
            migrated_out_bytes: traffic.migrated_out,
            copied_in_bytes: traffic.copied_in,
            remote_bytes: traffic.remote,
            dropped_pages: traffic.dropped,
            collapsed_pages: traffic.collapsed,
            upgraded_pages: traffic.upgraded,
            ahead_pages: traffic.ahead,
        }
    }
}
