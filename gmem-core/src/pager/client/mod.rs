//! The side that uses what a [`server`](super::server) lends.
//!
//! Several threads have requests under way on one connection. Whoever waits for an answer first receives for all: it hands out what
//! arrives for others, and when its own has come, leaves receiving to the next. So an answer to the only one who waits crosses no
//! other thread.

mod attach;
mod link;
mod receive;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pager_wire::body::Features;
use pager_wire::list::Start;
use pager_wire::{Flags, Header, Kind, MAX_DATA, MAX_PAGES, Page, Status};
use zerocopy::{FromZeros, IntoBytes};

pub use attach::{AttachError, Dialer, Options};
use link::{Link, State};

use super::holder::{Health, Holder, HolderError, Ticket, Verb};

/// A connection that broke is tried again after so long, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(20);
/// And at last so often.
const LAST_RETRY: Duration = Duration::from_secs(2);

/// A client of a server.
pub struct Client {
    name: String,
    dialer: Dialer,
    options: Options,
    id: [u8; 16],
    state: Mutex<State>,
    /// Rung when an answer has been handed out, a slot is free, or nobody receives any more.
    bell: Condvar,
}

impl Client {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the bell, until a moment at most.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        let rest = until.saturating_duration_since(Instant::now());
        let mut state = state;
        state.waiting += 1;
        let waited = self.bell.wait_timeout(state, rest);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting -= 1;
        state
    }

    fn ring(&self, state: &State) {
        if state.waiting > 0 {
            self.bell.notify_all();
        }
    }

    /// A slot for a request, once there is one, and the link to which it belongs.
    fn take_slot(&self, until: Instant) -> Result<(Link, u32), HolderError> {
        let mut state = self.lock();
        loop {
            let Some(link) = state.link.clone() else {
                return Err(HolderError::Down(state.broken.clone()));
            };
            if let Some(slot) = state.take_slot() {
                return Ok((link, slot));
            }
            if Instant::now() >= until {
                return Err(HolderError::Late);
            }
            state = self.receive_or_wait(state, &link, until, None);
        }
    }

    /// Sends a request about pages.
    fn send(
        &self,
        verb: Verb,
        pages: &[Page],
        data: &[u8],
        until: Instant,
    ) -> Result<Ticket, HolderError> {
        debug_assert!(pages.len() <= MAX_PAGES && !pages.is_empty());
        let (link, slot) = self.take_slot(until)?;
        let kind = match verb {
            Verb::Write => Kind::Write,
            Verb::Read | Verb::ReadAhead => Kind::Read,
            Verb::Free => Kind::Free,
        };
        let id = match self.lock().expect(&link, slot, verb) {
            Some(id) => id,
            None => return Err(HolderError::Down("it broke".into())),
        };
        let ring = link
            .channel
            .memory()
            .filter(|_| link.features & Features::RING != 0 && verb != Verb::Free);
        let mut header = Header::request(kind, id);
        let rest = until.saturating_duration_since(Instant::now()).as_micros();
        header.deadline_us = u32::try_from(rest).unwrap_or(u32::MAX).max(1).into();
        let mut start = Start {
            count: (pages.len() as u32).into(),
            ..Start::new_zeroed()
        };
        let mut inline = data;
        if let Some(memory) = ring {
            header.flags = Flags::RING.into();
            start.slot = slot.into();
            memory.write(slot as usize * MAX_DATA, data);
            inline = &[];
        }
        let mut head = [0; size_of::<Start>() + MAX_PAGES * size_of::<Page>()];
        let len = size_of::<Start>() + size_of_val(pages);
        head[..size_of::<Start>()].copy_from_slice(start.as_bytes());
        head[size_of::<Start>()..len].copy_from_slice(pages.as_bytes());
        if let Err(error) = link.channel.send(header, &head[..len], inline) {
            let mut state = self.lock();
            state.break_link(link.epoch, &error);
            self.ring(&state);
            return Err(HolderError::Down(error.to_string()));
        }
        Ok(Ticket {
            epoch: link.epoch,
            id,
        })
    }
}

impl Holder for Client {
    fn name(&self) -> &str {
        &self.name
    }

    fn health(&self) -> Health {
        let state = self.lock();
        Health {
            up: state.link.is_some(),
            life: state.life,
            draining: state.draining,
        }
    }

    fn trouble(&self) -> Option<String> {
        let state = self.lock();
        match (&state.link, state.draining) {
            (None, _) => Some(state.broken.clone()),
            (Some(_), true) => Some(HolderError::Draining.to_string()),
            (Some(_), false) => None,
        }
    }

    fn start(
        &self,
        verb: Verb,
        pages: &[Page],
        data: &[u8],
        until: Instant,
    ) -> Result<Ticket, HolderError> {
        self.send(verb, pages, data, until)
    }

    fn finish(
        &self,
        ticket: Ticket,
        found: &mut Vec<Page>,
        into: &mut [u8],
        until: Instant,
    ) -> Result<(), HolderError> {
        let status = self.await_answer(&ticket, found, into, until)?;
        judge(status)
    }

    fn ended(&self, ticket: &Ticket) -> Option<Result<(), HolderError>> {
        let mut state = self.lock();
        if state.epoch != ticket.epoch || state.link.is_none() {
            return Some(Err(HolderError::Down(state.broken.clone())));
        }
        let status = state.take_status(ticket.id)?;
        Some(judge(status))
    }

    fn receive(&self, until: Instant) {
        let state = self.lock();
        if let Some(link) = state.link.clone()
            && state
                .pending
                .values()
                .any(|pending| pending.answer.is_none())
        {
            drop(self.receive_or_wait(state, &link, until, None));
        }
    }

    fn tend(&self) {
        self.receive_what_is_there();
        self.revive();
    }

    fn leave(&self) {
        let Some(link) = self.lock().link.clone() else {
            return;
        };
        // Who cannot be told finds out.
        let _ = link
            .channel
            .send(Header::request(Kind::Detach, u64::MAX), &[], &[]);
        let mut head = Vec::new();
        let until = Instant::now() + Duration::from_millis(200);
        while let Ok(Some(_)) = link.channel.receive(Some(until), &mut head) {}
        link.channel.close();
    }
}

fn judge(status: Status) -> Result<(), HolderError> {
    match status {
        Status::Ok => Ok(()),
        Status::Draining => Err(HolderError::Draining),
        Status::Expired => Err(HolderError::Late),
        other => Err(HolderError::Refused(other.text())),
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(link) = &self.lock().link {
            link.channel.close();
        }
    }
}

#[cfg(test)]
mod tests;
