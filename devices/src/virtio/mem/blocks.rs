//! What the monitor does when a block comes or goes.

use std::io;

/// The monitor's part of plugging memory. Called with the device's lock held, by the device's worker; both
/// addresses and lengths are multiples of the block size.
pub trait Blocks: Send {
    /// From now on the guest may touch `len` bytes at guest-physical address `gpa`. They read as zeros.
    ///
    /// # Errors
    ///
    /// The guest does not get the range now, and is told to try again later.
    fn plug(&mut self, gpa: u64, len: u64) -> io::Result<()>;

    /// From now on the guest may not touch the range, which is freed next.
    ///
    /// # Errors
    ///
    /// The guest keeps the range, and is told to try again later.
    fn unplug(&mut self, gpa: u64, len: u64) -> io::Result<()>;
}
