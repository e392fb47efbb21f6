//! Memory that is plugged into a running guest, and out of it, in blocks of 2 MiB.
//!
//! The region is mapped from the start. What is plugged in only says how much memory the tiers must be able to
//! hold, and what is unplugged holds nothing. A guest that uses a block without having plugged it in finds memory
//! there, within its budget: to take the addresses away would end the microVM of a guest that looks at them, or
//! of one that points a device there, and would protect nobody else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gmem_core::engine::ConfigError;
use gmem_core::page::{BLOCK_SIZE, PAGE_SIZE};

use super::freeing::FreeError;
use super::managed::ManagedMemory;
use super::ram::RamRegion;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Why memory was not plugged in or unplugged. What is plugged in is as before.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// The range is not in blocks, or not in the region.
    #[error(
        "{len:#x} bytes at guest-physical address {gpa:#x} cannot be plugged: give multiples of 2M within \
         {size:#x} bytes at {start:#x}"
    )]
    Range {
        /// First address.
        gpa: u64,
        /// Length, bytes.
        len: u64,
        /// First address of what may be plugged in.
        start: u64,
        /// Its size, bytes; 0 if there is none.
        size: u64,
    },
    /// Some of it is as it should become.
    #[error("the block at guest-physical address {gpa:#x} is {} already", if *.plugged { "plugged in" } else { "unplugged" })]
    Already {
        /// The block's address.
        gpa: u64,
        /// What it is.
        plugged: bool,
    },
    /// The tiers do not hold so much.
    #[error(transparent)]
    Sizes(#[from] ConfigError),
    /// It cannot be given back.
    #[error(transparent)]
    Free(#[from] FreeError),
}

/// Which blocks are plugged in.
#[derive(Debug)]
pub(super) struct Plugged {
    region: RamRegion,
    blocks: Mutex<Vec<bool>>,
}

/// As [`Plugged`], which nobody else changes meanwhile.
pub(super) struct Blocks<'p> {
    region: RamRegion,
    blocks: MutexGuard<'p, Vec<bool>>,
}

impl Plugged {
    /// Nothing of `region`.
    pub(super) fn none(region: Option<RamRegion>) -> Self {
        let region = region.unwrap_or(RamRegion { start: 0, size: 0 });
        Self {
            region,
            blocks: Mutex::new(vec![false; (region.size / BLOCK) as usize]),
        }
    }

    pub(super) fn lock(&self) -> Blocks<'_> {
        Blocks {
            region: self.region,
            blocks: self.blocks.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Blocks<'_> {
    pub(super) fn unplugged_bytes(&self) -> u64 {
        self.blocks.iter().filter(|plugged| !**plugged).count() as u64 * BLOCK
    }

    /// The blocks of a range, all of which are `plugged`.
    fn all(&mut self, gpa: u64, len: u64, plugged: bool) -> Result<&mut [bool], PlugError> {
        let RamRegion { start, size } = self.region;
        let whole = gpa.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK);
        let inside = gpa >= start && gpa - start <= size && len <= size - (gpa - start);
        if !whole || !inside {
            return Err(PlugError::Range {
                gpa,
                len,
                start,
                size,
            });
        }
        let first = (gpa - start) / BLOCK;
        let blocks = &mut self.blocks[first as usize..(first + len / BLOCK) as usize];
        match blocks.iter().position(|block| *block != plugged) {
            None => Ok(blocks),
            Some(at) => Err(PlugError::Already {
                gpa: gpa + at as u64 * BLOCK,
                plugged: !plugged,
            }),
        }
    }
}

impl ManagedMemory {
    /// Plugs in `len` bytes at guest-physical address `gpa`, none of which is: they read as zeros, and the guest may
    /// use them. Refused if the tiers would not hold all memory then.
    pub fn plug(&self, gpa: u64, len: u64) -> Result<(), PlugError> {
        let mut plugged = self.plugged.lock();
        let unplugged = plugged.unplugged_bytes();
        let blocks = plugged.all(gpa, len, false)?;
        // What an unplugged block was used for all the same.
        self.free(gpa, len)?;
        self.set_unplugged(unplugged - len)?;
        blocks.fill(true);
        Ok(())
    }

    /// Unplugs `len` bytes at `gpa`, all of which are plugged in: what held them is free for others.
    pub fn unplug(&self, gpa: u64, len: u64) -> Result<(), PlugError> {
        let mut plugged = self.plugged.lock();
        let unplugged = plugged.unplugged_bytes();
        let blocks = plugged.all(gpa, len, true)?;
        self.free(gpa, len)?;
        self.set_unplugged(unplugged + len)?;
        blocks.fill(false);
        Ok(())
    }

    /// Bytes that are plugged in.
    pub fn plugged_bytes(&self) -> u64 {
        let plugged = self.plugged.lock();
        plugged.region.size - plugged.unplugged_bytes()
    }

    /// Plain memory fits its budget with all that may be plugged in, and arming counts anew.
    fn set_unplugged(&self, bytes: u64) -> Result<(), ConfigError> {
        match self.engine() {
            Some(engine) => engine.set_unplugged(bytes / PAGE_SIZE as u64),
            None => Ok(()),
        }
    }
}
