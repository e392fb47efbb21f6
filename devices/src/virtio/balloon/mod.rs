//! virtio-balloon (virtio 1.2, 5.5): the guest gives memory back.
//!
//! | file | part |
//! |---|---|
//! | `device` | the device and its queues |
//! | `roles` | which queue has which role |
//! | `request` | pages and ranges in a request |
//! | `control` | what the monitor sees and changes while the guest runs |
//! | `statistics` | what the guest says of its memory |
//! | `hints` | free page hinting: which pages the guest called free |
//! | `metrics`, `state` | counters; what a snapshot needs |
//!
//! Three ways lead to a freed page. *Inflating*: the monitor sets a target, the driver takes pages from its
//! system and names them; they stay the balloon's. *Reporting*: the driver lends pages that happen to be free, and
//! has them back as soon as the device has freed them; no target is needed. *Hinting*: see [`Hinting`]; such pages
//! are not freed here, because nothing would tell a page that is still free from one that has been written to.

mod control;
mod device;
mod hints;
mod metrics;
mod request;
mod roles;
mod state;
mod statistics;
#[cfg(test)]
mod tests;

pub use control::{BalloonControl, HintingError, StatisticsError, TargetError};
pub use device::{Balloon, BalloonOptions};
pub use hints::Hinting;
pub use metrics::Metrics;
pub use state::State;
pub use statistics::{Statistic, Statistics};

/// The unit of page numbers, bytes: whatever the guest's own pages are.
pub const PAGE_SIZE: u64 = 4096;

/// Features, as bits.
mod feature {
    /// Statistics, on their own queue.
    pub(super) const STATISTICS: u64 = 1 << 1;
    /// The guest may take pages out of the balloon before it runs out of memory.
    pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// Free page hinting.
    pub(super) const HINTING: u64 = 1 << 3;
    /// Free page reporting.
    pub(super) const REPORTING: u64 = 1 << 5;
}
