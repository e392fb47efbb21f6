//! What a remote tier has been through, and how it is.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Shared;
use crate::hnode::Peers;

/// What a remote tier has seen.
#[derive(Debug, Default)]
pub struct Troubles {
    /// Pages that came back as something else, and were not taken.
    pub refused_pages: AtomicU64,
    /// Reads that were tried again, or elsewhere.
    pub retries: AtomicU64,
    /// Pages that were given to a holder again.
    pub mirrored_again: AtomicU64,
    /// Times that a holder came back with nothing of what it held.
    pub lives: AtomicU64,
}

impl Shared {
    /// How those who hold its pages are.
    pub(super) fn peers(&self) -> Peers {
        // Looked at first: whoever begins a new life after that has lost what is whole here.
        let whole = self.marks.is_whole();
        let there = self.holders.iter().zip(&self.lives).all(|(it, life)| {
            let health = it.health();
            health.up && health.life == life.load(Ordering::Acquire)
        });
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Peers {
            whole: whole && there,
            lives: count(&self.troubles.lives),
            retries: count(&self.troubles.retries),
            refused_pages: count(&self.troubles.refused_pages),
            mirrored_again_pages: count(&self.troubles.mirrored_again),
        }
    }
}
