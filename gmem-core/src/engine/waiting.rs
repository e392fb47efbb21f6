//! Faults that found everything full.

use super::fault::bit;
use super::{Engine, FaultError, Outcome};
use crate::page::PageNo;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Pages that somebody waits for, because there is no room.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pages: Vec<PageNo>,
    since: Option<Instant>,
}

/// How things stand with faults that wait for room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// Faults that wait now.
    pub waiting: usize,
    /// Since when there is always one.
    pub since: Option<Instant>,
}

impl Waiting {
    pub(super) fn put_aside(&self, page: PageNo) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.since.get_or_insert_with(Instant::now);
        inner.pages.push(page);
    }
}

impl Engine {
    /// Tries each waiting fault again; returns whether one was resolved.
    pub(super) fn retry_waiting(&self) -> Result<bool, FaultError> {
        let pages = {
            let mut inner = self
                .waiting
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut inner.pages)
        };
        let mut resolved = false;
        let mut still = Vec::new();
        for page in pages {
            let outcome = self.bring(page, bit(page))?;
            self.wake(page, bit(page), outcome);
            match outcome {
                Outcome::Waiting => still.push(page),
                Outcome::Resolved { .. } | Outcome::There => resolved = true,
            }
        }
        let mut inner = self
            .waiting
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inner.pages.append(&mut still);
        if inner.pages.is_empty() {
            inner.since = None;
        }
        Ok(resolved)
    }

    /// How things stand with faults that wait for room.
    pub fn stalls(&self) -> Stalls {
        let inner = self
            .waiting
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Stalls {
            waiting: inner.pages.len(),
            since: inner.since,
        }
    }

    /// Lets everybody go who waits for room, each with the true page, beyond the budget: for the end of
    /// the microVM. The background thread does it, so it must run.
    pub fn release_waiters(&self) {
        self.arena.lift_cap();
        self.wake_background();
    }
}
