//! One connection: a stream of the host and what the guest knows of it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::request::{Header, flag, op};

/// How many bytes of the guest's wait for the host, at most: what the guest is told it may send.
pub(super) const BUFFER: u32 = 64 << 10;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    GoesOn,
    /// It ends, and the guest is told so.
    Reset,
    /// It ends, and the guest knows.
    Gone,
}

/// A packet to the guest, less addresses and credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Payload, bytes.
    pub(super) len: usize,
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host wants it; the guest is to be asked.
    ToRequest,
    /// The guest has been asked.
    Requested,
    /// The guest wants it; it is to be told that it has it.
    ToRespond,
    Open,
}

/// One of the two, and which directions it still uses.
#[derive(Clone, Copy, Debug)]
struct Side {
    sends: bool,
    receives: bool,
}

const BOTH: Side = Side {
    sends: true,
    receives: true,
};

/// A connection. Counters of bytes wrap, as the packets' do.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    phase: Phase,
    host: Side,
    guest: Side,
    /// The stream may have something to read: nothing says so again until it had nothing.
    readable: bool,
    /// The guest's bytes that the host has not taken yet.
    waiting: VecDeque<u8>,
    /// What the guest has been told of the host's side.
    told: u32,
    /// The guest's bytes that are the host's, and as far as the guest was told.
    forwarded: u32,
    announced: u32,
    owes_credit: bool,
    /// Bytes sent to the guest, how many it has taken, and its room.
    sent: u32,
    guest_forwarded: u32,
    guest_room: u32,
    asked_credit: bool,
    /// It is among those that have something for the guest.
    pub(super) queued: bool,
}

impl Connection {
    /// The host wants to reach the guest.
    pub(super) fn from_host(stream: UnixStream) -> Self {
        Self::new(stream, Phase::ToRequest)
    }

    /// The guest has reached the host, by `request`.
    pub(super) fn from_guest(stream: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(stream, Phase::ToRespond);
        connection.take_credit(request);
        connection
    }

    fn new(stream: UnixStream, phase: Phase) -> Self {
        Self {
            stream,
            phase,
            host: BOTH,
            guest: BOTH,
            readable: true,
            waiting: VecDeque::new(),
            told: 0,
            forwarded: 0,
            announced: 0,
            owes_credit: false,
            sent: 0,
            guest_forwarded: 0,
            guest_room: 0,
            asked_credit: false,
            queued: false,
        }
    }

    /// The guest's bytes that the host has taken, for a packet that tells the guest so.
    pub(super) fn announce(&mut self) -> u32 {
        self.owes_credit = false;
        self.announced = self.forwarded;
        self.forwarded
    }

    /// Something has happened to the stream; `closed`: the host is gone in both directions.
    pub(super) fn stir(&mut self, closed: bool) -> Verdict {
        self.readable = true;
        // Before the guest has answered, nobody is there for whom a closed stream could be read to its end.
        match self.phase {
            Phase::ToRequest if closed => return Verdict::Gone,
            Phase::Requested if closed => return Verdict::Reset,
            _ => {}
        }
        if closed {
            self.host_is_deaf();
        }
        self.flush()
    }

    /// A packet from the guest. `host_port` is the host's number of this connection.
    pub(super) fn receive(&mut self, header: &Header, payload: &[u8], host_port: u32) -> Verdict {
        self.take_credit(header);
        match (header.op, self.phase) {
            (op::RST, _) => Verdict::Gone,
            (op::RESPONSE, Phase::Requested) => {
                self.phase = Phase::Open;
                let line = format!("OK {host_port}\n");
                // The stream is empty still: it takes so much at once, or its other end is gone.
                match self.stream.write(line.as_bytes()) {
                    Ok(len) if len == line.len() => Verdict::GoesOn,
                    _ => Verdict::Reset,
                }
            }
            // Linux does not wait for the response with its first bytes.
            (op::RW, Phase::Open | Phase::ToRespond) if self.guest.sends => self.take(payload),
            (op::SHUTDOWN, Phase::Open | Phase::ToRespond) => self.guest_shuts_down(header.flags),
            (op::CREDIT_UPDATE, Phase::Open | Phase::ToRespond) => Verdict::GoesOn,
            (op::CREDIT_REQUEST, Phase::Open | Phase::ToRespond) => {
                self.owes_credit = true;
                Verdict::GoesOn
            }
            _ => Verdict::Reset,
        }
    }

    /// The next message for the guest, if there is one, with at most `bytes.len()` bytes of payload, which is not 0.
    pub(super) fn next(&mut self, bytes: &mut [u8]) -> Option<Message> {
        let message = |op| {
            Some(Message {
                op,
                ..Message::default()
            })
        };
        match self.phase {
            Phase::ToRequest => {
                self.phase = Phase::Requested;
                return message(op::REQUEST);
            }
            Phase::ToRespond => {
                self.phase = Phase::Open;
                return message(op::RESPONSE);
            }
            Phase::Requested => return None,
            Phase::Open => {}
        }
        if self.readable && self.host.sends && self.guest.receives {
            let room = bytes.len().min(self.credit() as usize);
            if room > 0 {
                if let Some(len) = self.read(&mut bytes[..room]) {
                    let op = op::RW;
                    return Some(Message { op, flags: 0, len });
                }
            } else if !self.asked_credit {
                self.asked_credit = true;
                return message(op::CREDIT_REQUEST);
            }
        }
        let news = self.shut_flags() & !self.told;
        if news != 0 {
            self.told |= news;
            return Some(Message {
                op: op::SHUTDOWN,
                flags: self.told,
                len: 0,
            });
        }
        // Half of the room: early enough for who sends much, and seldom.
        let unannounced = self.forwarded.wrapping_sub(self.announced);
        if self.owes_credit || unannounced >= BUFFER / 2 {
            return message(op::CREDIT_UPDATE);
        }
        None
    }

    /// Reads what the host sends; none, if there is nothing now or ever.
    fn read(&mut self, bytes: &mut [u8]) -> Option<usize> {
        loop {
            match self.stream.read(bytes) {
                Ok(0) => self.host.sends = false,
                Ok(len) => {
                    self.sent = self.sent.wrapping_add(len as u32);
                    return Some(len);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => continue,
                    ErrorKind::WouldBlock => self.readable = false,
                    _ => {
                        self.host.sends = false;
                        self.host_is_deaf();
                    }
                },
            }
            return None;
        }
    }

    /// What the host does not do any more, as a shutdown says it.
    fn shut_flags(&self) -> u32 {
        let send = if self.host.sends { 0 } else { flag::SEND };
        let receive = if self.host.receives { 0 } else { flag::RECEIVE };
        send | receive
    }

    /// How many bytes the guest has room for. It may say what it likes.
    fn credit(&self) -> u32 {
        let under_way = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_room.saturating_sub(under_way)
    }

    fn take_credit(&mut self, header: &Header) {
        self.guest_room = header.buf_alloc;
        self.guest_forwarded = header.fwd_cnt;
        self.asked_credit &= self.credit() == 0;
    }

    /// Passes the guest's bytes on, or keeps them until the host takes them.
    fn take(&mut self, payload: &[u8]) -> Verdict {
        // More than it was allowed to send.
        if self.waiting.len() + payload.len() > BUFFER as usize {
            return Verdict::Reset;
        }
        self.waiting.extend(payload);
        self.flush()
    }

    /// Passes on what waits for the host, as much as it takes.
    fn flush(&mut self) -> Verdict {
        while self.host.receives && !self.waiting.is_empty() {
            match self.stream.write(self.waiting.as_slices().0) {
                Ok(len) => {
                    self.waiting.drain(..len);
                    self.forwarded = self.forwarded.wrapping_add(len as u32);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => continue,
                    ErrorKind::WouldBlock => return Verdict::GoesOn,
                    _ => self.host_is_deaf(),
                },
            }
        }
        if !self.host.receives {
            // What was on its way when the host closed.
            self.forwarded = self.forwarded.wrapping_add(self.waiting.len() as u32);
            self.waiting.clear();
        }
        self.waiting.shrink_to(BUFFER as usize / 16);
        match self.guest {
            Side {
                sends: false,
                receives: false,
            } => Verdict::Reset,
            Side { sends: false, .. } => {
                self.shut(Shutdown::Write);
                Verdict::GoesOn
            }
            _ => Verdict::GoesOn,
        }
    }

    /// The host takes nothing any more.
    fn host_is_deaf(&mut self) {
        self.host.receives = false;
    }

    /// The guest will not send, or not receive. What it has sent before still reaches the host.
    fn guest_shuts_down(&mut self, flags: u32) -> Verdict {
        self.guest.sends &= flags & flag::SEND == 0;
        self.guest.receives &= flags & flag::RECEIVE == 0;
        if !self.guest.receives {
            self.shut(Shutdown::Read);
        }
        self.flush()
    }

    fn shut(&self, how: Shutdown) {
        // Where the other end is gone, there is nothing to shut.
        let _: io::Result<()> = self.stream.shutdown(how);
    }
}
