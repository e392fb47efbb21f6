//! A network device and its driver.

use std::num::NonZeroU64;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::virtio::testing::{Bench, Part, attacks};
use crate::virtio::{Device, Limit, Rate};

const RECEIVE: usize = 0;
const SEND: usize = 1;

/// A device whose wire ends in a socket.
fn started(options: NetOptions) -> (Bench<Net>, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let device = Net::new(Tap::socket(ours), options).unwrap();
    (Bench::started(device), theirs)
}

/// A packet with its header: `len` bytes that tell where they are.
fn packet(len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    packet[..12].fill(0);
    packet
}

fn wire(socket: &UnixDatagram) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 17];
    let len = socket.recv(&mut bytes).ok()?;
    Some(bytes[..len].into())
}

#[test]
fn a_packet_in_pieces_goes_out_whole() {
    let (mut bench, socket) = started(NetOptions::default());
    let packet = packet(1000);
    let (header, rest) = packet.split_at(12);
    let (begin, end) = rest.split_at(100);
    bench.send(
        SEND,
        &[header, begin, end].map(|part| Part::Out(part.into())),
    );
    bench.notify(SEND).unwrap();
    assert_eq!(wire(&socket), Some(packet));
    assert_eq!(bench.used(SEND)[0].written, 0);
    assert!(bench.interrupted());
    assert_eq!(bench.device.metrics()["sent_bytes"], 1000);
}

#[test]
fn packets_go_out_in_order_and_all_are_given_back() {
    let (mut bench, socket) = started(NetOptions::default());
    for len in [100, 200, 300] {
        bench.send(SEND, &[Part::Out(packet(len))]);
    }
    bench.notify(SEND).unwrap();
    assert_eq!(bench.used(SEND).len(), 3);
    let lengths: Vec<usize> = std::iter::from_fn(|| Some(wire(&socket)?.len())).collect();
    assert_eq!(lengths, [100, 200, 300]);
}

#[test]
fn what_is_no_packet_is_dropped_and_those_behind_it_are_sent() {
    let (mut bench, socket) = started(NetOptions::default());
    bench.send(SEND, &[Part::Out(vec![0; 5])]);
    bench.send(SEND, &[Part::Out(vec![0; 12 + 18 + (64 << 10) + 1])]);
    bench.send(SEND, &[Part::Out(packet(60))]);
    bench.notify(SEND).unwrap();
    assert_eq!(bench.used(SEND).len(), 3);
    assert_eq!(wire(&socket).unwrap().len(), 60);
    assert_eq!(bench.device.metrics()["send_dropped"], 2);
}

#[test]
fn a_wire_that_is_full_loses_packets_and_no_time() {
    let (mut bench, _socket) = started(NetOptions::default());
    for _ in 0..1000 {
        bench.send(SEND, &[Part::Out(packet(1500))]);
    }
    bench.notify(SEND).unwrap();
    assert_eq!(bench.used(SEND).len(), 1000);
    assert!(bench.device.metrics()["send_dropped"].as_u64().unwrap() > 0);
}

#[test]
fn a_packet_comes_in_with_a_header_that_says_one_buffer() {
    let (mut bench, socket) = started(NetOptions::default());
    let sent = bench.send(RECEIVE, &[Part::In(12), Part::In(2000)]);
    let mut packet = packet(1000);
    socket.send(&packet).unwrap();
    bench.serve_sources(Duration::from_secs(1)).unwrap();
    assert_eq!(bench.used(RECEIVE)[0].written, 1000);
    assert!(bench.interrupted());
    packet[10] = 1;
    let received = [bench.part(&sent, 0), bench.part(&sent, 1)].concat();
    assert_eq!(received[..1000], packet);
    assert_eq!(received[1000..], [0xee; 1012]);
}

#[test]
fn packets_wait_for_buffers_without_keeping_the_device_busy() {
    let (mut bench, socket) = started(NetOptions::default());
    for len in [100, 200, 300] {
        socket.send(&packet(len)).unwrap();
    }
    bench.serve_sources(Duration::from_secs(1)).unwrap();
    assert!(
        !bench.device.wants(0),
        "there is nothing to do about the tap"
    );
    bench.send(RECEIVE, &[Part::In(2000)]);
    bench.send(RECEIVE, &[Part::In(2000)]);
    bench.notify(RECEIVE).unwrap();
    let lengths: Vec<u32> = bench
        .used(RECEIVE)
        .iter()
        .map(|used| used.written)
        .collect();
    assert_eq!(lengths, [100, 200]);
    bench.send(RECEIVE, &[Part::In(2000)]);
    bench.notify(RECEIVE).unwrap();
    assert_eq!(bench.used(RECEIVE)[0].written, 300);
    assert!(bench.device.wants(0));
}

#[test]
fn a_packet_too_large_for_its_buffer_is_dropped_and_the_buffer_kept() {
    let (mut bench, socket) = started(NetOptions::default());
    bench.send(RECEIVE, &[Part::In(100)]);
    socket.send(&packet(101)).unwrap();
    socket.send(&packet(99)).unwrap();
    bench.serve_sources(Duration::from_secs(1)).unwrap();
    let used = bench.used(RECEIVE);
    assert_eq!((used.len(), used[0].written), (1, 99));
    assert_eq!(bench.device.metrics()["receive_too_large"], 1);
}

#[test]
fn all_packets_for_which_there_is_room_arrive() {
    let (mut bench, socket) = started(NetOptions::default());
    for _ in 0..20 {
        bench.send(RECEIVE, &[Part::In(100)]);
    }
    let mut sent = 0;
    while sent < 20 && socket.send(&packet(100)).is_ok() {
        sent += 1;
    }
    let mut received = 0;
    bench
        .serve_until(|bench| {
            received += bench.used(RECEIVE).len();
            received == sent
        })
        .unwrap();
    assert_eq!(bench.device.metrics()["received_packets"], sent);
}

fn slow() -> Option<Rate> {
    let one = NonZeroU64::new(1).unwrap();
    Some(Rate {
        bytes: None,
        operations: Some(Limit {
            per_second: NonZeroU64::new(20).unwrap(),
            burst: one,
        }),
    })
}

#[test]
fn rate_limits_hold_packets_back_in_both_directions() {
    let (mut bench, socket) = started(NetOptions {
        receive: slow(),
        send: slow(),
        ..NetOptions::default()
    });
    let began = Instant::now();
    for _ in 0..3 {
        bench.send(SEND, &[Part::Out(packet(100))]);
        bench.send(RECEIVE, &[Part::In(200)]);
        socket.send(&packet(100)).unwrap();
    }
    bench.notify(SEND).unwrap();
    bench.notify(RECEIVE).unwrap();
    assert_eq!(bench.used(SEND).len(), 1);
    assert_eq!(bench.used(RECEIVE).len(), 1);
    assert!(!bench.device.wants(0), "packets wait in the tap");
    let (mut sent, mut received) = (1, 1);
    bench
        .serve_until(|bench| {
            sent += bench.used(SEND).len();
            received += bench.used(RECEIVE).len();
            sent == 3 && received == 3
        })
        .unwrap();
    assert!(began.elapsed() >= Duration::from_millis(90));
    assert!(bench.device.metrics()["send_held_back"].as_u64().unwrap() >= 2);
    assert!(
        bench.device.metrics()["receive_held_back"]
            .as_u64()
            .unwrap()
            >= 2
    );
}

#[test]
fn a_reset_forgets_the_packet_that_waited() {
    let (mut bench, socket) = started(NetOptions::default());
    socket.send(&packet(100)).unwrap();
    bench.serve_sources(Duration::from_secs(1)).unwrap();
    bench.device.reset();
    bench.set_up();
    bench.start(0).unwrap();
    bench.send(RECEIVE, &[Part::In(2000)]);
    bench.notify(RECEIVE).unwrap();
    assert!(bench.used(RECEIVE).is_empty());
    assert!(bench.device.wants(0));
}

#[test]
fn the_hardware_address_is_offered_only_if_there_is_one() {
    let mac = Some([2, 0, 0, 0, 0, 1]);
    let (bench, _socket) = started(NetOptions {
        mac,
        ..NetOptions::default()
    });
    assert_eq!(bench.device.config(), [2, 0, 0, 0, 0, 1]);
    assert_ne!(bench.device.features() & 1 << 5, 0);
    let (without, _socket) = started(NetOptions::default());
    assert_eq!(without.device.features() & 1 << 5, 0);
    let json = serde_json::to_string(&bench.device.state()).unwrap();
    let state: State = serde_json::from_str(&json).unwrap();
    let (mut bench, _socket) = started(NetOptions::default());
    bench.device.restore(&state).unwrap();
    assert_eq!(bench.device.state().mac, mac);
}

proptest! {
    #[test]
    fn no_driver_makes_it_touch_what_is_not_the_guests(
        attack in attacks(),
        packets in prop::collection::vec(0..3000usize, 0..8),
    ) {
        let (mut bench, socket) = started(NetOptions::default());
        for len in packets {
            let _ = socket.send(&vec![1; len]);
        }
        let _ = bench.attack(&attack);
        while wire(&socket).is_some() {}
    }
}
