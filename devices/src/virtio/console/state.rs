//! What a snapshot keeps of the device.

use serde::{Deserialize, Serialize};

/// The console as the guest knows it. Input is only read when the driver has a buffer for it, and output has left
/// the guest: neither is part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Columns and rows, if they are known.
    pub size: Option<(u16, u16)>,
}
