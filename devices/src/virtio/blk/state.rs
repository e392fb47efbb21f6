//! What a snapshot keeps of the device.

use serde::{Deserialize, Serialize};

/// The disk as the guest knows it: what is opened again must be the same. Nothing is under way in a device that
/// holds still, and the file is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its size, in sectors of 512 bytes.
    pub sectors: u64,
    /// The guest may not write.
    pub read_only: bool,
    /// Features on offer, which include what the file's host can do.
    pub features: u64,
    /// The serial number.
    pub serial: String,
    /// The driver knows no flushes: writes are stable when they complete.
    pub write_through: bool,
}
