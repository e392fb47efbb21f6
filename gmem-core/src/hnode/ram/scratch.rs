//! Memory for bytes on their way from tier to tier.

use crate::page::{BLOCK_SIZE, PAGE_SIZE};
use crate::reserve::{Backing, Reservation, ReserveError};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Scratch that has been used, for who needs some next: mapping it anew costs more than what is done in it.
#[derive(Debug, Default)]
pub struct ScratchPool(Mutex<Vec<Scratch>>);

/// Scratch of a pool, which it goes back to.
#[derive(Debug)]
pub struct Borrowed<'p> {
    pool: &'p ScratchPool,
    /// `None` only while it is dropped.
    scratch: Option<Scratch>,
}

/// What a pool keeps. More is used only when as many threads copy at once.
const KEPT: usize = 4;

impl ScratchPool {
    /// Some that nobody uses, with anything in it.
    pub fn borrow(&self) -> Result<Borrowed<'_>, ReserveError> {
        let kept = self.lock().pop();
        let scratch = kept.map_or_else(Scratch::new, Ok)?;
        Ok(Borrowed {
            pool: self,
            scratch: Some(scratch),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Scratch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Borrowed<'_> {
    /// The first `pages` pages (at most 512).
    pub fn bytes_mut(&mut self, pages: usize) -> &mut [u8] {
        match &mut self.scratch {
            Some(scratch) => scratch.bytes_mut(pages),
            None => &mut [],
        }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut kept = self.pool.lock();
        if kept.len() < KEPT {
            kept.extend(self.scratch.take());
        }
    }
}

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
