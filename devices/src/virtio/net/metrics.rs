//! What the network device counts.

use serde::Serialize;

/// Since the device was made. Bytes are with virtio's header of 12.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Packets that the guest has received.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets that were too large for the driver's buffer.
    pub receive_too_large: u64,
    /// Packets that could not be read, or were none.
    pub receive_errors: u64,
    /// How often a packet had to wait for a buffer.
    pub receive_no_buffer: u64,
    /// How often the rate limit made packets wait on their way in.
    pub receive_held_back: u64,
    /// Packets that the guest has sent.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets that the host would not take.
    pub send_dropped: u64,
    /// How often the rate limit made the driver wait on the way out.
    pub send_held_back: u64,
}
