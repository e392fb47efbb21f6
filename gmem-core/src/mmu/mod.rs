//! What translates for an accessor: the narrow door between the engine and page tables.
//!
//! The vCPUs' translator is the host's page tables (under EPT, NPT or shadow tables), changed by
//! `UFFDIO_MOVE`: a frame *travels* between an address in the arena and the guest's address, it is not
//! copied and never mapped at both. An implementation lives outside this crate.

use crate::page::PageNo;
use std::fmt;

/// An address of this process, in bytes: a slot of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress(pub usize);

/// Why a move stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The destination already has a page (`EEXIST`).
    Present,
    /// The source has no page (`ENOENT`).
    Absent,
    /// The page is pinned, by direct I/O for example (`EBUSY`): come back later.
    Busy,
    /// The kernel refused for another reason: its error number. The microVM cannot go on.
    Failed(i32),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("there is a page where it should go"),
            Self::Absent => f.write_str("it is not where it should be"),
            Self::Busy => f.write_str("it is pinned"),
            Self::Failed(number) => {
                write!(
                    f,
                    "the kernel says {}",
                    std::io::Error::from_raw_os_error(*number)
                )
            }
        }
    }
}

/// What a move did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Whole pages moved, from the first on.
    pub pages: usize,
    /// What stopped it at the page after those; `None` if everything moved.
    pub stopped: Option<Obstacle>,
}

/// What became of a block that was to be one frame of 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promoted {
    /// It is one.
    Done,
    /// It is not, this time: no frame, or a page that somebody uses.
    NotNow,
    /// It cannot be done here.
    NotOffered,
}

/// Translates guest-physical pages for the vCPUs.
///
/// All methods may be called from any thread, on disjoint pages at once. The caller holds the pages'
/// entries locked, so no page is the subject of two calls at a time.
pub trait Mmu: Send + Sync {
    /// Moves the frames of `pages` consecutive arena slots, from `slot` on, beneath the guest's pages from
    /// `page` on, writable. Whoever waits for those pages sleeps on until [`Mmu::wake`]: they may take the
    /// caller's CPU at once, and the caller holds locks.
    ///
    /// A vCPU that does not wait sees each page as soon as it is moved. `slot` and `page` are block-aligned if `pages` is
    /// 512; a huge frame then stays one.
    fn map(&self, slot: HostAddress, page: PageNo, pages: usize) -> Moved;

    /// Copies `bytes`, whole pages, into new frames beneath the guest's pages from `page` on, otherwise as [`Mmu::map`]. The
    /// caller has leave to create them. Nobody's translation changes, so no CPU is interrupted: dearer than a move where
    /// all others are idle, and for many pages, cheaper for a few where others are at work. `None` if it cannot be done.
    fn copy_in(&self, _page: PageNo, _bytes: &[u8]) -> Option<Moved> {
        None
    }

    /// Takes the frames of `pages` consecutive guest pages out of the guest's reach, into empty arena
    /// slots from `slot` on. On return no accessor can reach what was moved.
    fn unmap(&self, page: PageNo, slot: HostAddress, pages: usize) -> Moved;

    /// Wakes whoever waits for these pages; they try again.
    fn wake(&self, page: PageNo, pages: usize);

    /// Lets nobody write to those of `pages` consecutive guest pages that are there: who tries waits, and is reported to
    /// [`Engine::write_fault`](crate::engine::Engine::write_fault). On return no write is under way. A page that leaves
    /// takes no protection along. False if it cannot be done; some may be protected then.
    fn protect(&self, _page: PageNo, _pages: usize) -> bool {
        false
    }

    /// Drops pages that are there and protected, with their bytes, so many from each on: whoever reaches for them waits as for a
    /// page that never came. CPUs are interrupted once for all of them. Returns how many of the ranges were dropped,
    /// from the first on: none while a device of the host may write to pages that the kernel has pinned.
    fn discard(&self, _ranges: &[(PageNo, usize)]) -> usize {
        0
    }

    /// Lets everybody write again; who waits sleeps on until [`Mmu::wake`].
    fn unprotect(&self, _page: PageNo, _pages: usize) {}

    /// Makes one frame of 2 MiB of the frames of the block that begins with `page`, all of them there and none protected.
    /// Accessors read and write it meanwhile, or wait for a moment. The caller has leave to create that frame; the small
    /// ones are freed. Failed, everything is as it was.
    fn promote(&self, _page: PageNo) -> Promoted {
        Promoted::NotOffered
    }

    /// Copies pages that are there, and protected, into `into`, whole pages. False if it cannot be done.
    fn read(&self, _page: PageNo, _into: &mut [u8]) -> bool {
        false
    }
}
