//! Memory of an accelerator, which the accelerator itself reaches.
//!
//! Unlike a tier's, its frames are used in place, through page tables of the accelerator's own. It takes no pages
//! by itself: they come when the accelerator touches them, or is expected to.

use super::{Frame, Hnode};
use crate::page::PageNo;

/// Why an accelerator's page tables do not take a mapping. They are as before.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// There is no memory for another table.
    #[error("no memory is left for page tables of {0}; give the accelerator more for them")]
    Tables(String),
    /// The accelerator is gone.
    #[error("accelerator {0} no longer works: {1}")]
    Gone(String, String),
}

/// What an accelerator does to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads.
    Read,
    /// Writes, or reads and writes, at once or not.
    Write,
}

/// Where an accelerator finds a granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// In its own memory.
    Local {
        /// The first page's frame; the others follow it.
        frame: Frame,
        /// It may write there: nobody else has the bytes.
        writable: bool,
    },
    /// Beneath the guest, each page at its guest-physical address, to be read and written over the link.
    Host,
}

/// An accelerator in one address space, as the engine sees it: frames, and page tables that name them.
///
/// All methods may be called from any thread. The engine holds the locks of the pages that it names.
pub trait Device: Hnode {
    /// How many pages, a power of two of at most 64, its smallest mapping covers: aligned to that number, in frames that
    /// are consecutive and as aligned.
    fn granule(&self) -> usize;

    /// Takes `pages` consecutive free frames (a power of two of at most 64), aligned to their number.
    fn take(&self, pages: usize) -> Option<Frame>;

    /// Whether [`Device::take`] would find as many now.
    fn has_room(&self, pages: usize) -> bool;

    /// Fills frames that were taken and that no page has yet, from `bytes`, whole pages.
    fn fill(&self, frame: Frame, bytes: &[u8]);

    /// Fills `pages` such frames with zeros.
    fn zero(&self, frame: Frame, pages: usize);

    /// Lets the accelerator reach a granule, from `page` on, there and no longer where it did before.
    fn map(&self, page: PageNo, reach: Reach) -> Result<(), MapError>;

    /// Whether it can reach pages beneath the guest ([`Reach::Host`]).
    fn reaches_host(&self) -> bool {
        false
    }

    /// Takes pages out of the accelerator's reach, in whole granules if it must. On return it has acknowledged: it
    /// reads and writes them no more until they are mapped again. Pages that are not mapped are none of its business.
    fn withdraw(&self, page: PageNo, pages: usize);
}
