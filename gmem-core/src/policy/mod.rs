//! Who leaves, who comes along, and where accelerators find what they touch: decisions only, no mechanism.

pub mod clock;
pub mod density;
pub mod heat;
pub mod hotness;
mod marks;
mod occupied;
pub mod placement;
pub mod prefetch;
mod reuse;
pub mod simulation;

pub use clock::Clock;
pub use density::Density;
pub use heat::Heat;
pub use hotness::{Hotness, Rounds};
pub use placement::{Choice, Placement, Wanted, Whereabouts};
pub use prefetch::{Foreseen, Plan, Prefetch, Prefetching, Streams, Tree, Window};

use crate::page::{ClusterNo, PageNo};
use crate::table::{Entry, Flags, LogicalPageTable};

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

    /// How often the policy has been round all pages. One that does not go round says 0.
    fn turns(&self) -> u64 {
        0
    }

    /// The flags of `page`, which comes beneath the guest and had `entry` until now: because it was `touched`, or along
    /// with one that was. What the policy notes there stays with the page when it leaves, unless it holds zeros.
    fn arrives(&self, page: PageNo, entry: Entry, touched: bool) -> Flags {
        let _ = page;
        let flags = entry
            .flags()
            .without(Flags::WILL_NEED)
            .without(Flags::ACCESSED);
        flags.with(Flags::DIRTY).with(if touched {
            Flags::ACCESSED
        } else {
            Flags::NONE
        })
    }
}
