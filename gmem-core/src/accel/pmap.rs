//! An accelerator's page tables, as its driver offers them.

use crate::hnode::device::{MapError, Reach};
use crate::page::PageNo;

/// Names one address space's page tables in an accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContextId(pub u32);

/// The MMU functions of a driver. All may be called from any thread, for disjoint pages at once.
pub trait Pmap: Send + Sync {
    /// Pages, a power of two of at most 64, in the smallest mapping.
    fn granule(&self) -> usize;

    /// Makes page tables without a mapping.
    fn create(&self) -> Result<ContextId, MapError>;

    /// Frees page tables, in which nothing is mapped any more and which nobody walks.
    fn destroy(&self, context: ContextId);

    /// Maps a granule from `page` on, in place of what is mapped there: to frames of the accelerator's memory, or to the
    /// guest's memory at its own guest-physical addresses. An accelerator that has faulted on it may try again when this
    /// returns. Where rights are taken away, or the place changes, the old translation is invalidated as by
    /// [`Pmap::unmap`].
    fn map(&self, context: ContextId, page: PageNo, reach: Reach) -> Result<(), MapError>;

    /// Whether the accelerator can use the guest's memory in place ([`Reach::Host`]) in this address space. One that
    /// cannot gets every page into its own memory.
    fn reaches_host(&self, _context: ContextId) -> bool {
        false
    }

    /// Unmaps every granule that has one of these pages, and invalidates what the accelerator has cached of them. On
    /// return it has acknowledged: no access through an old translation is under way or will begin, whoever took it away:
    /// pages of one granule may be unmapped by several threads at once, and the one that finds nothing mapped waits like the
    /// one that did. It must not depend on a fault of the accelerator being resolved: whoever resolves it may be the caller.
    fn unmap(&self, context: ContextId, page: PageNo, pages: usize);
}
