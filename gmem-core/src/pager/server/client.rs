//! A client, as the server knows it: connected, or away for a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::channel::Channel;
use super::pages::Pages;
use super::pool::Pool;

/// A client and its pages.
pub(super) struct Client {
    /// Proves on a later connection that it is the same.
    pub(super) ticket: [u8; 16],
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
    holds: Mutex<Holds>,
    link: Mutex<Link>,
}

/// What it has.
#[derive(Default)]
pub(super) struct Holds {
    pub(super) pages: Pages,
    /// It has room for so many.
    pub(super) allocated: u64,
}

struct Link {
    channel: Option<Arc<dyn Channel>>,
    /// Since when it is as it is.
    since: Instant,
}

impl Client {
    pub(super) fn new(ticket: [u8; 16]) -> Self {
        Self {
            ticket,
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            holds: Mutex::default(),
            link: Mutex::new(Link {
                channel: None,
                since: Instant::now(),
            }),
        }
    }

    pub(super) fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn channel(&self) -> Option<Arc<dyn Channel>> {
        self.link().channel.clone()
    }

    pub(super) fn stored(&self) -> u64 {
        self.holds().pages.stored()
    }

    /// It is reached here from now on; an older connection of its ends.
    pub(super) fn connect(&self, channel: &Arc<dyn Channel>) {
        let mut link = self.link();
        link.since = Instant::now();
        if let Some(older) = link.channel.replace(Arc::clone(channel)) {
            older.close();
        }
    }

    /// This connection of its has ended.
    pub(super) fn disconnected(&self, channel: &Arc<dyn Channel>) {
        let mut link = self.link();
        if link
            .channel
            .as_ref()
            .is_some_and(|it| Arc::ptr_eq(it, channel))
        {
            link.channel = None;
            link.since = Instant::now();
        }
    }

    pub(super) fn disconnect(&self) {
        if let Some(channel) = self.channel() {
            channel.close();
        }
    }

    /// How long it has been away, if it is.
    pub(super) fn away_for(&self, now: Instant) -> Option<Duration> {
        let link = self.link();
        link.channel
            .is_none()
            .then(|| now.saturating_duration_since(link.since))
    }

    /// Gives its room for another number of pages, if there is any; returns for how many it has room now.
    pub(super) fn allocate(&self, pool: &Pool, pages: u64) -> u64 {
        let mut holds = self.holds();
        if pages < holds.allocated {
            let beyond = holds.pages.take_range(pages, u64::MAX);
            beyond.into_iter().for_each(|page| pool.free(page.place));
        }
        if pool.promise(holds.allocated, pages) {
            holds.allocated = pages;
        }
        holds.allocated
    }

    /// Frees all that it has.
    pub(super) fn drop_all(&self, pool: &Pool) {
        self.allocate(pool, 0);
    }

    pub(super) fn count(counter: &AtomicU64, pages: usize) {
        counter.fetch_add(pages as u64, Ordering::Relaxed);
    }
}
