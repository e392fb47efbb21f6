//! What a snapshot keeps of the device.

use serde::{Deserialize, Serialize};

/// Nothing: a request is served while the device's lock is held, and what it did is in the address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {}
