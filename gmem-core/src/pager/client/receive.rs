//! Answers come in.

use std::sync::MutexGuard;
use std::time::Instant;

use pager_wire::list::List;
use pager_wire::{Flags, Header, Kind, MAX_DATA, Malformed, PAGE_LEN, Page, Status};

use super::super::channel::{ChannelError, Received};
use super::super::holder::{HolderError, Ticket, Verb};
use super::Client;
use super::link::{Answer, Bytes, Link, State};

/// Whose answer may be put right where it is wanted.
pub(super) struct Wanted<'a> {
    id: u64,
    into: &'a mut [u8],
    /// It has been put there.
    there: bool,
}

impl Client {
    /// Receives one message, if nobody does, or waits for the bell.
    pub(super) fn receive_or_wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        link: &Link,
        until: Instant,
        wanted: Option<&mut Wanted<'_>>,
    ) -> MutexGuard<'a, State> {
        if state.receiving {
            return self.wait(state, until);
        }
        state.receiving = true;
        let mut head = std::mem::take(&mut state.head);
        drop(state);
        let received = link.channel.receive(Some(until), &mut head);
        let handled = match received {
            Ok(Some(received)) => self.handle(link, &received, &head, wanted),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        let mut state = self.lock();
        state.receiving = false;
        state.head = head;
        if let Err(error) = handled {
            state.break_link(link.epoch, &error);
        }
        self.ring(&state);
        state
    }

    /// Takes what has arrived, if nobody is about to.
    pub(super) fn receive_what_is_there(&self) {
        loop {
            let state = self.lock();
            let Some(link) = state.link.clone() else {
                return;
            };
            if state.receiving {
                return;
            }
            let before = state.arrived;
            let state = self.receive_or_wait(state, &link, Instant::now(), None);
            if state.arrived == before {
                return;
            }
        }
    }

    fn handle(
        &self,
        link: &Link,
        received: &Received,
        head: &[u8],
        wanted: Option<&mut Wanted<'_>>,
    ) -> Result<(), ChannelError> {
        let header = &received.header;
        if header.has(Flags::EVENT) {
            let mut state = self.lock();
            state.arrived += 1;
            state.draining |= received.kind == Kind::Drain;
            return Ok(());
        }
        if !header.has(Flags::REPLY) {
            return Err(Malformed::Direction.into());
        }
        let id = header.correlation.get();
        let (slot, verb) = {
            let mut state = self.lock();
            state.arrived += 1;
            match state.pending.get(&id) {
                Some(pending) if pending.answer.is_none() => (pending.slot, pending.verb),
                _ => return Err(Malformed::Direction.into()),
            }
        };
        let (pages, bytes) = self.take_pages(link, received, head, (slot, verb), wanted)?;
        let mut state = self.lock();
        let keeps_slot = matches!(bytes, Bytes::Slot);
        let Some(pending) = state.pending.get_mut(&id) else {
            return Ok(());
        };
        pending.answer = Some(Answer {
            status: received.status,
            pages,
            bytes,
        });
        if pending.abandoned {
            state.pending.remove(&id);
            state.give_slot(slot);
        } else if !keeps_slot {
            state.give_slot(slot);
        }
        Ok(())
    }

    /// The pages of an answer, as it says which they are and where their bytes have been put.
    fn take_pages(
        &self,
        link: &Link,
        received: &Received,
        head: &[u8],
        (slot, verb): (u32, Verb),
        wanted: Option<&mut Wanted<'_>>,
    ) -> Result<(Vec<Page>, Bytes), ChannelError> {
        let header: &Header = &received.header;
        let reads = matches!(verb, Verb::Read | Verb::ReadAhead);
        if !reads || received.status != Status::Ok {
            if header.data_len != 0 {
                return Err(Malformed::DataLength(header.data_len.get()).into());
            }
            return Ok((Vec::new(), Bytes::None));
        }
        let list = List::read(header, head, |start| start.count.get())?;
        let len = list.pages.len() * PAGE_LEN;
        let bytes = match link.channel.memory().filter(|_| header.has(Flags::RING)) {
            Some(memory) if verb == Verb::ReadAhead => {
                let mut bytes = vec![0; len];
                memory.read(slot as usize * MAX_DATA, &mut bytes);
                Bytes::Here(bytes)
            }
            Some(_) => Bytes::Slot,
            None if header.has(Flags::RING) => return Err(Malformed::Slot(slot).into()),
            None => match wanted {
                Some(wanted)
                    if wanted.id == header.correlation.get() && wanted.into.len() == len =>
                {
                    link.channel.receive_data(wanted.into)?;
                    wanted.there = true;
                    Bytes::None
                }
                _ => {
                    let mut bytes = vec![0; len];
                    link.channel.receive_data(&mut bytes)?;
                    Bytes::Here(bytes)
                }
            },
        };
        Ok((list.pages.to_vec(), bytes))
    }

    /// Waits for an answer and fetches it.
    pub(super) fn await_answer(
        &self,
        ticket: &Ticket,
        found: &mut Vec<Page>,
        into: &mut [u8],
        until: Instant,
    ) -> Result<Status, HolderError> {
        let mut wanted = Wanted {
            id: ticket.id,
            into,
            there: false,
        };
        let mut state = self.lock();
        loop {
            let link = match &state.link {
                Some(link) if link.epoch == ticket.epoch => link.clone(),
                _ => return Err(HolderError::Down(state.broken.clone())),
            };
            match state.pending.get_mut(&ticket.id) {
                None => return Err(HolderError::Down("the request was given up".into())),
                Some(pending) => {
                    if let Some(answer) = pending.answer.take() {
                        let slot = pending.slot;
                        state.pending.remove(&ticket.id);
                        drop(state);
                        return self.fetch(&link, slot, answer, found, wanted);
                    }
                    if Instant::now() >= until {
                        pending.abandoned = true;
                        return Err(HolderError::Late);
                    }
                }
            }
            state = self.receive_or_wait(state, &link, until, Some(&mut wanted));
        }
    }

    fn fetch(
        &self,
        link: &Link,
        slot: u32,
        answer: Answer,
        found: &mut Vec<Page>,
        wanted: Wanted<'_>,
    ) -> Result<Status, HolderError> {
        let expected = wanted.into.len();
        let got = match answer.bytes {
            Bytes::None if wanted.there => expected,
            Bytes::None => 0,
            Bytes::Slot => {
                let len = answer.pages.len() * PAGE_LEN;
                if let Some(memory) = link.channel.memory().filter(|_| len == expected) {
                    memory.read(slot as usize * MAX_DATA, wanted.into);
                }
                let mut state = self.lock();
                if state.epoch == link.epoch {
                    state.give_slot(slot);
                    self.ring(&state);
                }
                len
            }
            Bytes::Here(bytes) => {
                if bytes.len() == expected {
                    wanted.into.copy_from_slice(&bytes);
                }
                bytes.len()
            }
        };
        *found = answer.pages;
        if answer.status == Status::Ok && got != expected {
            return Err(HolderError::Refused(
                "it answered with other pages than were asked for",
            ));
        }
        Ok(answer.status)
    }
}
