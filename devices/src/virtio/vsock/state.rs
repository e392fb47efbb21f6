//! What a snapshot of a vsock holds.

use serde::{Deserialize, Serialize};

/// The device's state besides its transport's. Connections are not kept: their other ends stay with the old host, and
/// the guest is told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The guest's address.
    pub cid: u64,
}

/// Why a snapshot's vsock cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot's guest has cid {found}, this one {expected}: start it with cid={found}")]
pub struct OtherCid {
    /// The snapshot's.
    pub found: u64,
    /// The device's.
    pub expected: u64,
}
