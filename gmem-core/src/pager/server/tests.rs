//! A server and hand-made requests.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pager_wire::body::{Attach, Attached, Features};
use pager_wire::list::Start;
use pager_wire::{Header, Kind, MAX_PAGES, PAGE_LEN, Page, Status, VERSION};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::super::channel::local::{Local, pair};
use super::super::channel::{Channel, ChannelError, Received};
use super::*;
use crate::hnode::hbm::Hbm;
use crate::hnode::link::Link;

const PAGES: u64 = 100;

fn config() -> Config {
    Config {
        quota_pages: 60,
        clients: 3,
        credits: 4,
        keep: Duration::from_secs(60),
        token: [0; 32],
        origin: None,
    }
}

fn server(config: Config) -> Arc<Server> {
    let ram = Hbm::new("ram", PAGES * PAGE_LEN as u64, Link::new(0.0, 0.0)).unwrap();
    Arc::new(Server::new(config, vec![Box::new(ram)]).unwrap())
}

/// A connection, with the thread that serves it.
struct Peer {
    channel: Local,
    head: Vec<u8>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn new(server: &Arc<Server>) -> Self {
        let (channel, served) = pair();
        let server = Arc::clone(server);
        let thread = thread::spawn(move || server.serve(Arc::new(served)));
        Self {
            channel,
            head: Vec::new(),
            thread: Some(thread),
        }
    }

    fn attached(server: &Arc<Server>, name: u8, pages: u64) -> (Self, Attached) {
        let mut peer = Self::new(server);
        let (status, attached) = peer.attach(&attach(name, pages));
        assert_eq!(status, Status::Ok);
        (peer, attached.unwrap())
    }

    fn attach(&mut self, attach: &Attach) -> (Status, Option<Attached>) {
        let (received, _) = self.ask(Kind::Attach, attach.as_bytes(), &[]).unwrap();
        (received.status, Attached::read_from_bytes(&self.head).ok())
    }

    fn receive(&mut self) -> Result<(Received, Vec<u8>), ChannelError> {
        let until = Some(Instant::now() + Duration::from_secs(10));
        let received = self
            .channel
            .receive(until, &mut self.head)?
            .expect("an answer");
        let mut data = vec![0; received.header.data_len.get() as usize];
        self.channel.receive_data(&mut data)?;
        Ok((received, data))
    }

    fn ask(
        &mut self,
        kind: Kind,
        head: &[u8],
        data: &[u8],
    ) -> Result<(Received, Vec<u8>), ChannelError> {
        self.channel.send(Header::request(kind, 77), head, data)?;
        let (received, data) = self.receive()?;
        assert_eq!(
            (received.kind, received.header.correlation.get()),
            (kind, 77)
        );
        Ok((received, data))
    }

    fn ask_list(
        &mut self,
        kind: Kind,
        writes: u32,
        pages: &[Page],
        data: &[u8],
    ) -> (Status, Vec<Page>, Vec<u8>) {
        let start = Start {
            count: (pages.len() as u32).into(),
            writes: writes.into(),
            ..Start::new_zeroed()
        };
        let head = [start.as_bytes(), pages.as_bytes()].concat();
        let (received, data) = self.ask(kind, &head, data).unwrap();
        let found = self.head.get(size_of::<Start>()..).unwrap_or_default();
        (
            received.status,
            <[Page]>::ref_from_bytes(found).unwrap().to_vec(),
            data,
        )
    }

    fn write(&mut self, number: u64, version: u64, value: u8) -> Status {
        self.ask_list(Kind::Write, 0, &[page(number, version)], &[value; PAGE_LEN])
            .0
    }

    fn read(&mut self, number: u64) -> (u64, u8) {
        let (status, found, data) = self.ask_list(Kind::Read, 0, &[page(number, 0)], &[]);
        assert_eq!(status, Status::Ok);
        assert!(data.iter().all(|byte| *byte == data[0]));
        (found[0].version.get(), data[0])
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.channel.close();
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || joined.is_none_or(|it| it.is_ok()));
    }
}

fn attach(name: u8, pages: u64) -> Attach {
    Attach {
        oldest: VERSION.into(),
        newest: VERSION.into(),
        client: [name; 16],
        pages: pages.into(),
        ..Attach::new_zeroed()
    }
}

fn page(number: u64, version: u64) -> Page {
    Page {
        number: number.into(),
        version: version.into(),
        seal: [version as u8; 16],
    }
}

#[test]
fn a_page_is_given_back_with_its_version_and_seal_and_one_that_is_not_there_with_none() {
    let server = server(config());
    let (mut peer, attached) = Peer::attached(&server, 1, 60);
    assert_eq!((attached.pages.get(), attached.credits.get()), (60, 4));
    assert_eq!(peer.write(7, 3, 9), Status::Ok);
    let pages = [page(6, 0), page(7, 0), page(8, 0)];
    let (status, found, data) = peer.ask_list(Kind::Read, 0, &pages, &[]);
    assert_eq!(status, Status::Ok);
    assert_eq!(found[1], page(7, 3));
    assert_eq!([found[0].version.get(), found[2].version.get()], [0, 0]);
    assert!(data[..PAGE_LEN].iter().all(|byte| *byte == 0));
    assert!(data[PAGE_LEN..2 * PAGE_LEN].iter().all(|byte| *byte == 9));
    assert!(data[2 * PAGE_LEN..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_retry_that_arrives_late_changes_nothing() {
    let server = server(config());
    let (mut peer, _) = Peer::attached(&server, 1, 10);
    assert_eq!(peer.write(1, 5, 5), Status::Ok);
    assert_eq!(peer.write(1, 4, 4), Status::Ok);
    assert_eq!(peer.read(1), (5, 5));
    assert_eq!(peer.write(1, 5, 5), Status::Ok, "the same again");
    let (status, ..) = peer.ask_list(Kind::Free, 0, &[page(1, 4)], &[]);
    assert_eq!((status, peer.read(1)), (Status::Ok, (5, 5)), "an old free");
    peer.ask_list(Kind::Free, 0, &[page(1, 5)], &[]);
    assert_eq!(peer.read(1), (0, 0));
    assert_eq!(server.summary().stored_pages, 0);
    assert_eq!(server.summary().lent[0].1.pages, 0);
}

#[test]
fn an_exchange_writes_and_then_reads() {
    let server = server(config());
    let (mut peer, _) = Peer::attached(&server, 1, 10);
    peer.write(2, 1, 2);
    let pages = [page(1, 2), page(2, 0)];
    let (status, found, data) = peer.ask_list(Kind::Exchange, 1, &pages, &[1; PAGE_LEN]);
    assert_eq!((status, found.len(), data[0]), (Status::Ok, 1, 2));
    assert_eq!(peer.read(1), (2, 1));
}

#[test]
fn quotas_hold_and_what_is_promised_is_there() {
    let server = server(config());
    let mut greedy = Peer::new(&server);
    let (status, attached) = greedy.attach(&attach(1, 61));
    assert_eq!((status, attached.unwrap().pages.get()), (Status::Quota, 0));
    let (mut one, _) = Peer::attached(&server, 2, 60);
    let mut other = Peer::new(&server);
    let (status, _) = other.attach(&attach(3, 41));
    assert_eq!(status, Status::Quota, "60 of 100 are promised");
    for number in 0..60 {
        assert_eq!(one.write(number, 1, 1), Status::Ok);
    }
    assert_eq!(one.write(60, 1, 1), Status::Quota);
    assert_eq!(one.write(u64::MAX, 1, 1), Status::Quota);
    assert_eq!(server.summary().stored_pages, 60);
}

#[test]
fn a_client_is_who_knows_its_ticket() {
    let server = server(config());
    let (mut peer, attached) = Peer::attached(&server, 1, 10);
    peer.write(0, 1, 42);
    let mut thief = Peer::new(&server);
    assert_eq!(thief.attach(&attach(1, 10)).0, Status::Denied);
    drop(peer);
    let mut again = Peer::new(&server);
    let known = Attach {
        ticket: attached.ticket,
        ..attach(1, 10)
    };
    let (status, found) = again.attach(&known);
    assert_eq!(status, Status::Ok);
    assert_eq!(found.unwrap().ticket, attached.ticket);
    assert_eq!(again.read(0), (1, 42));
    // Another's page of the same number is another page.
    let (mut other, _) = Peer::attached(&server, 2, 10);
    assert_eq!(other.read(0), (0, 0));
}

#[test]
fn pages_of_who_has_gone_for_long_are_forgotten_and_their_room_is_given_to_others() {
    let server = server(Config {
        keep: Duration::ZERO,
        ..config()
    });
    let (mut peer, attached) = Peer::attached(&server, 1, 60);
    peer.write(0, 1, 42);
    drop(peer);
    thread::sleep(Duration::from_millis(5));
    server.forget_lost();
    assert_eq!(
        (server.summary().clients, server.summary().promised_pages),
        (0, 0)
    );
    let (mut again, _) = Peer::attached(&server, 2, 60);
    assert_eq!(again.read(0), (0, 0));
    let mut late = Peer::new(&server);
    let known = Attach {
        ticket: attached.ticket,
        ..attach(1, 10)
    };
    let (_, found) = late.attach(&known);
    assert_ne!(
        found.unwrap().ticket,
        attached.ticket,
        "it has to learn that nothing is there"
    );
}

#[test]
fn a_server_that_drains_gives_pages_back_and_takes_none() {
    let server = server(config());
    let (mut peer, _) = Peer::attached(&server, 1, 10);
    peer.write(0, 1, 42);
    server.drain(Duration::from_secs(3));
    let (event, _) = peer.receive().unwrap();
    assert_eq!(event.kind, Kind::Drain);
    assert_eq!(peer.write(1, 1, 1), Status::Draining);
    assert_eq!(peer.read(0), (1, 42));
    assert_eq!(Peer::new(&server).attach(&attach(2, 1)).0, Status::Draining);
    let (received, _) = peer.ask(Kind::Detach, &[], &[]).unwrap();
    assert_eq!(received.status, Status::Ok);
    assert_eq!(server.summary().clients, 0);
}

#[test]
fn what_breaks_the_protocol_is_answered_and_ends_the_connection() {
    let server = server(config());
    let list = |count: u32, pages: usize| {
        let start = Start {
            count: count.into(),
            ..Start::new_zeroed()
        };
        [start.as_bytes(), vec![page(0, 1); pages].as_bytes()].concat()
    };
    let data = vec![0; PAGE_LEN];
    let offences: Vec<(Kind, Vec<u8>, &[u8])> = vec![
        (Kind::Write, list(0, 0), &[]),
        (Kind::Write, list(2, 1), &data),
        (Kind::Write, list(1, 1), &[]),
        (Kind::Read, list(1, 1), &data),
        (Kind::Read, list(MAX_PAGES as u32 + 1, 1), &[]),
        (Kind::Allocate, vec![0; 7], &[]),
        (Kind::Attach, attach(9, 1).as_bytes().to_vec(), &[]),
        (Kind::Drain, vec![], &[]),
    ];
    for (kind, head, data) in offences {
        let (mut peer, _) = Peer::attached(&server, 1, 10);
        let (received, _) = peer.ask(kind, &head, data).unwrap();
        assert_eq!(received.status, Status::BadRequest, "{kind:?} {head:?}");
        assert!(
            matches!(peer.receive(), Err(ChannelError::Closed)),
            "{kind:?}"
        );
        drop(peer);
        server.clients().clear();
    }
    assert_eq!(server.counters().offences.load(Ordering::Relaxed), 8);
    // Before it attaches a client may do nothing.
    let mut peer = Peer::new(&server);
    assert_eq!(
        peer.ask(Kind::Ping, &[], &[]).unwrap().0.status,
        Status::Denied
    );
}

#[test]
fn damage_on_the_way_is_found_where_the_client_wants_it_checked() {
    let server = server(config());
    let mut peer = Peer::new(&server);
    let checked = Attach {
        features: Features::CHECK.into(),
        ..attach(1, 10)
    };
    peer.attach(&checked);
    assert_eq!(peer.write(0, 1, 1), Status::Damaged);
    let mut right = page(0, 1);
    right.seal[..8].copy_from_slice(&xxhash_rust::xxh3::xxh3_64(&[1; PAGE_LEN]).to_le_bytes());
    assert_eq!(
        peer.ask_list(Kind::Write, 0, &[right], &[1; PAGE_LEN]).0,
        Status::Ok
    );
}
