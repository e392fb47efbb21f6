//! The vCPUs' page tables, changed by moving frames.

use std::sync::Arc;

use gmem_core::mmu::{HostAddress, Mmu, Moved, Promoted};
use gmem_core::page::{BLOCK_PAGES, PAGE_SIZE, PageNo};

use super::discard::Discard;
use super::huge;
use super::ram::GuestRam;
use super::userfault::{Userfault, Waking};

/// Moves frames between the arena and the guest by `UFFDIO_MOVE`: KVM learns of each change by the
/// kernel's MMU notifiers, so EPT, NPT or shadow tables follow without our doing.
pub(super) struct VcpuMmu {
    pub(super) userfault: Arc<Userfault>,
    pub(super) ram: Arc<GuestRam>,
    pub(super) discard: Discard,
    /// Whether full blocks become huge pages.
    pub(super) promotes: bool,
}

impl VcpuMmu {
    fn address(&self, page: PageNo) -> usize {
        self.ram.base() + page.address() as usize
    }

    fn moved(&self, to: usize, from: usize, pages: usize) -> Moved {
        if pages == BLOCK_PAGES {
            // An empty page table left at the destination would make the kernel split the huge frame.
            self.drop_empty_page_table(to);
        }
        self.userfault
            .move_pages(to, from, pages * PAGE_SIZE, Waking::Later)
    }

    fn drop_empty_page_table(&self, block: usize) {
        // SAFETY: the engine holds the lock of the block's entry, and only asks to move a block to where
        // nothing is: guest memory of a block that is not mapped, or an empty slot of the arena.
        unsafe {
            libc::madvise(
                block as *mut libc::c_void,
                BLOCK_PAGES * PAGE_SIZE,
                libc::MADV_DONTNEED,
            )
        };
    }
}

impl Mmu for VcpuMmu {
    fn map(&self, slot: HostAddress, page: PageNo, pages: usize) -> Moved {
        self.moved(self.address(page), slot.0, pages)
    }

    fn copy_in(&self, page: PageNo, bytes: &[u8]) -> Option<Moved> {
        Some(self.userfault.copy_pages(self.address(page), bytes))
    }

    fn unmap(&self, page: PageNo, slot: HostAddress, pages: usize) -> Moved {
        self.moved(slot.0, self.address(page), pages)
    }

    fn wake(&self, page: PageNo, pages: usize) {
        // It fails only for a range that is not registered, and then nobody waits there.
        let _ = self.userfault.wake(self.address(page), pages * PAGE_SIZE);
    }

    fn protect(&self, page: PageNo, pages: usize) -> bool {
        // The kernel copies into guest memory for our devices as a write of theirs, and that waits. Only direct I/O, which
        // none of them does, would go on writing to pages that it has pinned.
        let (start, len) = (self.address(page), pages * PAGE_SIZE);
        self.userfault.write_protect(start, len, true).is_ok()
    }

    fn unprotect(&self, page: PageNo, pages: usize) {
        // As for `wake`. What stayed protected is reported when it is written to, and released then.
        let (start, len) = (self.address(page), pages * PAGE_SIZE);
        let _ = self.userfault.unprotect(start, len, Waking::Later);
    }

    fn discard(&self, ranges: &[(PageNo, usize)]) -> usize {
        let range = |&(page, pages): &(PageNo, usize)| libc::iovec {
            iov_base: self.address(page) as *mut libc::c_void,
            iov_len: pages * PAGE_SIZE,
        };
        if self.ram.incoming().any() {
            // Some may be pinned for a device of the host, which has not written yet.
            return 0;
        }
        let ranges: Vec<_> = ranges.iter().map(range).collect();
        // SAFETY: guest memory, whose bytes the engine has copied, and which nobody can write to.
        unsafe { self.discard.all(&ranges) }
    }

    fn promote(&self, page: PageNo) -> Promoted {
        if self.promotes {
            huge::promote(&self.ram, page)
        } else {
            Promoted::NotOffered
        }
    }

    fn read(&self, page: PageNo, into: &mut [u8]) -> bool {
        self.ram.read(page.address(), into).is_ok()
    }
}

#[cfg(test)]
mod tests;
