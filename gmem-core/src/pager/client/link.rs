//! What a client knows of its connection and of the requests under way on it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pager_wire::{Page, Status};

use super::super::channel::{Channel, ChannelError};
use super::super::holder::Verb;

/// A connection.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) channel: Arc<dyn Channel>,
    pub(super) epoch: u64,
    pub(super) features: u32,
}

/// An answer that nobody has fetched yet.
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) pages: Vec<Page>,
    pub(super) bytes: Bytes,
}

/// Where an answer's pages are.
pub(super) enum Bytes {
    None,
    /// In the request's slot of shared memory.
    Slot,
    Here(Vec<u8>),
}

/// A request under way.
pub(super) struct Pending {
    pub(super) slot: u32,
    pub(super) verb: Verb,
    pub(super) answer: Option<Answer>,
    /// Nobody will fetch the answer.
    pub(super) abandoned: bool,
}

pub(super) struct State {
    pub(super) link: Option<Link>,
    /// Of the last link.
    pub(super) epoch: u64,
    /// Why there is none.
    pub(super) broken: String,
    pub(super) pending: HashMap<u64, Pending>,
    /// A set bit is a slot that nobody has.
    slots: u64,
    next: u64,
    /// Somebody receives.
    pub(super) receiving: bool,
    /// Messages that have come in.
    pub(super) arrived: u64,
    /// So many wait for the bell.
    pub(super) waiting: usize,
    pub(super) ticket: [u8; 16],
    pub(super) incarnation: [u8; 16],
    pub(super) life: u64,
    pub(super) draining: bool,
    /// When to connect again, and how long to wait after that.
    pub(super) retry: (Instant, std::time::Duration),
    /// Kept for the next message's head.
    pub(super) head: Vec<u8>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            link: None,
            epoch: 0,
            broken: "not connected yet".into(),
            pending: HashMap::new(),
            slots: 0,
            next: 1,
            receiving: false,
            arrived: 0,
            waiting: 0,
            ticket: [0; 16],
            incarnation: [0; 16],
            life: 0,
            draining: false,
            retry: (Instant::now(), super::FIRST_RETRY),
            head: Vec::new(),
        }
    }

    /// A new connection, with so many slots.
    pub(super) fn connected(&mut self, channel: Arc<dyn Channel>, features: u32, slots: u16) {
        self.epoch += 1;
        self.slots = match slots {
            64.. => u64::MAX,
            _ => (1 << slots) - 1,
        };
        self.draining = false;
        self.retry.1 = super::FIRST_RETRY;
        self.link = Some(Link {
            channel,
            epoch: self.epoch,
            features,
        });
    }

    pub(super) fn take_slot(&mut self) -> Option<u32> {
        let slot = self.slots.trailing_zeros();
        if slot == u64::BITS {
            return None;
        }
        self.slots &= self.slots - 1;
        Some(slot)
    }

    pub(super) fn give_slot(&mut self, slot: u32) {
        self.slots |= 1 << slot;
    }

    /// A request that is about to be sent; `None` if the link is another one by now.
    pub(super) fn expect(&mut self, link: &Link, slot: u32, verb: Verb) -> Option<u64> {
        if self.link.is_none() || self.epoch != link.epoch {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.pending.insert(
            id,
            Pending {
                slot,
                verb,
                answer: None,
                abandoned: false,
            },
        );
        Some(id)
    }

    /// The connection is of no use any more: whoever waits for an answer gets none.
    pub(super) fn break_link(&mut self, epoch: u64, error: &ChannelError) {
        if self.epoch != epoch {
            return;
        }
        if let Some(link) = self.link.take() {
            link.channel.close();
            self.broken = error.to_string();
            self.pending.clear();
            self.retry.0 = Instant::now();
        }
    }

    /// How a request without pages in its answer ended.
    pub(super) fn take_status(&mut self, id: u64) -> Option<Status> {
        let pending = self.pending.get(&id)?;
        let status = pending.answer.as_ref()?.status;
        self.pending.remove(&id);
        Some(status)
    }
}
