//! Linux itself: its version, `PAGEMAP_SCAN`, memfd.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::{Host, Requirement};
use crate::memory::pagemap::Pagemap;

/// The oldest kernel that can move pages by userfaultfd.
const OLDEST: (u32, u32) = (6, 8);

/// Linux 6.8 or newer.
pub(super) fn linux(host: &Host) -> Requirement {
    let (name, purpose) = (
        "linux",
        "6.8 or newer, to move page frames without copying them (UFFDIO_MOVE)",
    );
    match version(&host.release) {
        Some(version) if version >= OLDEST => Requirement::found(name, purpose, &host.release),
        Some(_) => Requirement::missing(
            name,
            purpose,
            format!("Linux {}", host.release),
            "boot Linux 6.8 or newer",
        ),
        None => Requirement::missing(
            name,
            purpose,
            format!("a kernel that calls itself `{}`", host.release),
            "boot Linux 6.8 or newer",
        ),
    }
}

/// The first two numbers of a release such as `6.8.0-rc1-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// The ioctl that lists pages which exist.
pub(super) fn pagemap_scan() -> Requirement {
    // One page, anything that is mapped: here, of the stack.
    let here = 0_u8;
    let page = (&raw const here as usize) & !4095;
    scanned(Pagemap::open().and_then(|pagemap| pagemap.scan(page, 4096).map(drop)))
}

/// What it means that the page map was scanned, or was not.
pub(super) fn scanned(tried: io::Result<()>) -> Requirement {
    let (name, purpose) = (
        "pagemap-scan",
        "to adopt the pages of a running guest when its memory becomes managed",
    );
    match tried {
        Ok(()) => Requirement::found(name, purpose, "PAGEMAP_SCAN"),
        Err(error) => Requirement::missing(
            name,
            purpose,
            error.to_string(),
            "boot Linux 6.7 or newer with CONFIG_PROC_PAGE_MONITOR=y, and mount /proc",
        ),
    }
}

/// Anonymous files.
pub(super) fn memfd() -> Requirement {
    // SAFETY: the name is a C string; the call touches no other memory of ours.
    let fd = unsafe { libc::memfd_create(c"gmem-check".as_ptr(), libc::MFD_CLOEXEC) };
    let tried = match fd {
        -1 => Err(io::Error::last_os_error()),
        fd => {
            // SAFETY: the descriptor was just made and is nobody else's.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            Ok(())
        }
    };
    memfd_made(tried)
}

/// What it means that a memfd was made, or was not.
pub(super) fn memfd_made(tried: io::Result<()>) -> Requirement {
    let (name, purpose) = ("memfd", "holds emulated accelerator memory (tier hbm)");
    match tried {
        Ok(()) => Requirement::found(name, purpose, "memfd_create"),
        Err(error) => Requirement::missing(
            name,
            purpose,
            format!("memfd_create fails: {error}"),
            "boot a kernel with CONFIG_MEMFD_CREATE=y, and allow the call in the container's seccomp profile",
        ),
    }
}
