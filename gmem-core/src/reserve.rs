//! Address space for guest RAM and arena.

use std::io;
use std::ptr::NonNull;

use crate::page::{BLOCK_SIZE, PAGE_SIZE};

/// In which sizes the kernel backs a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// As the system is set (`/sys/kernel/mm/transparent_hugepage`).
    AsConfigured,
    /// 4 KiB pages, and nothing collapses them behind our back (`MADV_NOHUGEPAGE`; khugepaged skips the range).
    /// Huge pages that are there, or are moved in, stay whole.
    Small,
    /// 2 MiB pages where a whole block is in the range (`MADV_HUGEPAGE`): one byte written makes 2 MiB.
    Huge,
}

/// Why address space could not be reserved.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The length is no whole number of pages, or zero.
    #[error("cannot reserve {len} bytes of address space: expected a positive multiple of 4096")]
    Length {
        /// The length asked for, in bytes.
        len: usize,
    },
    /// The kernel refused.
    #[error(
        "cannot reserve {len} bytes of address space ({step}): {source}; check the limits on address \
         space (ulimit -v) and on mappings (sysctl vm.max_map_count)"
    )]
    System {
        /// The length asked for, in bytes.
        len: usize,
        /// The call that failed.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Private anonymous memory, 2 MiB aligned, without frames until it is written; unmapped on drop.
///
/// It is not inherited by a fork (`MADV_DONTFORK`): after one, no page of it could be moved until its
/// next write. Swap space is not reserved for it (`MAP_NORESERVE`): what may exist is counted elsewhere.
#[derive(Debug)]
pub struct Reservation {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the reservation is an address range, owned like a Box; whoever reads or writes through its
// addresses does so by raw pointers and answers for races.
unsafe impl Send for Reservation {}
// SAFETY: as above; the methods only issue system calls, which the kernel serialises.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `len` bytes, a multiple of 4 KiB.
    ///
    /// # Errors
    /// See [`ReserveError`].
    pub fn new(len: usize, backing: Backing) -> Result<Self, ReserveError> {
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) || len > isize::MAX as usize - BLOCK_SIZE {
            return Err(ReserveError::Length { len });
        }
        let failed = |step| move |source| ReserveError::System { len, step, source };
        let reservation = Self::map_aligned(len).map_err(failed("mmap"))?;
        reservation
            .advise(0, len, libc::MADV_DONTFORK)
            .map_err(failed("MADV_DONTFORK"))?;
        reservation
            .set_backing(0, len, backing)
            .map_err(failed("MADV_HUGEPAGE or MADV_NOHUGEPAGE"))?;
        Ok(reservation)
    }

    /// Maps a block more than asked for and gives back what lies outside the aligned part.
    fn map_aligned(len: usize) -> io::Result<Self> {
        let mapped = len + BLOCK_SIZE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let raw = raw.cast::<u8>();
        let head = raw.align_offset(BLOCK_SIZE);
        let tail = BLOCK_SIZE - head;
        for (offset, extra) in [(0, head), (head + len, tail)] {
            if extra > 0 {
                // SAFETY: `[offset, offset + extra)` is inside the new mapping and outside the part that is
                // kept; nobody else knows its address. Should it fail, the excess stays reserved: harmless.
                unsafe { libc::munmap(raw.add(offset).cast(), extra) };
            }
        }
        // SAFETY: `head` is less than the mapping's length.
        let start = unsafe { raw.add(head) };
        NonNull::new(start)
            .map(|start| Self { start, len })
            .ok_or_else(|| io::Error::other("mmap returned address 0"))
    }

    /// Address of the first byte, a multiple of 2 MiB.
    pub fn start(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// The first byte, for access by raw pointers.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty range cannot be reserved.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets how `[offset, offset + len)` is backed from now on; frames that exist stay as they are.
    ///
    /// # Errors
    /// `EINVAL` for a range that is unaligned or not inside, or for [`Backing::Huge`] on a kernel without
    /// transparent huge pages. ([`Backing::Small`] holds there anyway, and succeeds.)
    pub fn set_backing(&self, offset: usize, len: usize, backing: Backing) -> io::Result<()> {
        match backing {
            Backing::AsConfigured => Ok(()),
            Backing::Huge => self.advise(offset, len, libc::MADV_HUGEPAGE),
            Backing::Small => match self.advise(offset, len, libc::MADV_NOHUGEPAGE) {
                Err(error)
                    if error.raw_os_error() == Some(libc::EINVAL)
                        && !std::path::Path::new("/sys/kernel/mm/transparent_hugepage")
                            .exists() =>
                {
                    Ok(())
                }
                other => other,
            },
        }
    }

    /// Drops the frames of `[offset, offset + len)` and their bytes (`MADV_DONTNEED`).
    ///
    /// On a block whose frames were all moved away it drops the empty page table, so that a huge page can
    /// be moved in whole. Never on pages that hold bytes somebody still wants.
    ///
    /// # Errors
    /// `EINVAL` for a range that is unaligned or not inside, or locked by `mlock`.
    pub fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        self.advise(offset, len, libc::MADV_DONTNEED)
    }

    /// Tells the kernel that the pages of `[offset, offset + len)` were not used lately (`MADV_COLD`): it forgets that they
    /// were, and takes them first if it is short of memory.
    ///
    /// # Errors
    /// `EINVAL` for a range that is unaligned or not inside.
    pub fn cool(&self, offset: usize, len: usize) -> io::Result<()> {
        self.advise(offset, len, libc::MADV_COLD)
    }

    /// Makes `[offset, offset + len)` inaccessible for good: a hole.
    ///
    /// # Errors
    /// `EINVAL` for a range that is unaligned or not inside.
    pub fn make_hole(&self, offset: usize, len: usize) -> io::Result<()> {
        self.check(offset, len)?;
        // SAFETY: the range is inside the mapping that this value owns.
        match unsafe {
            libc::mprotect(self.start.as_ptr().add(offset).cast(), len, libc::PROT_NONE)
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes every page of `[offset, offset + len)` present, to be written or (`write` false) as it is:
    /// swapped pages come back.
    ///
    /// # Errors
    /// As [`Reservation::discard`], and `ENOMEM`.
    pub fn populate(&self, offset: usize, len: usize, write: bool) -> io::Result<()> {
        let advice = if write {
            libc::MADV_POPULATE_WRITE
        } else {
            libc::MADV_POPULATE_READ
        };
        self.advise(offset, len, advice)
    }

    /// Puts a block that is present into one frame of 2 MiB, if there is one to be had.
    ///
    /// # Errors
    /// `EINVAL` also where the backing is [`Backing::Small`]; `ENOMEM`, `EAGAIN` or `EBUSY` if it cannot be
    /// done now.
    pub fn collapse(&self, offset: usize) -> io::Result<()> {
        self.advise(offset, BLOCK_SIZE, libc::MADV_COLLAPSE)
    }

    fn check(&self, offset: usize, len: usize) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn advise(&self, offset: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        self.check(offset, len)?;
        // SAFETY: the range is inside the mapping that this value owns. Dropping frames changes bytes, which
        // are reached by raw pointers only.
        match unsafe { libc::madvise(self.start.as_ptr().add(offset).cast(), len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever uses its addresses keeps the reservation alive.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_are_no_whole_pages_are_refused_with_the_length() {
        for len in [0, 1, PAGE_SIZE + 1, usize::MAX & !(PAGE_SIZE - 1)] {
            let error = Reservation::new(len, Backing::Small).expect_err("refused");
            assert!(matches!(error, ReserveError::Length { len: found } if found == len));
            assert!(error.to_string().contains(&len.to_string()));
        }
    }

    #[test]
    fn more_than_the_address_space_is_refused_with_a_remedy() {
        let error = Reservation::new(1 << 60, Backing::Small).expect_err("refused");
        assert!(matches!(error, ReserveError::System { step: "mmap", .. }));
        assert!(error.to_string().contains("ulimit -v"), "{error}");
    }

    #[test]
    fn reservations_of_any_number_of_pages_start_at_a_block_and_are_zero() {
        for pages in [1, 511, 512, 513] {
            let reservation = Reservation::new(pages * PAGE_SIZE, Backing::Small).expect("reserve");
            assert!(reservation.start().is_multiple_of(BLOCK_SIZE));
            assert_eq!(reservation.len(), pages * PAGE_SIZE);
            // SAFETY: the last byte of a live reservation that nobody else knows.
            let last = unsafe { reservation.as_ptr().add(reservation.len() - 1) };
            // SAFETY: as above.
            unsafe { last.write_volatile(last.read_volatile() + 1) };
            // SAFETY: as above.
            assert_eq!(unsafe { last.read_volatile() }, 1);
        }
    }

    #[test]
    fn advice_outside_the_reservation_is_refused() {
        let reservation = Reservation::new(BLOCK_SIZE, Backing::Small).expect("reserve");
        for (offset, len) in [
            (BLOCK_SIZE, 1),
            (PAGE_SIZE, BLOCK_SIZE),
            (usize::MAX, 2),
            (1, 1),
        ] {
            let error = reservation.discard(offset, len).expect_err("refused");
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }
}
