//! A named piece of shared memory: where emulated devices keep their bytes, and through which pages go to another process.
//!
//! A memfd, so that it counts as shared memory and not as the process's own (the host budget's) and can
//! be told apart by its name in `/proc/PID/maps`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;

/// Shared memory of a fixed size, zeros at first. Frames are reached by copies in and out.
#[derive(Debug)]
pub struct SharedMemory {
    base: *mut u8,
    len: usize,
    // Kept so that the memory's name stays visible for as long as the memory.
    fd: OwnedFd,
}

/// What keeps the memory mapped whoever else has its descriptor: no access to it can fail.
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

// SAFETY: the mapping is plain bytes, reached only by the copies below.
unsafe impl Send for SharedMemory {}
// SAFETY: as above; that two threads never copy in and out of the same frame at once is the hnode trait's contract.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// `len` bytes (at least 1) named `name`.
    pub(crate) fn new(name: &std::ffi::CStr, len: usize) -> io::Result<Self> {
        Self::map(Self::create(name, len)?, len)
    }

    /// The same, to be given to another process, which can neither shrink nor grow it.
    pub(crate) fn sealed(name: &std::ffi::CStr, len: usize) -> io::Result<Self> {
        let fd = Self::create(name, len)?;
        // SAFETY: a valid descriptor.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Self::map(fd, len)
    }

    /// `len` bytes that another process has made, and sealed.
    pub(crate) fn given(fd: OwnedFd, len: usize) -> io::Result<Self> {
        // SAFETY: a valid descriptor; what is no memfd says EINVAL.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 {
            return Err(io::Error::last_os_error());
        }
        let size = std::fs::File::from(fd.try_clone()?).metadata()?.len();
        let fixed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        if seals & fixed != fixed || size != len as u64 || len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "shared memory of {size} bytes with seals {seals:#x}; expected {len} bytes, sealed"
                ),
            ));
        }
        Self::map(fd, len)
    }

    fn create(name: &std::ffi::CStr, len: usize) -> io::Result<OwnedFd> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is NUL-terminated; the call has no other preconditions.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just created, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a valid descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }

    /// Maps `len` bytes of a memfd, which nobody can shrink.
    fn map(fd: OwnedFd, len: usize) -> io::Result<Self> {
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
            fd,
        })
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies `bytes` to offset `at`.
    ///
    /// # Panics
    ///
    /// If they do not lie in the memory.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(
            at.checked_add(bytes.len())
                .is_some_and(|end| end <= self.len)
        );
        // SAFETY: in bounds by the check above; nobody else of this process copies in or out of this frame meanwhile (the
        // hnode trait's contract; the pager's, of a slot), and `bytes` is not in this mapping, which never gives out
        // references. What another process writes meanwhile are bytes like any others.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) }
    }

    /// Fills `into` from offset `at`.
    ///
    /// # Panics
    ///
    /// If that does not lie in the memory.
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) {
        assert!(
            at.checked_add(into.len())
                .is_some_and(|end| end <= self.len)
        );
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(at), into.as_mut_ptr(), into.len()) }
    }
}

impl SharedMemory {
    /// Copies `len` bytes from offset `at` to offset `to` of other memory.
    ///
    /// # Panics
    ///
    /// If they do not lie in both.
    pub(crate) fn copy_to(&self, at: usize, len: usize, other: &Self, to: usize) {
        let inside =
            |start: usize, size: usize| start.checked_add(len).is_some_and(|end| end <= size);
        assert!(inside(at, self.len) && inside(to, other.len) && !std::ptr::eq(self, other));
        // SAFETY: as in `write` and `read`; these are two mappings.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(at), other.base.add(to), len) }
    }

    /// The word at offset `at`.
    ///
    /// # Panics
    ///
    /// If it does not lie in the memory, or `at` is no multiple of 8.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at.checked_add(8).is_some_and(|end| end <= self.len));
        // SAFETY: in bounds and aligned by the check above (the mapping is aligned to pages), and mapped for as long as
        // `self`. Where others copy the same bytes meanwhile, as programs of an accelerator may, each byte is one of
        // those written.
        unsafe { AtomicU64::from_ptr(self.base.add(at).cast()) }
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no reference into it was ever given out.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
