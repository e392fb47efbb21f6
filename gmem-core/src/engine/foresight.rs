//! Whose prefetcher a fault asks: each accessor's touches are a story of their own, whichever handler hears of them.

use super::ahead::Task;
use crate::policy::{Foreseen, Plan, Prefetch, Prefetching};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Accessors with prefetchers of their own. Those beyond share the last one.
const MOST: usize = 64;

pub(super) type Shared = Arc<Mutex<Foreseen>>;

/// The prefetchers of all accessors.
pub(super) struct Accessors {
    list: RwLock<Vec<(u32, Shared)>>,
    what: Prefetching,
}

impl Accessors {
    pub(super) fn new(what: Prefetching) -> Self {
        Self {
            list: RwLock::default(),
            what,
        }
    }

    fn of(&self, accessor: u32) -> Shared {
        let found = |list: &Vec<(u32, Shared)>| {
            let mine = list.iter().find(|(of, _)| *of == accessor);
            let last = list.last().filter(|_| list.len() == MOST);
            mine.or(last).map(|(_, foreseen)| Arc::clone(foreseen))
        };
        let known = found(&self.list.read().unwrap_or_else(PoisonError::into_inner));
        known.unwrap_or_else(|| {
            let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
            found(&list).unwrap_or_else(|| {
                let foreseen = Arc::new(Mutex::new(Foreseen::new(self.what)));
                list.push((accessor, Arc::clone(&foreseen)));
                foreseen
            })
        })
    }
}

/// Whose prefetcher a fault handler asks.
pub(super) enum Foresight<'e> {
    /// The accessor's own, which handlers share.
    Accessors(&'e Accessors),
    /// Always the same.
    One(Box<dyn Prefetch>),
}

impl Foresight<'_> {
    /// What to bring ahead, now that `accessor` has been answered. No page is locked meanwhile.
    pub(super) fn ahead(&self, accessor: u32) -> Option<Task> {
        let Self::Accessors(accessors) = self else {
            return None;
        };
        let of = accessors.of(accessor);
        let mut plan = Plan::default();
        let window = of
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ahead(&mut plan)?;
        Some(Task { of, window, plan })
    }

    /// Asks the prefetcher for `accessor`. No page is locked meanwhile.
    pub(super) fn ask<R>(&mut self, accessor: u32, ask: impl FnOnce(&mut dyn Prefetch) -> R) -> R {
        match self {
            Self::One(prefetch) => ask(&mut **prefetch),
            Self::Accessors(accessors) => {
                let shared = accessors.of(accessor);
                let mut foreseen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                ask(&mut *foreseen)
            }
        }
    }
}
