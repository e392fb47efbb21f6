//! What a snapshot of plugged memory holds.

use std::io;

use serde::{Deserialize, Serialize};

use super::plugged::Plugged;

/// The device's state besides its transport's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) addr: u64,
    pub(super) region_size: u64,
    pub(super) block_size: u64,
    pub(super) requested: u64,
    pub(super) usable: u64,
    pub(super) plugged: Plugged,
}

/// Why a snapshot's plugged memory cannot come back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Not this device's.
    #[error(
        "the snapshot's plugged memory is {found}, this device's is {expected}: start it with the same memory options"
    )]
    OtherRegion {
        /// The snapshot's region.
        found: String,
        /// The device's.
        expected: String,
    },
    /// Sizes that no device has.
    #[error("the snapshot's plugged memory contradicts itself; it is damaged")]
    Damaged,
    /// The monitor refused a block.
    #[error("plugging {len} bytes at {gpa:#x} again: {cause}")]
    Plug {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        len: u64,
        /// The monitor's reason.
        cause: io::Error,
    },
}
