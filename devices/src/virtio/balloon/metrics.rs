//! What the balloon counts.

use serde::Serialize;

/// Since the device was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Pages that the driver put into the balloon.
    pub inflated_pages: u64,
    /// Pages that it took out.
    pub deflated_pages: u64,
    /// Memory freed because it was inflated, bytes.
    pub freed_bytes: u64,
    /// Memory freed because it was reported, bytes.
    pub reported_bytes: u64,
    /// Memory that the driver hinted to be free, bytes. It is not freed.
    pub hinted_bytes: u64,
    /// Hints outside a command, or more than are kept, bytes.
    pub ignored_hint_bytes: u64,
    /// Memory that could not be freed: not RAM, or the host refused, bytes.
    pub refused_bytes: u64,
    /// How often statistics arrived.
    pub statistics: u64,
}
