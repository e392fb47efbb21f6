//! The first thing that went wrong beneath a guest, for whoever ends the microVM.

use std::sync::{Mutex, PoisonError};

/// Why memory cannot go on; set once.
#[derive(Debug, Default)]
pub struct Failure(Mutex<Option<String>>);

impl Failure {
    /// Keeps the first failure.
    pub fn record(&self, error: impl std::fmt::Display) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| error.to_string());
    }

    /// The first failure, in words.
    pub fn get(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
