//! Pages in flight, which are in two frames at once for a moment.
//!
//! Between full tiers pages are exchanged through the reserve. Who finds no room while somebody has a page
//! in flight does not call everything full: a frame is about to be freed.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads have pages in flight.
#[derive(Debug, Default)]
pub(super) struct Turning(AtomicUsize);

/// This thread has a page in flight.
pub(super) struct Turn<'a>(&'a Turning);

impl Turning {
    /// From before a frame is taken until the other one is free.
    pub(super) fn begin(&self) -> Turn<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Turn(self)
    }

    /// Whether anybody has a page in flight.
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}
