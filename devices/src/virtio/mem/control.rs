//! The requested size, changed while the guest runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How far beyond the requested size the driver may look for blocks, bytes. Linux plugs into memory blocks of its
/// own, of 128 MiB and more, and may have given up blocks in between.
const SLACK: u64 = 512 << 20;

/// Why a size cannot be requested.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestedSizeError {
    /// More than there is.
    #[error(
        "{bytes} bytes do not fit the region for plugged memory, which has {region}: ask for less"
    )]
    TooLarge {
        /// What was asked for.
        bytes: u64,
        /// The region's size.
        region: u64,
    },
    /// Not whole blocks.
    #[error(
        "memory is plugged by blocks of {block} bytes, and {bytes} bytes are no multiple of that"
    )]
    NotBlocks {
        /// What was asked for.
        bytes: u64,
        /// The block size.
        block: u64,
    },
}

/// A handle on plugged memory, which does not wait for what the device is doing.
///
/// After a change, call [`MmioDevice::config_changed`](crate::virtio::MmioDevice::config_changed): the driver looks
/// then.
#[derive(Clone, Debug)]
pub struct MemControl {
    region_size: u64,
    block_size: u64,
    sizes: Arc<Mutex<Sizes>>,
}

/// Sizes, bytes. Their lock is held for a few instructions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    pub(super) requested: u64,
    /// How much of the region the driver may use; shrinks only when nothing is plugged.
    pub(super) usable: u64,
    pub(super) plugged: u64,
}

impl MemControl {
    /// Nothing requested.
    pub(super) fn new(region_size: u64, block_size: u64) -> Self {
        Self {
            region_size,
            block_size,
            sizes: Arc::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Sizes> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that the guest have `bytes` plugged, a multiple of the block size.
    ///
    /// # Errors
    ///
    /// No such size can be; the request stays as it was.
    pub fn set_requested_bytes(&self, bytes: u64) -> Result<(), RequestedSizeError> {
        let (region, block) = (self.region_size, self.block_size);
        if !bytes.is_multiple_of(block) {
            return Err(RequestedSizeError::NotBlocks { bytes, block });
        }
        if bytes > region {
            return Err(RequestedSizeError::TooLarge { bytes, region });
        }
        let mut sizes = self.lock();
        sizes.requested = bytes;
        sizes.usable = sizes.usable.max(self.usable(bytes));
        Ok(())
    }

    /// What was requested, bytes.
    pub fn requested_bytes(&self) -> u64 {
        self.lock().requested
    }

    /// What the guest has plugged, bytes.
    pub fn plugged_bytes(&self) -> u64 {
        self.lock().plugged
    }

    /// Nothing is plugged: what the driver may use is what the request needs.
    pub(super) fn shrink_usable(&self) {
        let mut sizes = self.lock();
        sizes.usable = self.usable(sizes.requested);
    }

    /// How much of the region serves a request of `requested` bytes.
    fn usable(&self, requested: u64) -> u64 {
        match requested {
            0 => 0,
            _ => requested
                .saturating_add(SLACK.next_multiple_of(self.block_size))
                .min(self.region_size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 2 << 20;
    const REGION: u64 = 2 << 30;

    #[test]
    fn a_size_of_half_blocks_or_beyond_the_region_is_refused() {
        let control = MemControl::new(REGION, BLOCK);
        assert!(matches!(
            control.set_requested_bytes(BLOCK / 2),
            Err(RequestedSizeError::NotBlocks { .. })
        ));
        assert!(matches!(
            control.set_requested_bytes(REGION + BLOCK),
            Err(RequestedSizeError::TooLarge { .. })
        ));
        assert_eq!(control.requested_bytes(), 0);
        control.set_requested_bytes(REGION).unwrap();
        assert_eq!(control.requested_bytes(), REGION);
    }

    #[test]
    fn the_usable_region_never_shrinks_beneath_plugged_blocks() {
        let control = MemControl::new(REGION, BLOCK);
        control.set_requested_bytes(REGION / 2).unwrap();
        let usable = control.lock().usable;
        assert!(usable > REGION / 2 && usable <= REGION);
        control.set_requested_bytes(0).unwrap();
        assert_eq!(control.lock().usable, usable);
        control.shrink_usable();
        assert_eq!(control.lock().usable, 0);
    }
}
