//! Many ranges of this process's memory dropped at once.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use libc::iovec;

/// Ranges that one system call takes (`UIO_MAXIOV`).
const AT_ONCE: usize = 1024;

/// Drops ranges by `process_madvise`, which tells other CPUs once for all of them (Linux 6.16), where the kernel lets a
/// process do that to itself (6.13); else one by one.
#[derive(Debug, Default)]
pub(super) struct Discard(OnceLock<Option<OwnedFd>>);

impl Discard {
    /// Drops ranges, each a multiple of the page size long, with their bytes; returns how many of them, from the first on.
    ///
    /// # Safety
    ///
    /// The ranges are mapped private memory whose bytes nobody wants any more.
    pub(super) unsafe fn all(&self, ranges: &[iovec]) -> usize {
        let mut done = 0;
        if let Some(this) = self.0.get_or_init(this_process) {
            for part in ranges.chunks(AT_ONCE) {
                // SAFETY: the iovecs are `part`'s; what they name is the caller's promise.
                let dropped = unsafe {
                    libc::syscall(
                        libc::SYS_process_madvise,
                        this.as_raw_fd(),
                        part.as_ptr(),
                        part.len(),
                        libc::MADV_DONTNEED,
                        0,
                    )
                };
                let mut dropped = usize::try_from(dropped).unwrap_or(0);
                for range in part {
                    if dropped < range.iov_len {
                        break;
                    }
                    dropped -= range.iov_len;
                    done += 1;
                }
            }
        }
        let rest = ranges[done..].iter().take_while(|range| {
            // SAFETY: the caller's promise.
            unsafe { libc::madvise(range.iov_base, range.iov_len, libc::MADV_DONTNEED) == 0 }
        });
        done + rest.count()
    }
}

/// A descriptor of this process.
fn this_process() -> Option<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just made it for us.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve::{Backing, Reservation};
    use gmem_core::page::PAGE_SIZE;

    #[test]
    fn only_the_ranges_lose_their_bytes() {
        let memory = Reservation::new(64 * PAGE_SIZE, Backing::Small).unwrap();
        let bytes = memory.as_ptr();
        let range = |page: usize, pages: usize| iovec {
            iov_base: bytes.wrapping_add(page * PAGE_SIZE).cast(),
            iov_len: pages * PAGE_SIZE,
        };
        // SAFETY: the memory is ours, and nobody else's.
        let discarded = unsafe {
            (0..64 * PAGE_SIZE).for_each(|at| bytes.add(at).write(7));
            Discard::default().all(&[range(1, 1), range(3, 2), range(63, 1)])
        };
        assert_eq!(discarded, 3);
        for page in 0..64 {
            // SAFETY: likewise.
            let byte = unsafe { bytes.add(page * PAGE_SIZE).read() };
            let expected = if [1, 3, 4, 63].contains(&page) { 0 } else { 7 };
            assert_eq!(byte, expected, "page {page}");
        }
    }
}
