//! Pages on their way to their holders: kept here, sealed, until whoever is there has them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use pager_wire::{MAX_PAGES, PAGE_LEN, Page};

use super::marks::Marks;
use crate::pager::holder::{Holder, Ticket, Verb};

/// Pages that are written together.
struct Batch {
    pages: Vec<Page>,
    /// Sealed.
    bytes: Vec<u8>,
    /// Who has been sent it, and has not answered.
    sent: Vec<(usize, Ticket)>,
    /// Somebody has it.
    held: bool,
    /// Somebody was not sent it, or could not take it.
    missed: bool,
    /// It has not been sent to anybody: more may come along.
    waits: bool,
}

/// Requests whose end nobody waits for.
#[derive(Default)]
pub(super) struct Flight {
    batches: VecDeque<Batch>,
    /// Where a frame's bytes are: number of the batch since the first one ever, and index in it.
    index: HashMap<u64, (u64, usize)>,
    /// Number of the first batch that is here.
    first: u64,
    pages: usize,
    /// Requests to free.
    frees: Vec<(usize, Ticket)>,
    freed: Vec<Page>,
}

impl Flight {
    /// Pages that are here.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// The page and bytes of what is on its way to a frame.
    pub(super) fn get(&self, frame: u64) -> Option<(&Page, &[u8])> {
        let &(number, at) = self.index.get(&frame)?;
        let batch = &self.batches[(number - self.first) as usize];
        Some((&batch.pages[at], &batch.bytes[at * PAGE_LEN..][..PAGE_LEN]))
    }

    /// Takes pages on, and sends them to all that are there when as many have come as go into one request: few come at a time, and
    /// the requests under way are few. Those that wait for others to come along are sent by [`Flight::send_again`], soon.
    pub(super) fn send(
        &mut self,
        holders: &[Arc<dyn Holder>],
        marks: &Marks,
        (pages, bytes): (Vec<Page>, Vec<u8>),
        until: Instant,
    ) {
        if let Some(last) = self.batches.back_mut()
            && last.waits
            && last.pages.len() + pages.len() > MAX_PAGES
        {
            last.send(holders, marks, until);
        }
        if self.batches.back().is_none_or(|last| !last.waits) {
            self.batches.push_back(Batch::new());
        }
        let number = self.first + self.batches.len() as u64 - 1;
        let Some(last) = self.batches.back_mut() else {
            return;
        };
        for (page, at) in pages.iter().zip(last.pages.len()..) {
            self.index.insert(page.number.get(), (number, at));
        }
        self.pages += pages.len();
        last.pages.extend(pages);
        last.bytes.extend(bytes);
        if last.pages.len() == MAX_PAGES {
            last.send(holders, marks, until);
        }
    }

    /// Looks what has ended. What somebody has, and nobody else is about to, is here no longer.
    pub(super) fn reap(&mut self, holders: &[Arc<dyn Holder>], marks: &Marks) {
        self.frees
            .retain(|(holder, ticket)| holders[*holder].ended(ticket).is_none());
        for batch in &mut self.batches {
            batch.look(holders, marks);
        }
        while self.batches.front().is_some_and(Batch::is_done) {
            self.drop_first();
        }
        // Those behind one that is stuck need not wait for it to be forgotten, but for their numbers.
        for (batch, number) in self.batches.iter_mut().zip(self.first..) {
            if batch.is_done() && !batch.bytes.is_empty() {
                self.pages -= batch.pages.len();
                for page in batch.pages.drain(..) {
                    forget(&mut self.index, page.number.get(), number);
                }
                batch.bytes = Vec::new();
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.pages -= batch.pages.len();
            for page in &batch.pages {
                forget(&mut self.index, page.number.get(), self.first);
            }
            self.first += 1;
        }
    }

    /// Sends what nobody has and nobody is about to have: again, or what has waited.
    pub(super) fn send_again(
        &mut self,
        holders: &[Arc<dyn Holder>],
        marks: &Marks,
        until: Instant,
    ) {
        for batch in &mut self.batches {
            // What has been freed or overwritten since is not worth it.
            let stale = |page: &Page| marks.get(page.number.get()).version != page.version.get();
            if batch.pages.iter().all(stale) {
                batch.held = true;
                batch.waits = false;
            } else if batch.sent.is_empty() && !batch.held {
                batch.send(holders, marks, until);
            }
        }
    }

    /// A page that is to be forgotten; they are asked for together.
    pub(super) fn free(&mut self, page: Page) -> usize {
        self.freed.push(page);
        self.freed.len()
    }

    /// What was to be forgotten.
    pub(super) fn take_freed(&mut self) -> Vec<Page> {
        std::mem::take(&mut self.freed)
    }

    /// Asks for what is to be forgotten and has not been written again since.
    pub(super) fn send_frees(
        &mut self,
        holders: &[Arc<dyn Holder>],
        marks: &Marks,
        until: Instant,
    ) {
        let freed = std::mem::take(&mut self.freed);
        let unused = |page: &&Page| marks.get(page.number.get()).version == 0;
        for (holder, at) in holders.iter().zip(0..) {
            let keeps = holder.keeps_versions();
            let pages: Vec<Page> = freed
                .iter()
                .filter(|page| keeps || unused(page))
                .copied()
                .collect();
            for pages in pages.chunks(MAX_PAGES) {
                // A holder that is not reached keeps what nobody will ask for.
                if holder.health().up
                    && let Ok(ticket) = holder.start(Verb::Free, pages, &[], until)
                {
                    self.frees.push((at, ticket));
                }
            }
        }
    }
}

fn forget(index: &mut HashMap<u64, (u64, usize)>, frame: u64, number: u64) {
    if index.get(&frame).is_some_and(|(it, _)| *it == number) {
        index.remove(&frame);
    }
}

impl Batch {
    /// An empty one, which waits for pages.
    fn new() -> Self {
        Self {
            pages: Vec::with_capacity(MAX_PAGES),
            bytes: Vec::with_capacity(MAX_PAGES * PAGE_LEN),
            sent: Vec::new(),
            held: false,
            missed: false,
            waits: true,
        }
    }

    fn is_done(&self) -> bool {
        self.held && self.sent.is_empty()
    }

    fn send(&mut self, holders: &[Arc<dyn Holder>], marks: &Marks, until: Instant) {
        if std::mem::take(&mut self.waits) && self.pages.len() < MAX_PAGES / 2 {
            // It may be here for long, and there may be many of them.
            self.bytes.shrink_to_fit();
        }
        for (holder, at) in holders.iter().zip(0..) {
            let health = holder.health();
            let asked = match health.up && !health.draining {
                true => holder
                    .start(Verb::Write, &self.pages, &self.bytes, until)
                    .ok(),
                false => None,
            };
            match asked {
                Some(ticket) => self.sent.push((at, ticket)),
                None => {
                    self.missed = true;
                    marks.lacks();
                }
            }
        }
    }

    fn look(&mut self, holders: &[Arc<dyn Holder>], marks: &Marks) {
        self.sent.retain(|(at, ticket)| {
            match holders[*at].ended(ticket) {
                None => return true,
                Some(Ok(())) => {
                    for page in &self.pages {
                        marks.held(page.number.get(), page.version.get(), *at);
                    }
                    self.held = true;
                    // Whoever looked before could not see it: nobody had it then.
                    if self.missed {
                        marks.lacks();
                    }
                }
                // Sent again if nobody else has it; else whoever lacks it is given it later.
                Some(Err(_)) => {
                    self.missed = true;
                    marks.lacks();
                }
            }
            false
        });
    }
}

#[cfg(test)]
mod tests;
