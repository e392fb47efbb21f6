//! A piece of this process's address space for frames: the only place where the arena touches memory.

use crate::page::{BLOCK_SIZE, PAGE_SIZE};
use std::io;

/// An anonymous private mapping, aligned to 2 MiB, that starts without any frame.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: a range of addresses; who may touch which part is decided by the owners of slots.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `len` bytes of address space (a multiple of 2 MiB). Costs no memory until written.
    pub fn new(len: usize) -> io::Result<Self> {
        assert!(len.is_multiple_of(BLOCK_SIZE) && len > 0);
        let reserved = len + BLOCK_SIZE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                reserved,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let head = start.align_offset(BLOCK_SIZE);
        // SAFETY: `head` is less than a block, and the reservation is a block longer than `len`; what is
        // cut off on both sides was just mapped and is used by nobody.
        let base = unsafe {
            let base = start.cast::<u8>().add(head);
            if head > 0 {
                libc::munmap(start, head);
            }
            libc::munmap(base.add(len).cast(), BLOCK_SIZE - head);
            base
        };
        let mapping = Self { base, len };
        mapping.advise(0, len, libc::MADV_DONTFORK)?;
        Ok(mapping)
    }

    /// Address of the first byte.
    pub fn base(&self) -> usize {
        self.base as usize
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is of no length; never so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tells the kernel that pages of 4 KiB are wanted from byte `at` on.
    pub fn want_small_pages(&self, at: usize, len: usize) -> io::Result<()> {
        self.advise(at, len, libc::MADV_NOHUGEPAGE)
    }

    /// Tells the kernel that pages of 2 MiB are wanted from byte `at` on.
    pub fn want_huge_pages(&self, at: usize, len: usize) -> io::Result<()> {
        self.advise(at, len, libc::MADV_HUGEPAGE)
    }

    /// Gives the frames from byte `at` on back to the kernel. What was there is gone.
    pub(super) fn release(&self, at: usize, len: usize) {
        // It fails only for a range that is not mapped or is locked, which `advise` rules out.
        let released = self.advise(at, len, libc::MADV_DONTNEED);
        debug_assert!(released.is_ok(), "{released:?}");
    }

    /// The bytes of `pages` pages from page `page` on.
    ///
    /// # Safety
    ///
    /// The caller owns those slots, and nobody else reaches them for as long as the slice lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "ownership is of slots, not of the mapping"
    )]
    pub(super) unsafe fn bytes_mut(&self, page: usize, pages: usize) -> &mut [u8] {
        assert!((page + pages) * PAGE_SIZE <= self.len);
        // SAFETY: in bounds by the check above, valid for reads and writes for as long as `self`, any
        // bit pattern is a byte, and nobody else reaches it by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.add(page * PAGE_SIZE), pages * PAGE_SIZE)
        }
    }

    fn advise(&self, at: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        assert!(at + len <= self.len);
        // SAFETY: the range is inside this mapping; advice that drops contents is only given for slots
        // that hold nothing anybody wants.
        let rc = unsafe { libc::madvise(self.base.add(at).cast(), len, advice) };
        // A kernel without huge pages does not know the advice about them, and needs none.
        let harmless = advice == libc::MADV_NOHUGEPAGE || advice == libc::MADV_HUGEPAGE;
        match rc {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if harmless && error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// Aligned memory for bytes on their way from tier to tier. Costs nothing until used.
#[derive(Debug)]
pub struct Scratch(Mapping);

impl Scratch {
    /// Room for a block.
    pub fn new() -> io::Result<Self> {
        Mapping::new(BLOCK_SIZE).map(Self)
    }

    /// The first `pages` pages (at most 512).
    pub fn bytes_mut(&mut self, pages: usize) -> &mut [u8] {
        // SAFETY: nobody else has the mapping, and the slice borrows it exclusively.
        unsafe { self.0.bytes_mut(0, pages) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; slices into it borrow from it, so none lives.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
