//! What a vsock counts.

use serde::Serialize;

/// Since the device was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Connections that the guest has made.
    pub connections_from_guest: u64,
    /// Connections for which the guest was asked.
    pub connections_from_host: u64,
    /// Connections refused: nobody listens, or there are too many.
    pub refused: u64,
    /// Payload from the guest, bytes.
    pub bytes_from_guest: u64,
    /// Payload to the guest, bytes.
    pub bytes_to_guest: u64,
    /// Connections that were reset because the guest broke the rules, or packets that belong to none.
    pub resets: u64,
    /// Packets that could not be answered: without a header, from a wrong address, or more than the driver has
    /// room for answers.
    pub dropped: u64,
}
