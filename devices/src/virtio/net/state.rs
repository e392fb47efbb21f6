//! What a snapshot of a network device holds.

use serde::{Deserialize, Serialize};

/// The device's state besides its transport's. Packets under way are not kept: networks lose some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The guest's hardware address.
    pub mac: Option<[u8; 6]>,
    /// The agreed features; none while no driver is ready.
    pub features: Option<u64>,
}
