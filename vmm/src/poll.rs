//! Waiting for descriptors.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Waits until one of the descriptors is readable or closed, or `limit` is over, or a signal interrupts. Which ones are;
/// a negative one is not waited for.
pub(crate) fn poll<const N: usize>(
    fds: [RawFd; N],
    limit: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // Rounded up, so that the last wait does not become a busy loop.
    let millis = limit.map_or(-1, |limit| {
        i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    });
    // SAFETY: the array is writable and its length is given.
    let rc = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
    if rc < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(polled.map(|polled| rc > 0 && polled.revents != 0))
}
