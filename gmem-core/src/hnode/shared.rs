//! A named piece of shared memory: where emulated devices keep their bytes.
//!
//! A memfd, so that it counts as shared memory and not as the process's own (the host budget's) and can
//! be told apart by its name in `/proc/PID/maps`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;

/// Shared memory of a fixed size, zeros at first. Frames are reached by copies in and out.
#[derive(Debug)]
pub(super) struct SharedMemory {
    base: *mut u8,
    len: usize,
    // Kept so that the memory's name stays visible for as long as the memory.
    _fd: OwnedFd,
}

// SAFETY: the mapping is plain bytes, reached only by the copies below.
unsafe impl Send for SharedMemory {}
// SAFETY: as above; that two threads never copy in and out of the same frame at once is the hnode trait's contract.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// `len` bytes (at least 1) named `name`.
    pub(super) fn new(name: &std::ffi::CStr, len: usize) -> io::Result<Self> {
        // SAFETY: the name is NUL-terminated; the call has no other preconditions.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just created, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a valid descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range was just mapped. Advice only: the guest's memory is not in a child's.
        unsafe { libc::madvise(base, len, libc::MADV_DONTFORK) };
        Ok(Self {
            base: base.cast(),
            len,
            _fd: fd,
        })
    }

    /// Copies `bytes` to offset `at`.
    ///
    /// # Panics
    ///
    /// If they do not lie in the memory.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(
            at.checked_add(bytes.len())
                .is_some_and(|end| end <= self.len)
        );
        // SAFETY: in bounds by the check above; nobody else copies in or out of this frame meanwhile (the
        // hnode trait's contract), and `bytes` is not in this mapping, which never gives out references.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) }
    }

    /// Fills `into` from offset `at`.
    ///
    /// # Panics
    ///
    /// If that does not lie in the memory.
    pub(super) fn read(&self, at: usize, into: &mut [u8]) {
        assert!(
            at.checked_add(into.len())
                .is_some_and(|end| end <= self.len)
        );
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(at), into.as_mut_ptr(), into.len()) }
    }
}

impl SharedMemory {
    /// The word at offset `at`.
    ///
    /// # Panics
    ///
    /// If it does not lie in the memory, or `at` is no multiple of 8.
    pub(super) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at.checked_add(8).is_some_and(|end| end <= self.len));
        // SAFETY: in bounds and aligned by the check above (the mapping is aligned to pages), and mapped for as long as
        // `self`. Where others copy the same bytes meanwhile, as programs of an accelerator may, each byte is one of
        // those written.
        unsafe { AtomicU64::from_ptr(self.base.add(at).cast()) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no reference into it was ever given out.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
