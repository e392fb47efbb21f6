//! Pages that are about to be asked for, and have been already.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pager_wire::{PAGE_LEN, Page};

use crate::pager::holder::{Holder, Ticket};

/// Requests that may be ahead of those who want their pages.
const MOST: usize = 24;

/// A request, or what came of it.
enum Content {
    Asked(Ticket),
    There { found: Vec<Page>, bytes: Vec<u8> },
    Failed,
}

/// Pages that were asked for together.
struct Batch {
    holder: usize,
    pages: Vec<Page>,
    content: Mutex<Content>,
}

/// Requests whose pages nobody has wanted yet.
#[derive(Default)]
pub(super) struct Announced(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    index: HashMap<u64, (Arc<Batch>, usize)>,
    order: VecDeque<Arc<Batch>>,
}

impl Announced {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a frame's page has been asked for.
    pub(super) fn has(&self, frame: u64) -> bool {
        self.lock().index.contains_key(&frame)
    }

    /// These pages have been asked for. Returns the oldest request if there are too many, to be given up.
    pub(super) fn add(
        &self,
        holder: usize,
        pages: Vec<Page>,
        ticket: Ticket,
        holders: &[Arc<dyn Holder>],
    ) {
        let batch = Arc::new(Batch {
            holder,
            pages,
            content: Mutex::new(Content::Asked(ticket)),
        });
        let mut inner = self.lock();
        for (page, at) in batch.pages.iter().zip(0..) {
            inner
                .index
                .insert(page.number.get(), (Arc::clone(&batch), at));
        }
        inner.order.push_back(batch);
        let old = (inner.order.len() > MOST)
            .then(|| inner.order.pop_front())
            .flatten();
        if let Some(old) = &old {
            inner.index.retain(|_, (it, _)| !Arc::ptr_eq(it, old));
        }
        drop(inner);
        if let Some(old) = old {
            let mut content = old.content.lock().unwrap_or_else(PoisonError::into_inner);
            old.give_up(&mut content, holders);
        }
    }

    /// Fills `into` with a frame's page, if it was asked for and has come by then: what is to be opened.
    pub(super) fn take(
        &self,
        frame: u64,
        into: &mut [u8],
        until: Instant,
        holders: &[Arc<dyn Holder>],
    ) -> Option<Page> {
        let (batch, at) = {
            let mut inner = self.lock();
            let (batch, at) = inner.index.remove(&frame)?;
            // The index, the order, and this.
            if Arc::strong_count(&batch) <= 2 {
                inner.order.retain(|it| !Arc::ptr_eq(it, &batch));
            }
            (batch, at)
        };
        let mut content = batch.content.lock().unwrap_or_else(PoisonError::into_inner);
        batch.settle(&mut content, until, holders);
        match &*content {
            Content::There { found, bytes } => {
                into.copy_from_slice(&bytes[at * PAGE_LEN..][..PAGE_LEN]);
                Some(found[at])
            }
            _ => None,
        }
    }
}

impl Batch {
    /// Waits for the answer, if there is none yet.
    fn settle(&self, content: &mut Content, until: Instant, holders: &[Arc<dyn Holder>]) {
        if let Content::Asked(_) = content
            && let Content::Asked(ticket) = std::mem::replace(content, Content::Failed)
        {
            let mut found = Vec::new();
            let mut bytes = vec![0; self.pages.len() * PAGE_LEN];
            let finished = holders[self.holder].finish(ticket, &mut found, &mut bytes, until);
            if finished.is_ok() && found.len() == self.pages.len() {
                *content = Content::There { found, bytes };
            }
        }
    }

    fn give_up(&self, content: &mut Content, holders: &[Arc<dyn Holder>]) {
        self.settle(content, Instant::now(), holders);
        *content = Content::Failed;
    }
}
