//! A queue of a virtio-xpu: commands, done and answered in their order.

use crate::clock::cycles;
use crate::extent::Extent;
use crate::virtio::Fault;
use crate::virtio::queue::{Places, Queue};
use gmem_wire::xpu::{REQUEST_SIZE, RESPONSE_SIZE, Request, Response};

/// Commands in flight, at most.
pub const DEPTH: u64 = 16;
/// Memory of a stream, bytes.
pub const BYTES: u64 = 0x2000;

const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;
const REQUESTS: u64 = 0x1000;
const RESPONSES: u64 = 0x1800;
/// Of a request, and of a response with what the driver notes beside it.
const SLOT: u64 = 64;
/// Where in a response's slot is noted when its command was sent.
const SENT_AT: u64 = 32;

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Number of the command in its stream, from 0.
    pub ticket: u64,
    /// How it ended.
    pub response: Response,
    /// Cycles from when it was sent until its answer was seen.
    pub cycles: u64,
}

/// A stream of commands.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub(super) queue: Queue,
    area: u64,
    sent: u64,
    answered: u64,
    /// When something last happened: an answer, or a command to a stream that had none.
    pub(super) since: u64,
}

impl Stream {
    /// A stream whose memory begins at `area`.
    pub fn new(area: u64) -> Self {
        let places = Places {
            table: area,
            avail: area + AVAIL,
            used: area + USED,
        };
        Self {
            queue: Queue::new(places, 2 * DEPTH as u16),
            area,
            sent: 0,
            answered: 0,
            since: 0,
        }
    }

    /// Commands that were sent and not answered.
    pub fn in_flight(&self) -> u64 {
        self.sent - self.answered
    }

    fn slot(&self, ticket: u64) -> (u64, u64) {
        let offset = SLOT * (ticket % DEPTH);
        (
            self.area + REQUESTS + offset,
            self.area + RESPONSES + offset,
        )
    }

    /// Offers a command; its ticket.
    pub(super) fn offer(&mut self, ram: &Extent<'_>, command: Request) -> Result<u64, Fault> {
        if self.in_flight() == DEPTH {
            return Err("more commands are in flight than the queue holds");
        }
        let ticket = self.sent;
        let (request, response) = self.slot(ticket);
        ram.put_words(request, &command.to_bytes());
        // What no device answers.
        ram.put_words(response, &[0xff; RESPONSE_SIZE]);
        let now = cycles();
        ram.put64(response + SENT_AT, now);
        if self.in_flight() == 0 {
            self.since = now;
        }
        let buffers = [
            (request, REQUEST_SIZE as u32, false),
            (response, RESPONSE_SIZE as u32, true),
        ];
        let first = 2 * (ticket % DEPTH) as u16;
        self.queue.offer(ram, first, &buffers);
        self.sent += 1;
        Ok(ticket)
    }

    /// The next answer, if it is there.
    pub(super) fn answer(&mut self, ram: &Extent<'_>) -> Result<Option<Answer>, Fault> {
        let Some((head, written)) = self.queue.answer(ram) else {
            return Ok(None);
        };
        let ticket = self.answered;
        if self.in_flight() == 0 || head != 2 * (ticket % DEPTH) as u32 {
            return Err("an answer that is not the next command's");
        }
        if written != RESPONSE_SIZE as u32 {
            return Err("an answer that is not 16 bytes long");
        }
        let (_, response) = self.slot(ticket);
        let mut bytes = [0; RESPONSE_SIZE];
        ram.get_words(response, &mut bytes);
        let now = cycles();
        self.answered += 1;
        self.since = now;
        Ok(Some(Answer {
            ticket,
            response: Response::from_bytes(&bytes),
            cycles: now.saturating_sub(ram.get64(response + SENT_AT)),
        }))
    }
}
