//! All connections, and who has something for the guest.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{BUFFER, Connection, Message, Verdict};
use super::host::{Caller, Host, Said};
use super::metrics::Metrics;
use super::request::{HOST_CID, Header, STREAM, op};

/// Connections at once, callers included: each may hold [`BUFFER`] bytes.
pub(super) const MOST_CONNECTIONS: usize = 512;
/// Answers to packets of no connection that wait for the driver, at most. Further ones are not answered.
pub(super) const MOST_RESETS: usize = 256;
/// Events taken in one call: others want the device's lock too.
const EVENTS_A_CALL: usize = 64;
/// The host's ports of connections that the host makes begin here.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// Who is at the other end of the listening socket.
const LISTENER: u64 = 0;

/// A connection's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ports {
    host: u32,
    guest: u32,
}

/// Who has a stream.
#[derive(Debug)]
enum Owner {
    Caller(Caller),
    Connection(Ports),
}

/// The connections of a guest.
#[derive(Debug)]
pub(super) struct Hub {
    cid: u64,
    host: Host,
    epoll: Epoll,
    /// Owners of streams by the data of their events. Numbers are not used again.
    owners: HashMap<u64, Owner>,
    last_owner: u64,
    connections: HashMap<Ports, (u64, Connection)>,
    last_host_port: u32,
    /// Connections that may have something for the guest.
    queue: VecDeque<Ports>,
    resets: VecDeque<Header>,
    pub(super) metrics: Metrics,
}

impl Hub {
    pub(super) fn new(cid: u64, host: Host) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let listener = host.listener().as_raw_fd();
        // By edge, as all: were it by level, callers for whom no descriptor is left would keep the device busy.
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, LISTENER);
        epoll.ctl(ControlOperation::Add, listener, event)?;
        Ok(Self {
            cid,
            host,
            epoll,
            owners: HashMap::new(),
            last_owner: LISTENER,
            connections: HashMap::new(),
            last_host_port: FIRST_HOST_PORT,
            queue: VecDeque::new(),
            resets: VecDeque::new(),
            metrics: Metrics::default(),
        })
    }

    /// Readable when something has happened to a stream.
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn cid(&self) -> u64 {
        self.cid
    }

    /// Ends all connections, without telling the guest. Callers stay: the next driver may serve them.
    pub(super) fn clear(&mut self) {
        self.connections.clear();
        self.owners
            .retain(|_, owner| matches!(owner, Owner::Caller(_)));
        self.queue.clear();
        self.resets.clear();
    }

    /// Whether there may be something for the guest.
    pub(super) fn has_news(&self) -> bool {
        !self.queue.is_empty() || !self.resets.is_empty()
    }

    /// How much waits for the guest's room.
    #[cfg(test)]
    pub(super) fn backlog(&self) -> usize {
        self.queue.len() + self.resets.len()
    }

    /// The next packet for the guest, its payload in `bytes`.
    pub(super) fn next(&mut self, bytes: &mut [u8]) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(ports) = self.queue.pop_front() {
            let Some((_, connection)) = self.connections.get_mut(&ports) else {
                continue;
            };
            let Some(message) = connection.next(bytes) else {
                connection.queued = false;
                continue;
            };
            // Everybody else first.
            self.queue.push_back(ports);
            let fwd_cnt = connection.announce();
            self.metrics.bytes_to_guest += message.len as u64;
            return Some(self.header(ports, message, fwd_cnt));
        }
        None
    }

    fn header(&self, ports: Ports, message: Message, fwd_cnt: u32) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.cid,
            src_port: ports.host,
            dst_port: ports.guest,
            len: message.len as u32,
            kind: STREAM,
            op: message.op,
            flags: message.flags,
            buf_alloc: BUFFER,
            fwd_cnt,
        }
    }

    /// A packet from the guest.
    pub(super) fn receive(&mut self, header: &Header, payload: &[u8]) {
        if header.src_cid != self.cid {
            // Whoever that is does not hear the answer.
            self.metrics.dropped += 1;
            return;
        }
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        if header.dst_cid != HOST_CID || header.kind != STREAM {
            return self.refuse(header);
        }
        let Some((_, connection)) = self.connections.get_mut(&ports) else {
            return match header.op {
                op::REQUEST => self.open_for_guest(ports, header),
                _ => self.refuse(header),
            };
        };
        if header.op == op::RW {
            self.metrics.bytes_from_guest += payload.len() as u64;
        }
        let verdict = connection.receive(header, payload, ports.host);
        self.settle(ports, verdict);
    }

    /// A packet that makes no sense: its connection, if it has one, ends.
    pub(super) fn refuse(&mut self, header: &Header) {
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        if header.src_cid != self.cid {
            self.metrics.dropped += 1;
            return;
        }
        if header.dst_cid == HOST_CID {
            self.close(ports);
        }
        // A reset is not answered: two who do not know each other would go on for ever.
        if header.op != op::RST {
            self.reset(Header::reset_for(header));
        }
    }

    /// Takes what has happened to streams.
    pub(super) fn poll(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); EVENTS_A_CALL];
        let count = match self.epoll.wait(0, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            count => count?,
        };
        for event in &events[..count] {
            if event.data() == LISTENER {
                self.accept();
                continue;
            }
            match self.owners.get_mut(&event.data()) {
                Some(Owner::Caller(caller)) => {
                    let said = caller.listen();
                    self.heard(event.data(), said);
                }
                Some(Owner::Connection(ports)) => {
                    let ports = *ports;
                    let gone = EventSet::HANG_UP | EventSet::ERROR;
                    let closed = event.event_set().intersects(gone);
                    if let Some((_, connection)) = self.connections.get_mut(&ports) {
                        let verdict = connection.stir(closed);
                        self.settle(ports, verdict);
                    }
                }
                // It ended a moment ago.
                None => {}
            }
        }
        Ok(())
    }

    /// Accepts all callers. Those for whom no descriptor is left wait until the next one comes.
    fn accept(&mut self) {
        while let Ok(stream) = self.host.accept() {
            if self.owners.len() >= MOST_CONNECTIONS {
                self.metrics.refused += 1;
                continue;
            }
            if let Ok(owner) = self.watch(&stream) {
                let mut caller = Caller::new(stream);
                let said = caller.listen();
                self.owners.insert(owner, Owner::Caller(caller));
                self.heard(owner, said);
            }
        }
    }

    /// Acts on what a caller has said.
    fn heard(&mut self, owner: u64, said: Said) {
        let port = match said {
            Said::NotYet => return,
            Said::Port(port) => Some(port),
            Said::Nonsense => None,
        };
        let (Some(Owner::Caller(caller)), Some(guest)) = (self.owners.remove(&owner), port) else {
            self.metrics.refused += 1;
            return;
        };
        let host = self.free_host_port();
        self.metrics.connections_from_host += 1;
        let connection = Connection::from_host(caller.stream);
        self.open(Ports { host, guest }, owner, connection);
    }

    /// The guest wants to reach a port of the host.
    fn open_for_guest(&mut self, ports: Ports, request: &Header) {
        let room = self.owners.len() < MOST_CONNECTIONS;
        let stream = room.then(|| self.host.connect(ports.host).ok()).flatten();
        let watched = stream.and_then(|stream| Some((self.watch(&stream).ok()?, stream)));
        match watched {
            Some((owner, stream)) => {
                self.metrics.connections_from_guest += 1;
                self.open(ports, owner, Connection::from_guest(stream, request));
            }
            None => {
                self.metrics.refused += 1;
                self.reset(Header::reset_for(request));
            }
        }
    }

    fn open(&mut self, ports: Ports, owner: u64, connection: Connection) {
        self.owners.insert(owner, Owner::Connection(ports));
        self.connections.insert(ports, (owner, connection));
        self.enqueue(ports);
    }

    /// Watches a stream: the number of its owner.
    fn watch(&mut self, stream: &UnixStream) -> io::Result<u64> {
        let owner = self.last_owner + 1;
        // By edge: a connection remembers what it can do, and nobody is woken for what it does not want.
        let events =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(events, owner);
        self.epoll
            .ctl(ControlOperation::Add, stream.as_raw_fd(), event)?;
        self.last_owner = owner;
        Ok(owner)
    }

    /// A port that no connection has on the host's side.
    fn free_host_port(&mut self) -> u32 {
        loop {
            let next = self.last_host_port.wrapping_add(1).max(FIRST_HOST_PORT);
            self.last_host_port = next;
            if !self.connections.keys().any(|ports| ports.host == next) {
                return next;
            }
        }
    }

    fn settle(&mut self, ports: Ports, verdict: Verdict) {
        match verdict {
            Verdict::GoesOn => self.enqueue(ports),
            Verdict::Gone => self.close(ports),
            Verdict::Reset => {
                self.close(ports);
                let message = Message {
                    op: op::RST,
                    ..Message::default()
                };
                self.reset(self.header(ports, message, 0));
            }
        }
    }

    fn enqueue(&mut self, ports: Ports) {
        if let Some((_, connection)) = self.connections.get_mut(&ports)
            && !connection.queued
        {
            connection.queued = true;
            self.queue.push_back(ports);
        }
    }

    fn reset(&mut self, reset: Header) {
        if self.resets.len() == MOST_RESETS {
            self.metrics.dropped += 1;
            return;
        }
        self.metrics.resets += 1;
        self.resets.push_back(reset);
    }

    fn close(&mut self, ports: Ports) {
        if let Some((owner, connection)) = self.connections.remove(&ports) {
            self.owners.remove(&owner);
            if connection.queued {
                self.queue.retain(|queued| *queued != ports);
            }
        }
    }
}
