//! A client, and a server of which several threads want something at once.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pager_wire::body::Features;
use pager_wire::{PAGE_LEN, Page};

use super::super::channel::{tcp, unix};
use super::super::holder::{Holder, HolderError, Verb};
use super::super::server::{Config, Server};
use super::*;
use crate::hnode::hbm::Hbm;
use crate::hnode::link::Link;
use crate::pager::channel::Channel;

const PAGES: u64 = 4096;

#[derive(Clone, Copy, Debug)]
enum Over {
    Unix,
    Tcp,
}

fn client(over: Over) -> (Client, Arc<Server>) {
    let ram = Hbm::new("ram", 2 * PAGES * PAGE_LEN as u64, Link::new(0.0, 0.0)).unwrap();
    let config = Config {
        quota_pages: PAGES,
        clients: 1,
        credits: 8,
        keep: Duration::from_secs(60),
        token: [9; 32],
        origin: None,
    };
    let server = Arc::new(Server::new(config, vec![Box::new(ram)]).unwrap());
    let lends = Arc::clone(&server);
    let dial = move || {
        let lends = Arc::clone(&lends);
        match over {
            Over::Unix => {
                let (near, far) = std::os::unix::net::UnixStream::pair()?;
                thread::spawn(move || lends.serve(Arc::new(unix::accept(far).unwrap())));
                Ok(Arc::new(unix::channel(near)?) as Arc<dyn Channel>)
            }
            Over::Tcp => {
                let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
                let near = std::net::TcpStream::connect(listener.local_addr()?)?;
                let (far, _) = listener.accept()?;
                thread::spawn(move || lends.serve(Arc::new(tcp::channel(far).unwrap())));
                Ok(Arc::new(tcp::channel(near)?) as Arc<dyn Channel>)
            }
        }
    };
    let options = Options {
        pages: PAGES,
        features: Features::RING,
        token: [9; 32],
        origin: [0; 16],
    };
    (
        Client::attach("test".into(), Box::new(dial), options).unwrap(),
        server,
    )
}

fn page(number: u64, version: u64) -> Page {
    Page {
        number: number.into(),
        version: version.into(),
        seal: [number as u8; 16],
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn write(client: &Client, pages: &[Page], value: u8) -> Ticket {
    client
        .start(
            Verb::Write,
            pages,
            &vec![value; pages.len() * PAGE_LEN],
            later(),
        )
        .unwrap()
}

#[test]
fn each_thread_gets_its_own_answers_whoever_receives_them() {
    for over in [Over::Unix, Over::Tcp] {
        let (client, _server) = client(over);
        thread::scope(|scope| {
            for thread in 0..6_u64 {
                let client = &client;
                scope.spawn(move || {
                    for round in 1..60_u64 {
                        let count = 1 + (thread * 7 + round) % 40;
                        let pages: Vec<_> =
                            (0..count).map(|at| page(thread * 64 + at, round)).collect();
                        let value = (thread * 50 + round) as u8;
                        let written = write(client, &pages, value);
                        client
                            .finish(written, &mut Vec::new(), &mut [], later())
                            .unwrap();
                        let verb = if round % 3 == 0 {
                            Verb::ReadAhead
                        } else {
                            Verb::Read
                        };
                        let mut into = vec![0; pages.len() * PAGE_LEN];
                        let mut found = Vec::new();
                        let read = client.start(verb, &pages, &[], later()).unwrap();
                        client.finish(read, &mut found, &mut into, later()).unwrap();
                        assert_eq!(found, pages, "{over:?}");
                        assert!(into.iter().all(|byte| *byte == value), "{over:?}");
                    }
                });
            }
        });
        let state = client.lock();
        assert!(state.pending.is_empty());
    }
}

#[test]
fn more_requests_than_there_are_credits_wait_for_each_other() {
    for over in [Over::Unix, Over::Tcp] {
        let (client, server) = client(over);
        let tickets: Vec<_> = (0..100)
            .map(|at| write(&client, &[page(at, 1)], 1))
            .collect();
        for ticket in tickets {
            let until = later();
            let ended = loop {
                client.receive(until);
                if let Some(ended) = client.ended(&ticket) {
                    break ended;
                }
                assert!(Instant::now() < until);
            };
            assert_eq!(ended, Ok(()));
        }
        assert_eq!(server.summary().stored_pages, 100);
    }
}

#[test]
fn answers_that_nobody_waits_for_any_more_give_their_slots_back() {
    for over in [Over::Unix, Over::Tcp] {
        let (client, _server) = client(over);
        for _ in 0..50 {
            let ticket = client
                .start(Verb::Read, &[page(1, 1)], &[], later())
                .unwrap();
            let late = client.finish(ticket, &mut Vec::new(), &mut [0; PAGE_LEN], Instant::now());
            assert!(late.is_ok() || late == Err(HolderError::Late), "{late:?}");
        }
        let pages: Vec<_> = (0..64).map(|at| page(at, 2)).collect();
        let ticket = client.start(Verb::Read, &pages, &[], later()).unwrap();
        client
            .finish(
                ticket,
                &mut Vec::new(),
                &mut vec![0; 64 * PAGE_LEN],
                later(),
            )
            .unwrap();
    }
}

#[test]
fn a_refusal_is_an_answer_and_the_connection_goes_on() {
    let (client, _server) = client(Over::Unix);
    let ticket = write(&client, &[page(PAGES, 1)], 1);
    let refused = client.finish(ticket, &mut Vec::new(), &mut [], later());
    assert!(
        matches!(refused, Err(HolderError::Refused(_))),
        "{refused:?}"
    );
    assert!(client.health().up);
}

#[test]
fn who_does_not_know_the_token_is_told() {
    let (known, server) = client(Over::Unix);
    drop(known);
    let dial = move || {
        let server = Arc::clone(&server);
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        thread::spawn(move || server.serve(Arc::new(unix::accept(far).unwrap())));
        Ok(Arc::new(unix::channel(near)?) as Arc<dyn Channel>)
    };
    let options = Options {
        pages: 1,
        features: 0,
        token: [0; 32],
        origin: [0; 16],
    };
    let refused = Client::attach("test".into(), Box::new(dial), options)
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("give the server's token"),
        "{refused}"
    );
}
