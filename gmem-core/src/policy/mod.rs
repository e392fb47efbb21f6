//! Who leaves, who comes along, and where accelerators find what they touch: decisions only, no mechanism.

pub mod clock;
pub mod heat;
pub mod hotness;
pub mod placement;
pub mod prefetch;

pub use clock::Clock;
pub use heat::Heat;
pub use hotness::{Hotness, Rounds};
pub use placement::{Choice, Placement, Wanted, Whereabouts};
pub use prefetch::{Plan, Prefetch, Streams};

use crate::page::ClusterNo;
use crate::table::LogicalPageTable;

/// Pages that should leave the guest together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    /// These pages of a cluster.
    Pages {
        /// The cluster.
        cluster: ClusterNo,
        /// Which of its pages.
        mask: u64,
    },
    /// A whole block, by its number.
    Block(u64),
}

/// Chooses what leaves the guest's memory when room is needed.
///
/// Called by several threads at once. What it names is a proposal: the engine passes over pages that are
/// locked, pinned, or gone by then.
pub trait Eviction: Send + Sync {
    /// The next victims, all of them mapped a moment ago; `None` if nothing is mapped that may leave.
    fn victims(&self, table: &LogicalPageTable) -> Option<Victims>;
}
