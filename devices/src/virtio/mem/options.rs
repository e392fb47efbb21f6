//! Where memory can be plugged, and why not.

use super::BLOCK_SIZE;
use super::control::RequestedSizeError;

/// Where memory can be plugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemOptions {
    /// The region's guest-physical address, a multiple of the block size.
    pub addr: u64,
    /// The region's size, bytes, a multiple of the block size.
    pub region_size: u64,
    /// Bytes, a power of two and at least 4096: [`BLOCK_SIZE`] in most cases.
    pub block_size: u64,
    /// What is requested at first, bytes, a multiple of the block size.
    pub requested: u64,
}

impl MemOptions {
    /// A region of `region_size` bytes at `addr`, with blocks of the usual size, nothing requested.
    pub fn new(addr: u64, region_size: u64) -> Self {
        Self {
            addr,
            region_size,
            block_size: BLOCK_SIZE,
            requested: 0,
        }
    }
}

/// Why memory cannot be plugged there.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Not a size that a block may have.
    #[error("a block size of {0} bytes: a power of two and at least 4096 is needed")]
    BlockSize(u64),
    /// Not whole blocks.
    #[error("{addr:#x} and {size:#x} bytes from there are not whole blocks of {block:#x} bytes")]
    NotBlocks {
        /// The region's address.
        addr: u64,
        /// Its size, bytes.
        size: u64,
        /// The block size, bytes.
        block: u64,
    },
    /// No memory behind it.
    #[error("{size:#x} bytes at {addr:#x} are not all RAM of this guest")]
    NotRam {
        /// The region's address.
        addr: u64,
        /// Its size, bytes.
        size: u64,
    },
    /// The first requested size.
    #[error(transparent)]
    Requested(#[from] RequestedSizeError),
}
