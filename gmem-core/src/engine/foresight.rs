//! Whose prefetcher a fault asks: each accessor's touches are a story of their own, whichever handler hears of them.

use super::ahead::Task;
use crate::policy::{Foreseen, Plan, Prefetch, Prefetching};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

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

    /// As [`Accessors::of`], by way of the latest answer.
    fn latest<'a>(&self, accessor: u32, latest: &'a mut Option<(u32, Shared)>) -> &'a Shared {
        if latest.as_ref().is_none_or(|(of, _)| *of != accessor) {
            *latest = None;
        }
        &latest
            .get_or_insert_with(|| (accessor, self.of(accessor)))
            .1
    }
}

/// Whose prefetcher a fault handler asks.
pub(super) enum Foresight<'e> {
    /// The accessor's own, which handlers share.
    Accessors {
        all: &'e Accessors,
        /// Whose touch was the latest: that of the next is mostly the same.
        latest: Option<(u32, Shared)>,
    },
    /// Always the same.
    One(Box<dyn Prefetch>),
}

impl<'e> Foresight<'e> {
    pub(super) fn of(all: &'e Accessors) -> Self {
        Self::Accessors { all, latest: None }
    }

    /// What to bring ahead, now that `accessor` has been answered. No page is locked meanwhile.
    pub(super) fn ahead(&mut self, accessor: u32) -> Option<Task> {
        let Self::Accessors { all, latest } = self else {
            return None;
        };
        let of = Arc::clone(all.latest(accessor, latest));
        let mut plan = Plan::default();
        let window = lock(&of).ahead(&mut plan)?;
        Some(Task { of, window, plan })
    }

    /// Asks the prefetcher for `accessor`. No page is locked meanwhile.
    pub(super) fn ask<R>(&mut self, accessor: u32, ask: impl FnOnce(&mut dyn Prefetch) -> R) -> R {
        match self {
            Self::One(prefetch) => ask(&mut **prefetch),
            Self::Accessors { all, latest } => ask(&mut *lock(all.latest(accessor, latest))),
        }
    }
}

pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Foreseen> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
