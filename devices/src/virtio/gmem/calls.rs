//! What the monitor and the device hand to each other: requests of those who use memory that the guest lends, and its replies.
//!
//! The monitor has a thread for each connection, which asks and waits ([`Line::ask`]). The device's worker takes what is asked
//! when the driver has room for it, and brings the reply. Neither waits for the other with a lock held.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gmem_core::pager::wire::{Flags, Header, Status};
use gmem_wire::gmem::call;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Connections at once, at most, those included of whose end the driver has not heard.
pub const CONNECTIONS: usize = 8;

/// A message of the pager's protocol.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// With the lengths of what follows.
    pub header: Header,
    /// Its head.
    pub head: Vec<u8>,
    /// Its data.
    pub data: Vec<u8>,
}

/// Why there is no answer. The connection is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The driver answered something else.
    #[error("the guest's answer is none: {0}")]
    Nonsense(&'static str),
    /// The driver was reset, or broke the device.
    #[error("the guest has reset its device")]
    Reset,
    /// It takes too long.
    #[error("the guest does not answer")]
    Late,
}

/// Requests and replies between the monitor and the device.
#[derive(Debug)]
pub struct Calls {
    state: Mutex<State>,
    answered: Condvar,
    /// Readable: there is something for the driver.
    bell: EventFd,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the connection made last.
    last: u64,
    /// In the order in which they are served.
    connections: Vec<Connection>,
    /// The driver is to be told to stop.
    end: bool,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    asked: Asked,
    /// The driver has heard of it.
    known: bool,
    /// Its client has gone.
    closed: bool,
}

/// How far a connection's request has got.
#[derive(Debug)]
enum Asked {
    Nothing,
    Waits(Message, Instant),
    /// The driver has it.
    Given(Header),
    Answered(Result<Message, AskError>),
}

/// What the driver is told.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) connection: u64,
    /// See [`call`].
    pub(super) kind: u32,
    pub(super) message: Option<Message>,
}

/// A client's connection. Dropping it ends it.
#[derive(Debug)]
pub struct Line {
    calls: Arc<Calls>,
    number: u64,
}

impl Calls {
    /// Without connections.
    ///
    /// # Errors
    ///
    /// The host has no descriptor left.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            state: Mutex::default(),
            answered: Condvar::new(),
            bell: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // The counter cannot overflow: the worker takes it back.
        let _ = self.bell.write(1);
    }

    /// A new connection; none if there are [`CONNECTIONS`].
    pub fn connect(self: &Arc<Self>) -> Option<Line> {
        let mut state = self.lock();
        if state.connections.len() == CONNECTIONS {
            return None;
        }
        state.last += 1;
        let number = state.last;
        state.connections.push(Connection {
            number,
            asked: Asked::Nothing,
            known: false,
            closed: false,
        });
        let calls = Arc::clone(self);
        Some(Line { calls, number })
    }

    /// Tells the driver that it is to stop lending.
    pub fn end(&self) {
        self.lock().end = true;
        self.ring();
    }

    /// Every request, under way or to come, fails: the guest is about to be no more.
    pub fn hang_up(&self) {
        self.reset();
    }

    /// What is readable when there is something for the driver.
    pub(super) fn source(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// The bell has been heard.
    pub(super) fn heard(&self) {
        let _ = self.bell.read();
    }

    /// Takes the next thing for the driver. Connections take turns.
    pub(super) fn take(&self) -> Option<Next> {
        let mut state = self.lock();
        let mut late = false;
        let next = state.take(&mut late);
        if late {
            self.answered.notify_all();
        }
        next
    }

    /// The driver's answer to a connection. One that has gone needs none.
    pub(super) fn answer(&self, connection: u64, answer: Result<Message, AskError>) {
        let mut state = self.lock();
        let Some(found) = state.own(connection) else {
            return;
        };
        found.asked = Asked::Answered(match (&found.asked, answer) {
            (Asked::Given(request), Ok(reply)) => check(request, reply),
            (_, Err(error)) => Err(error),
            _ => Err(AskError::Nonsense("nobody has asked")),
        });
        self.answered.notify_all();
    }

    /// The driver has forgotten everything.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.connections.retain(|it| !it.closed);
        for connection in &mut state.connections {
            connection.known = false;
            connection.asked = Asked::Answered(Err(AskError::Reset));
        }
        self.answered.notify_all();
    }
}

impl State {
    fn take(&mut self, late: &mut bool) -> Option<Next> {
        for at in 0..self.connections.len() {
            let connection = &mut self.connections[at];
            let number = connection.number;
            if connection.closed {
                self.connections.remove(at);
                return Some(Next {
                    connection: number,
                    kind: call::CLOSED,
                    message: None,
                });
            }
            let (message, arrived) = match std::mem::replace(&mut connection.asked, Asked::Nothing)
            {
                Asked::Waits(message, arrived) => (message, arrived),
                other => {
                    connection.asked = other;
                    continue;
                }
            };
            let limit = u128::from(message.header.deadline_us.get());
            if limit > 0 && arrived.elapsed().as_micros() > limit {
                let header = message.header.reply(Status::Expired);
                let reply = Message {
                    header,
                    ..Message::default()
                };
                connection.asked = Asked::Answered(Ok(reply));
                *late = true;
                continue;
            }
            connection.asked = Asked::Given(message.header);
            connection.known = true;
            // Its next request comes after what others ask.
            self.connections[at..].rotate_left(1);
            return Some(Next {
                connection: number,
                kind: call::MESSAGE,
                message: Some(message),
            });
        }
        std::mem::take(&mut self.end).then_some(Next {
            connection: 0,
            kind: call::END,
            message: None,
        })
    }
}

/// Whether this is a reply to that request.
fn check(request: &Header, reply: Message) -> Result<Message, AskError> {
    let header = &reply.header;
    let nonsense = |what| Err(AskError::Nonsense(what));
    if header.check().is_err() {
        return nonsense("its header makes no sense");
    }
    if !header.has(Flags::REPLY) || header.has(Flags::EVENT | Flags::RING) {
        return nonsense("it is no reply");
    }
    if header.kind != request.kind || header.correlation != request.correlation {
        return nonsense("it is another request's");
    }
    Ok(reply)
}

impl Line {
    /// Hands a request to the guest, if it has none of this connection's.
    pub(in crate::virtio) fn hand_over(&self, message: Message) {
        let mut state = self.calls.lock();
        if let Some(own) = state.own(self.number)
            && matches!(own.asked, Asked::Nothing)
        {
            own.asked = Asked::Waits(message, Instant::now());
            self.calls.ring();
        }
    }

    /// Hands a request to the guest and waits for its reply.
    ///
    /// # Errors
    ///
    /// There is no reply within `limit`, or none that is one. Every later request fails likewise.
    pub fn ask(&self, message: Message, limit: Duration) -> Result<Message, AskError> {
        let until = Instant::now() + limit;
        self.hand_over(message);
        let mut state = self.calls.lock();
        loop {
            let Some(own) = state.own(self.number) else {
                return Err(AskError::Reset);
            };
            match std::mem::replace(&mut own.asked, Asked::Nothing) {
                Asked::Answered(Ok(reply)) => return Ok(reply),
                Asked::Answered(Err(error)) => {
                    own.asked = Asked::Answered(Err(error));
                    return Err(error);
                }
                other => own.asked = other,
            }
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                own.asked = Asked::Answered(Err(AskError::Late));
                return Err(AskError::Late);
            }
            let waited = self.calls.answered.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn own(&mut self, number: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|it| it.number == number)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut state = self.calls.lock();
        if let Some(own) = state.own(self.number) {
            own.closed = true;
        }
        // Whom the driver has not heard of has not been there.
        state.connections.retain(|it| !it.closed || it.known);
        drop(state);
        self.calls.ring();
    }
}
