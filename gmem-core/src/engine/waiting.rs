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
    pages: Vec<(PageNo, Instant)>,
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
    /// `arrived` is when the fault was learned of.
    pub(super) fn put_aside(&self, page: PageNo, arrived: Instant) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.since.get_or_insert_with(Instant::now);
        inner.pages.push((page, arrived));
    }
}

impl Engine {
    /// Tries each waiting fault again; returns whether one was resolved.
    pub(super) fn retry_waiting(&self) -> Result<bool, FaultError> {
        let waiting = || {
            self.waiting
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        // They stay in the list, so that whoever asks meanwhile is told of them.
        let pages = waiting().pages.clone();
        let mut resolved = Vec::new();
        let mut failed = None;
        for (page, arrived) in pages {
            let outcome = self.bring(page, bit(page));
            if let Ok(outcome) = outcome {
                self.wake(page, bit(page), outcome);
            }
            match outcome {
                Ok(Outcome::Waiting) => {}
                Ok(Outcome::Resolved { .. } | Outcome::There) => {
                    self.stats.waited.record(arrived.elapsed());
                    resolved.push((page, arrived));
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let mut inner = waiting();
        inner.pages.retain(|fault| !resolved.contains(fault));
        if inner.pages.is_empty() {
            inner.since = None;
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(!resolved.is_empty()),
        }
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

    /// What keeps tiers from storing or loading, in words.
    pub fn troubles(&self) -> Vec<String> {
        self.tiers
            .iter()
            .filter_map(|tier| tier.trouble())
            .collect()
    }

    /// Lets everybody go who waits for room, each with the true page, beyond the budget: for the end of
    /// the microVM. The background thread does it, so it must run. Whoever waits for a tier that does not answer is told that
    /// the page is lost.
    pub fn release_waiters(&self) {
        self.arena.lift_cap();
        self.tiers.iter().for_each(|tier| tier.hurry());
        self.wake_background();
    }
}
