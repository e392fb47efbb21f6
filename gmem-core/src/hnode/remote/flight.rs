//! Pages on their way to their holders: kept here, sealed, until whoever is there has them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use pager_wire::{PAGE_LEN, Page};

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

    /// Takes pages on, and sends them to all that are there.
    pub(super) fn send(
        &mut self,
        holders: &[Arc<dyn Holder>],
        marks: &Marks,
        (pages, bytes): (Vec<Page>, Vec<u8>),
        until: Instant,
    ) {
        let number = self.first + self.batches.len() as u64;
        for (page, at) in pages.iter().zip(0..) {
            self.index.insert(page.number.get(), (number, at));
        }
        self.pages += pages.len();
        let mut batch = Batch {
            pages,
            bytes,
            sent: Vec::with_capacity(holders.len()),
            held: false,
            missed: false,
        };
        batch.send(holders, marks, until);
        self.batches.push_back(batch);
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

    /// Sends again what nobody has and nobody is about to have.
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
            for pages in pages.chunks(pager_wire::MAX_PAGES) {
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
    fn is_done(&self) -> bool {
        self.held && self.sent.is_empty()
    }

    fn send(&mut self, holders: &[Arc<dyn Holder>], marks: &Marks, until: Instant) {
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
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::pager::holder::{Health, HolderError};

    /// Takes what it is sent, if it is up, and answers when it is told to.
    struct Slow {
        up: bool,
        answer: Mutex<Option<Result<(), HolderError>>>,
    }

    impl Holder for Slow {
        fn name(&self) -> &str {
            "slow"
        }

        fn health(&self) -> Health {
            Health {
                up: self.up,
                life: 1,
                draining: false,
            }
        }

        fn trouble(&self) -> Option<String> {
            None
        }

        fn start(&self, _: Verb, _: &[Page], _: &[u8], _: Instant) -> Result<Ticket, HolderError> {
            Ok(Ticket { epoch: 1, id: 1 })
        }

        fn finish(
            &self,
            _: Ticket,
            _: &mut Vec<Page>,
            _: &mut [u8],
            _: Instant,
        ) -> Result<(), HolderError> {
            Err(HolderError::Late)
        }

        fn ended(&self, _: &Ticket) -> Option<Result<(), HolderError>> {
            self.answer.lock().unwrap().clone()
        }

        fn receive(&self, _: Instant) {}

        fn tend(&self) {}

        fn leave(&self) {}
    }

    fn slow(up: bool) -> Arc<Slow> {
        let answer = Mutex::new(None);
        Arc::new(Slow { up, answer })
    }

    fn answer(of: &Slow, what: Result<(), HolderError>) {
        *of.answer.lock().unwrap() = Some(what);
    }

    /// Sends a page to two, somebody looks for what is lacking while nobody has answered, and then both do as they do.
    /// Whether something is known to be lacking at the end.
    fn is_lacking(second_is_up: bool, second: Result<(), HolderError>) -> bool {
        let (a, b) = (slow(true), slow(second_is_up));
        let holders: [Arc<dyn Holder>; 2] = [Arc::clone(&a) as _, Arc::clone(&b) as _];
        let marks = Marks::new(1);
        let page = Page {
            version: marks.renew(0).into(),
            ..Page::default()
        };
        let mut flight = Flight::default();
        let content = (vec![page], vec![0; PAGE_LEN]);
        flight.send(&holders, &marks, content, Instant::now());
        answer(&b, second);
        flight.reap(&holders, &marks);
        // Nobody has it yet, so nobody can be found to lack it.
        marks.look();
        marks.looked(false);
        answer(&a, Ok(()));
        flight.reap(&holders, &marks);
        assert_eq!(flight.pages(), 0);
        marks.is_lacking()
    }

    #[test]
    fn what_one_missed_is_lacking_from_when_the_other_has_it() {
        assert!(!is_lacking(true, Ok(())));
        assert!(is_lacking(true, Err(HolderError::Late)));
        assert!(is_lacking(false, Ok(())));
    }
}
