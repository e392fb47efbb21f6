//! Who comes along with a touched page.

mod foreseen;
mod plan;
mod streams;
mod tree;

pub use foreseen::{Foreseen, Prefetching};
pub use plan::Plan;
pub use streams::{Streams, Window};
pub use tree::Tree;

use crate::page::PageNo;

/// Chooses what comes along when a page is touched that is not there.
///
/// Each accessor has one of its own: what one vCPU does says nothing of what another will do.
pub trait Prefetch: Send {
    /// How many pages memory has room for. Said before each plan.
    fn room(&mut self, pages: u64) {
        let _ = pages;
    }

    /// Fills `plan`, which is empty, with the pages that are worth bringing in with `touched`. That page itself need not be
    /// named.
    fn plan(&mut self, touched: PageNo, plan: &mut Plan);

    /// How many pages came in beside the touched one, after the latest plan.
    fn brought(&mut self, pages: u64);

    /// How many pages that came along are known by now to have been used, since this was last asked.
    fn take_used(&mut self) -> u64;
}

#[cfg(test)]
mod tests;
