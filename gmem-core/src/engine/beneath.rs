//! What lies beneath the guest, and how it leaves.
//!
//! An accelerator may reach a page there, in the middle of a chunk of work that nobody can interrupt: were the page gone
//! it would wait for a fault handler, who may wait for the page's lock, whose holder waits for the chunk to end. So
//! accelerators let go, and acknowledge, before a page leaves. This is the only way to the MMU, so nobody forgets it.

use super::Engine;
use crate::mmu::{HostAddress, Mmu, Moved, Promoted};
use crate::page::{PAGE_SIZE, PageNo};
use std::sync::Arc;

/// The vCPUs' MMU. Pages come and leave through the engine only.
pub(super) struct Beneath(Arc<dyn Mmu>);

impl Beneath {
    pub(super) fn new(mmu: Arc<dyn Mmu>) -> Self {
        Self(mmu)
    }

    /// See [`Mmu::wake`].
    pub(super) fn wake(&self, page: PageNo, pages: usize) {
        self.0.wake(page, pages);
    }

    /// See [`Mmu::protect`].
    pub(super) fn protect(&self, page: PageNo, pages: usize) -> bool {
        self.0.protect(page, pages)
    }

    /// See [`Mmu::unprotect`].
    pub(super) fn unprotect(&self, page: PageNo, pages: usize) {
        self.0.unprotect(page, pages);
    }

    /// See [`Mmu::discard`].
    pub(super) fn discard(&self, ranges: &[(PageNo, usize)]) -> usize {
        self.0.discard(ranges)
    }

    /// See [`Mmu::promote`].
    pub(super) fn promote(&self, page: PageNo) -> Promoted {
        self.0.promote(page)
    }

    /// See [`Mmu::read`].
    pub(super) fn read(&self, page: PageNo, into: &mut [u8]) -> bool {
        self.0.read(page, into)
    }
}

impl Engine {
    /// As [`Mmu::unmap`], after the accelerators that reach the pages there have let go. Copies stay: nobody can write
    /// to what is staged. The caller holds the pages' entries.
    pub(super) fn leave(&self, page: PageNo, slot: HostAddress, pages: usize) -> Moved {
        self.withdraw_remote(page, pages);
        self.beneath.0.unmap(page, slot, pages)
    }

    /// As [`Mmu::map`], after accelerators have given up their copies of the pages: they become writable. The caller
    /// holds the pages' entries.
    pub(super) fn enter(&self, slot: HostAddress, page: PageNo, pages: usize) -> Moved {
        self.collapse(page, pages, None);
        let moved = self.beneath.0.map(slot, page, pages);
        self.sharing.forget_copied(page, pages);
        moved
    }

    /// As [`Mmu::copy_in`], likewise.
    pub(super) fn enter_copied(&self, page: PageNo, bytes: &[u8]) -> Option<Moved> {
        let pages = bytes.len() / PAGE_SIZE;
        self.collapse(page, pages, None);
        let moved = self.beneath.0.copy_in(page, bytes)?;
        self.sharing.forget_copied(page, pages);
        Some(moved)
    }
}
