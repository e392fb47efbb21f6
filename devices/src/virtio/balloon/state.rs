//! What a snapshot of a balloon holds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hints::HintState;
use super::roles::Roles;

/// The device's state besides its transport's. What is in the balloon the guest knows, and the memory shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) target_pages: u32,
    pub(super) actual_pages: u32,
    /// The agreed features; none while no driver is ready.
    pub(super) features: Option<u64>,
    pub(super) roles: Roles,
    pub(super) statistics_interval: Option<Duration>,
    /// The buffer that the driver has left for the next request of statistics.
    pub(super) statistics_buffer: Option<u16>,
    pub(super) hints: HintState,
}
