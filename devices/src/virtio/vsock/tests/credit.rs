//! Who may send how much.

use std::io::Write;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn bytes_that_the_host_does_not_take_are_kept_up_to_the_room_and_no_further() {
    let mut guest = Guest::new();
    let stream = guest.connected();
    let chunk = vec![7; 16 << 10];
    let mut sent = 0;
    let reset = loop {
        guest.send(data(&chunk), &chunk);
        sent += chunk.len();
        let ended = guest
            .received()
            .iter()
            .any(|(header, _)| header.op == op::RST);
        if ended || sent > 16 << 20 {
            break ended;
        }
    };
    assert!(reset, "the guest sent more than it was allowed to");
    // The host has what the kernel took.
    let taken = drain(&stream);
    assert!(taken.len() < sent && taken.iter().all(|byte| *byte == 7));
    assert!(is_at_its_end(&stream));
}

#[test]
fn a_guest_that_keeps_to_its_credit_gets_all_bytes_across() {
    let mut guest = Guest::new();
    let stream = guest.connected();
    let all: Vec<u8> = (0..2 << 20).map(|at: u32| (at % 251) as u8).collect();
    let (mut sent, mut forwarded, mut arrived) = (0, 0u32, Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    while arrived.len() < all.len() {
        assert!(Instant::now() < deadline, "stuck after {sent} bytes");
        let room = BUFFER - (sent as u32).wrapping_sub(forwarded);
        let len = (room as usize).min(10_000).min(all.len() - sent);
        if len > 0 {
            let payload = all[sent..sent + len].to_vec();
            guest.send(data(&payload), &payload);
            sent += len;
        } else {
            // Stuck until the host takes something.
            arrived.extend(drain(&stream));
            guest.serve();
        }
        if let Some((header, _)) = guest.received().last() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            forwarded = header.fwd_cnt;
        }
        if sent == all.len() {
            arrived.extend(drain(&stream));
            guest.serve();
        }
    }
    assert_eq!(arrived, all);
    guest.send(packet(op::CREDIT_REQUEST), &[]);
    assert_eq!(guest.wait_for(op::CREDIT_UPDATE).fwd_cnt, all.len() as u32);
}

#[test]
fn the_host_sends_no_more_than_the_guest_has_room_for() {
    let mut guest = Guest::new();
    let mut stream = guest.connected();
    let mut credit = packet(op::CREDIT_UPDATE);
    credit.buf_alloc = 1000;
    guest.send(credit, &[]);
    stream.write_all(&vec![1; 5000]).unwrap();
    let mut received = 0;
    for round in 1..=5u32 {
        let asked = loop {
            let packets = guest.wait();
            received += packets.iter().map(|(header, _)| header.len).sum::<u32>();
            if packets
                .iter()
                .any(|(header, _)| header.op == op::CREDIT_REQUEST)
            {
                break received;
            }
        };
        assert_eq!(asked, 1000 * round);
        guest.serve();
        assert!(guest.received().is_empty(), "asked once");
        credit.fwd_cnt = received;
        guest.send(credit, &[]);
    }
    assert_eq!(received, 5000);
}

#[test]
fn a_guest_without_buffers_loses_nothing() {
    let mut guest = Guest::new();
    let mut stream = guest.connected();
    // All buffers go, and no new ones come.
    let all: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    stream.write_all(&all[..50_000]).unwrap();
    guest.serve();
    stream.write_all(&all[50_000..]).unwrap();
    guest.serve();
    let mut received = Vec::new();
    while received.len() < all.len() {
        received.extend(guest.wait().into_iter().flat_map(|(_, payload)| payload));
    }
    assert_eq!(received, all);
}
