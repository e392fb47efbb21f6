//! What a snapshot keeps of the device.

use serde::{Deserialize, Serialize};

/// Nothing: held still, it has answered every command, and its memory is the address space's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {}
