//! Calls through the queue of a guest that lends memory, with a driver by hand.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use gmem_core::accel::Advice;
use gmem_core::pager::wire::zerocopy::{FromBytes, IntoBytes};
use gmem_core::pager::wire::{HEADER_LEN, Header, Kind, PAGE_LEN, Status};
use gmem_wire::gmem::{Call, call, feature, queue};
use proptest::prelude::*;

use super::*;
use crate::virtio::Device;
use crate::virtio::testing::{Bench, Part, Sent, attacks_like};

const LIMIT: Duration = Duration::from_secs(20);
const ROOM: u32 = Call::ROOM as u32;

/// A memory system that nobody asks.
struct Idle;

impl Nodes for Idle {
    fn count(&self) -> u32 {
        0
    }

    fn node(&self, _: u32) -> Option<Node> {
        None
    }

    fn advise(&self, _: u32, _: u64, _: u64, _: Advice) -> Result<(), NodeError> {
        Err(NodeError::Unsupported)
    }

    fn copy(&self, _: u32, _: u64, _: u64, _: u64) -> Result<(), NodeError> {
        Err(NodeError::Unsupported)
    }

    fn bytes_in(&self, _: u32, _: u64, _: u64) -> Result<u64, NodeError> {
        Err(NodeError::Unsupported)
    }

    fn set_cap(&self, _: u32, _: u64) -> Result<(), NodeError> {
        Err(NodeError::Unsupported)
    }
}

fn lending() -> (Arc<Calls>, Bench<Gmem>) {
    let calls = Calls::new().unwrap();
    let gmem = Gmem::lending(Box::new(Idle), Arc::clone(&calls)).unwrap();
    (calls, Bench::started(gmem))
}

fn request(kind: Kind, correlation: u64, pages: usize) -> Message {
    let head = vec![7; 8];
    let data: Vec<u8> = (0..pages * PAGE_LEN).map(|at| (at / 8) as u8).collect();
    let header = Header {
        head_len: (head.len() as u32).into(),
        data_len: (data.len() as u32).into(),
        ..Header::request(kind, correlation)
    };
    Message { header, head, data }
}

/// Posts a chain with room for a call.
fn post(bench: &mut Bench<Gmem>) -> Sent {
    let sent = bench.send(queue::PAGER, &[Part::In(ROOM)]);
    bench.notify(queue::PAGER).unwrap();
    sent
}

/// Waits until a call comes into the chain; its beginning and all its bytes.
fn call_in(bench: &mut Bench<Gmem>, sent: &Sent) -> (Call, Vec<u8>) {
    let mut written = None;
    bench
        .serve_until(|bench| {
            if let Some(used) = bench.used(queue::PAGER).pop() {
                assert_eq!(used.head, sent.head);
                written = Some(used.written as usize);
            }
            written.is_some()
        })
        .unwrap();
    let room = sent.parts.len() - 1;
    let mut bytes = bench.part(sent, room);
    bytes.truncate(written.unwrap());
    let call = Call::from_bytes(bytes[..Call::SIZE].try_into().unwrap());
    (call, bytes)
}

/// What a driver answers, as it lies in memory.
fn answer(connection: u64, header: Header, data: &[u8]) -> Vec<u8> {
    let header = Header {
        data_len: (data.len() as u32).into(),
        ..header
    };
    let call = Call {
        connection,
        kind: call::MESSAGE,
        len: HEADER_LEN as u32,
    };
    let mut bytes = [&call.to_bytes()[..], header.as_bytes()].concat();
    if !data.is_empty() {
        bytes.resize(Call::DATA_AT, 0);
        bytes.extend_from_slice(data);
    }
    bytes
}

/// Sends an answer with a chain that has room for the next call.
fn reply(bench: &mut Bench<Gmem>, bytes: Vec<u8>) -> Sent {
    let sent = bench.send(queue::PAGER, &[Part::Out(bytes), Part::In(ROOM)]);
    bench.notify(queue::PAGER).unwrap();
    sent
}

#[test]
fn a_request_reaches_the_guest_whole_and_its_reply_comes_back() {
    let (calls, mut bench) = lending();
    let line = calls.connect().unwrap();
    let sent = post(&mut bench);
    let asking = thread::spawn(move || {
        let reply = line.ask(request(Kind::Write, 9, 3), LIMIT);
        (reply, line)
    });
    let (call, bytes) = call_in(&mut bench, &sent);
    assert_eq!(
        (call.kind, call.len as usize),
        (call::MESSAGE, HEADER_LEN + 8)
    );
    let header = Header::read_from_bytes(&bytes[Call::SIZE..][..HEADER_LEN]).unwrap();
    assert_eq!(
        (header.correlation.get(), header.data_len.get()),
        (9, 3 * 4096)
    );
    assert_eq!(bytes[Call::SIZE + HEADER_LEN..][..8], [7; 8]);
    assert_eq!(bytes[Call::DATA_AT..], request(Kind::Write, 9, 3).data);
    let pages = vec![0x5a; 2 * PAGE_LEN];
    let back = answer(call.connection, header.reply(Status::Ok), &pages);
    let sent = reply(&mut bench, back);
    let (replied, line) = asking.join().unwrap();
    assert_eq!(replied.unwrap().data, pages);
    // The guest hears of the end.
    drop(line);
    let (closed, bytes) = call_in(&mut bench, &sent);
    assert_eq!(
        (closed.kind, closed.connection),
        (call::CLOSED, call.connection)
    );
    assert_eq!(bytes.len(), Call::SIZE);
    assert_eq!(bench.device.metrics()["calls"], 2);
}

/// An answer to a connection's request that is none.
type Wrong<'a> = &'a dyn Fn(u64, Header) -> Vec<u8>;

#[test]
fn what_the_guest_answers_wrongly_breaks_that_connection_and_no_other() {
    let right = |header: Header| header.reply(Status::Ok);
    let wrong: [(&str, Wrong<'_>); 9] = [
        ("no reply", &|to, header| answer(to, header, &[])),
        ("other correlation", &|to, header| {
            let header = Header {
                correlation: 1.into(),
                ..right(header)
            };
            answer(to, header, &[])
        }),
        ("other kind", &|to, header| {
            let kind = (Kind::Detach as u16).into();
            answer(
                to,
                Header {
                    kind,
                    ..right(header)
                },
                &[],
            )
        }),
        ("no magic", &|to, header| {
            let magic = 0.into();
            answer(
                to,
                Header {
                    magic,
                    ..right(header)
                },
                &[],
            )
        }),
        ("too short a head", &|to, header| {
            let head_len = 8.into();
            answer(
                to,
                Header {
                    head_len,
                    ..right(header)
                },
                &[],
            )
        }),
        ("too few data", &|to, header| {
            let mut bytes = answer(to, right(header), &[1; PAGE_LEN]);
            bytes.truncate(Call::DATA_AT + 5);
            bytes
        }),
        ("half a page", &|to, header| {
            answer(to, right(header), &[1; 2048])
        }),
        ("no message", &|to, header| {
            let mut bytes = answer(to, right(header), &[]);
            bytes[8] = 9;
            bytes
        }),
        ("a length beyond all", &|to, header| {
            let mut bytes = answer(to, right(header), &[]);
            bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
            bytes
        }),
    ];
    for (what, wrong) in wrong {
        let (calls, mut bench) = lending();
        let [first, second] = [(); 2].map(|()| calls.connect().unwrap());
        first.hand_over(request(Kind::Ping, 5, 0));
        second.hand_over(request(Kind::Ping, 6, 0));
        let one = post(&mut bench);
        let (call, bytes) = call_in(&mut bench, &one);
        let header = Header::read_from_bytes(&bytes[Call::SIZE..][..HEADER_LEN]).unwrap();
        let two = reply(&mut bench, wrong(call.connection, header));
        let refused = first.ask(request(Kind::Ping, 7, 0), LIMIT);
        assert!(
            matches!(refused, Err(AskError::Nonsense(_))),
            "{what}: {refused:?}"
        );
        // The other one's is under way in the chain that came with the nonsense.
        let (call, bytes) = call_in(&mut bench, &two);
        let header = Header::read_from_bytes(&bytes[Call::SIZE..][..HEADER_LEN]).unwrap();
        assert_eq!(header.correlation.get(), 6, "{what}");
        reply(&mut bench, answer(call.connection, right(header), &[]));
        assert!(second.ask(Message::default(), LIMIT).is_ok(), "{what}");
    }
}

#[test]
fn an_answer_to_nobody_is_dropped() {
    let (calls, mut bench) = lending();
    let line = calls.connect().unwrap();
    line.hand_over(request(Kind::Ping, 5, 0));
    let header = Header::request(Kind::Ping, 5).reply(Status::Ok);
    let sent = reply(&mut bench, answer(77, header, &[]));
    let (call, _) = call_in(&mut bench, &sent);
    reply(&mut bench, answer(call.connection, header, &[]));
    assert!(line.ask(Message::default(), LIMIT).is_ok());
}

#[test]
fn no_more_connections_than_there_are_places_even_while_the_guest_has_not_heard_of_their_ends() {
    let (calls, mut bench) = lending();
    let lines: Vec<Line> = (0..CONNECTIONS).map(|_| calls.connect().unwrap()).collect();
    assert!(calls.connect().is_none());
    let mut sent = post(&mut bench);
    for line in &lines {
        line.hand_over(request(Kind::Ping, 1, 0));
    }
    for _ in &lines {
        call_in(&mut bench, &sent);
        sent = post(&mut bench);
    }
    // There is one chain: the guest hears of one end.
    drop(lines);
    call_in(&mut bench, &sent);
    let again = calls.connect();
    assert!(again.is_some() && calls.connect().is_none());
    // Whom the guest never heard of is gone at once.
    drop(again);
    assert!(calls.connect().is_some());
}

#[test]
fn a_request_whose_time_has_passed_is_not_given_to_the_guest() {
    let (calls, mut bench) = lending();
    let line = calls.connect().unwrap();
    let mut late = request(Kind::Read, 3, 0);
    late.header.deadline_us = 1.into();
    line.hand_over(late);
    thread::sleep(Duration::from_millis(2));
    post(&mut bench);
    let reply = line.ask(Message::default(), LIMIT).unwrap();
    assert_eq!(reply.header.status.get(), Status::Expired as u16);
    assert_eq!(reply.header.correlation.get(), 3);
    assert!(bench.used(queue::PAGER).is_empty());
}

#[test]
fn a_reset_ends_every_connection() {
    let (calls, mut bench) = lending();
    let [asks, idle] = [(); 2].map(|()| calls.connect().unwrap());
    asks.hand_over(request(Kind::Ping, 1, 0));
    post(&mut bench);
    bench.device.reset();
    for line in [&asks, &idle] {
        let refused = line.ask(request(Kind::Ping, 2, 0), LIMIT);
        assert_eq!(refused.unwrap_err(), AskError::Reset);
    }
}

#[test]
fn who_is_to_hold_still_gives_its_chains_back_empty() {
    let (_calls, mut bench) = lending();
    let sent = post(&mut bench);
    bench.with(|device, guest| device.settle(guest)).unwrap();
    let used = bench.used(queue::PAGER);
    assert_eq!(
        (used.len(), used[0].head, used[0].written),
        (1, sent.head, 0)
    );
}

#[test]
fn the_guest_is_told_to_stop_when_nothing_else_waits() {
    let (calls, mut bench) = lending();
    let line = calls.connect().unwrap();
    calls.end();
    line.hand_over(request(Kind::Ping, 1, 0));
    let sent = post(&mut bench);
    assert_eq!(call_in(&mut bench, &sent).0.kind, call::MESSAGE);
    let sent = post(&mut bench);
    assert_eq!(call_in(&mut bench, &sent).0.kind, call::END);
}

#[test]
fn chains_of_another_shape_break_the_device() {
    let wrong = [
        vec![Part::In(ROOM - 1)],
        vec![Part::Out(vec![0; Call::SIZE - 1]), Part::In(ROOM)],
        vec![Part::Out(vec![0; Call::ROOM + 1]), Part::In(ROOM)],
        vec![Part::Out(vec![0; 64])],
    ];
    for parts in wrong {
        let (_calls, mut bench) = lending();
        bench.send(queue::PAGER, &parts);
        assert!(bench.notify(queue::PAGER).is_err(), "{} parts", parts.len());
    }
}

#[test]
fn the_queue_is_there_only_where_memory_may_be_lent() {
    let gmem = Gmem::new(Box::new(Idle)).unwrap();
    assert_eq!(gmem.queue_sizes().len(), 2);
    assert_eq!(gmem.features() & feature::PAGER, 0);
    let (_calls, bench) = lending();
    assert_eq!(bench.device.queue_sizes().len(), 3);
    assert_ne!(bench.device.features() & feature::PAGER, 0);
    // A driver that does not lend leaves those who ask waiting for one that does.
    let (calls, mut bench) = lending();
    bench.device.reset();
    bench.set_up();
    bench.start(feature::EVENTS).unwrap();
    let line = calls.connect().unwrap();
    post(&mut bench);
    let refused = line.ask(request(Kind::Ping, 1, 0), Duration::from_millis(20));
    assert_eq!(refused.unwrap_err(), AskError::Late);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..Default::default() })]

    #[test]
    fn no_driver_that_lends_makes_it_write_beside_guest_memory(
        attack in attacks_like(&[&[(32, false), (40, true)], &[(16, true)], &[(48, false), (ROOM, true)]])
    ) {
        let (calls, mut bench) = lending();
        let lines: Vec<Line> = (0..4).map(|_| calls.connect().unwrap()).collect();
        for line in &lines {
            line.hand_over(request(Kind::Write, 1, 64));
        }
        let _ = bench.attack(&attack);
    }

    #[test]
    fn no_bytes_are_an_answer_but_the_right_ones(
        bytes in prop::collection::vec(any::<u8>(), Call::SIZE..256),
        begins in any::<bool>(),
    ) {
        let (calls, mut bench) = lending();
        let line = calls.connect().unwrap();
        line.hand_over(request(Kind::Read, 4, 0));
        let sent = post(&mut bench);
        let (call, _) = call_in(&mut bench, &sent);
        let mut bytes = bytes;
        if begins {
            bytes[..8].copy_from_slice(&call.connection.to_le_bytes());
            bytes[8..12].fill(0);
        }
        reply(&mut bench, bytes);
        let answered = line.ask(Message::default(), Duration::ZERO);
        prop_assert!(answered.is_err());
    }
}
