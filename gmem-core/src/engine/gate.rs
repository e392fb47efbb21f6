//! The gate that every migration passes, and that quiescing closes.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Open to many, or closed by one.
#[derive(Debug, Default)]
pub(super) struct Gate(RwLock<()>);

/// Proof that no migration is under way and none begins. Dropping it resumes.
#[derive(Debug)]
pub struct Quiesced<'a> {
    _closed: RwLockWriteGuard<'a, ()>,
}

/// Proof that the gate stays open.
pub(super) struct Passing<'a> {
    _open: RwLockReadGuard<'a, ()>,
}

impl Gate {
    /// Passes; waits while the gate is closed. Not to be called by who passes already.
    pub(super) fn pass(&self) -> Passing<'_> {
        Passing {
            _open: self.0.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Closes the gate, once everybody has passed.
    pub(super) fn close(&self) -> Quiesced<'_> {
        Quiesced {
            _closed: self.0.write().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl super::Engine {
    /// Waits for the migrations under way and lets none begin until the returned value is dropped.
    ///
    /// Faults that arrive meanwhile wait: stop the vCPUs first, or they hang for as long.
    pub fn quiesce(&self) -> Quiesced<'_> {
        self.gate.close()
    }
}
