//! How connections end.

use std::io::{Read, Write};
use std::net::Shutdown;

use super::*;
use crate::virtio::vsock::request::flag;

#[test]
fn a_host_that_ends_its_side_still_hears_the_guest() {
    let mut guest = Guest::new();
    let mut stream = guest.connected();
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut packets = guest.wait();
    while packets.len() < 2 {
        packets.extend(guest.wait());
    }
    assert_eq!(packets[0].1, b"last words");
    assert_eq!(
        (packets[1].0.op, packets[1].0.flags),
        (op::SHUTDOWN, flag::SEND)
    );
    guest.send(data(b"answer"), b"answer");
    assert_eq!(drain(&stream), b"answer");
}

#[test]
fn a_guest_that_ends_its_side_still_hears_the_host() {
    let mut guest = Guest::new();
    let mut stream = guest.connected();
    guest.send(data(b"question"), b"question");
    let shutdown = Header {
        flags: flag::SEND,
        ..packet(op::SHUTDOWN)
    };
    guest.send(shutdown, &[]);
    let mut question = String::new();
    stream.set_nonblocking(false).unwrap();
    stream.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    stream.write_all(b"answer").unwrap();
    assert_eq!(guest.wait()[0].1, b"answer");
    // More from the guest is against its word.
    guest.send(data(b"x"), b"x");
    assert_eq!(guest.wait()[0].0.op, op::RST);
}

#[test]
fn a_guest_that_closes_is_confirmed_after_its_bytes_have_arrived() {
    let mut guest = Guest::new();
    let stream = guest.connected();
    guest.send(data(b"bye"), b"bye");
    let shutdown = Header {
        flags: flag::SEND | flag::RECEIVE,
        ..packet(op::SHUTDOWN)
    };
    guest.send(shutdown, &[]);
    assert_eq!(guest.wait()[0].0.op, op::RST);
    assert_eq!(drain(&stream), b"bye");
    assert!(is_at_its_end(&stream));
    // The ports are free again.
    std::fs::remove_file(beside(&guest.uds, 52)).unwrap();
    guest.connected();
}

#[test]
fn a_host_that_closes_is_announced_in_both_directions() {
    let mut guest = Guest::new();
    drop(guest.connected());
    let mut told = 0;
    while told != flag::SEND | flag::RECEIVE {
        told |= guest.wait_for(op::SHUTDOWN).flags;
    }
    // Bytes that crossed the news on the way are lost, and no offence.
    guest.send(data(b"late"), b"late");
    guest.serve();
    assert!(
        guest
            .received()
            .iter()
            .all(|(header, _)| header.op != op::RST)
    );
}

#[test]
fn a_reset_ends_all_connections() {
    let mut guest = Guest::new();
    let stream = guest.connected();
    guest.bench.device.reset();
    assert!(is_at_its_end(&stream));
}

#[test]
fn after_a_restore_the_guest_is_told_that_its_connections_are_gone() {
    let mut guest = Guest::new();
    let sent = guest.bench.send(EVENT, &[Part::In(4)]);
    guest.bench.notify(EVENT).unwrap();
    assert!(guest.bench.used(EVENT).is_empty());
    let state = guest.bench.device.state();
    guest.bench.device.restore(&state).unwrap();
    guest.bench.notify(EVENT).unwrap();
    assert_eq!(guest.bench.used(EVENT)[0].written, 4);
    assert_eq!(guest.bench.part(&sent, 0), [0; 4]);
    let other = State { cid: 99 };
    let refused = guest.bench.device.restore(&other).unwrap_err();
    assert!(refused.to_string().contains("cid=99"));
}
