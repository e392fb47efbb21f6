//! Memory for bytes on their way from tier to tier.

use crate::page::{BLOCK_SIZE, PAGE_SIZE};
use crate::reserve::{Backing, Reservation, ReserveError};

/// Page-aligned room for a block, as direct I/O wants it. Costs nothing until used.
#[derive(Debug)]
pub struct Scratch(Reservation);

impl Scratch {
    /// Room for a block.
    pub fn new() -> Result<Self, ReserveError> {
        Reservation::new(BLOCK_SIZE, Backing::Small).map(Self)
    }

    /// The first `pages` pages (at most 512).
    pub fn bytes_mut(&mut self, pages: usize) -> &mut [u8] {
        let len = pages * PAGE_SIZE;
        assert!(len <= self.0.len());
        // SAFETY: in bounds by the check above; nobody else has the reservation, and the slice borrows it
        // exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), len) }
    }
}
