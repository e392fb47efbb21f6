//! The initial RAM disk: a file at the end of the memory below the hole for devices.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::BootError;
use crate::memory::ram::GuestRam;

const PAGE: u64 = 4096;

/// Where it is in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initrd {
    /// Guest-physical address, page-aligned.
    pub(super) address: u64,
    /// Bytes.
    pub(super) size: u64,
}

/// Loads the file at `path` above `kernel_end`.
pub(super) fn load(ram: &GuestRam, kernel_end: u64, path: &PathBuf) -> Result<Initrd, BootError> {
    let unreadable = |source| BootError::ReadInitrd {
        path: path.clone(),
        source,
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    let low_end = ram.regions().first().map_or(0, |region| region.end());
    let lowest = kernel_end.next_multiple_of(PAGE);
    let room = low_end.saturating_sub(lowest);
    let too_large = |size| BootError::InitrdTooLarge {
        path: path.clone(),
        size,
        room,
    };
    if metadata.len() > room {
        return Err(too_large(metadata.len()));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let size = bytes.len() as u64;
    if size > room {
        // It grew meanwhile.
        return Err(too_large(size));
    }
    let address = (low_end - size) / PAGE * PAGE;
    ram.write(address, &bytes)?;
    Ok(Initrd { address, size })
}
