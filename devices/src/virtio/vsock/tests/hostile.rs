//! Guests that follow no rule.

use std::io::Write;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::virtio::testing::attacks;
use crate::virtio::vsock::hub::MOST_RESETS;

#[test]
fn packets_against_the_rules_are_reset_and_resets_are_not_answered() {
    let mut guest = Guest::new();
    let nonsense = [
        packet(op::RW),
        packet(op::RESPONSE),
        packet(op::SHUTDOWN),
        packet(op::CREDIT_UPDATE),
        packet(0),
        packet(99),
        Header {
            kind: 2,
            ..packet(op::REQUEST)
        },
        Header {
            dst_cid: 5,
            ..packet(op::REQUEST)
        },
        Header {
            len: 10,
            ..packet(op::RW)
        },
        Header {
            len: u32::MAX,
            ..packet(op::RW)
        },
    ];
    for header in nonsense {
        guest.send(header, &[]);
        let (reset, _) = guest.wait().remove(0);
        assert_eq!(reset.op, op::RST);
        assert_eq!((reset.src_port, reset.dst_port), (52, 1000));
        assert_eq!((reset.src_cid, reset.dst_cid), (header.dst_cid, CID));
    }
    guest.send(packet(op::RST), &[]);
    guest.send(
        Header {
            src_cid: 8,
            ..packet(op::RW)
        },
        &[],
    );
    guest.bench.send(SEND, &[Part::Out(vec![0; 43])]);
    guest.bench.notify(SEND).unwrap();
    guest.serve();
    assert!(guest.received().is_empty());
    assert_eq!(guest.metric("dropped"), 2);
}

#[test]
fn a_second_request_for_a_connection_ends_it() {
    let mut guest = Guest::new();
    let stream = guest.connected();
    guest.send(packet(op::REQUEST), &[]);
    assert_eq!(guest.wait()[0].0.op, op::RST);
    assert!(is_at_its_end(&stream));
}

#[test]
fn what_a_guest_without_buffers_can_make_the_device_keep_has_an_end() {
    let mut guest = Guest::new();
    let listener = guest.listen(52);
    for _ in 0..1000 {
        guest.send(packet(op::REQUEST), &[]);
        guest.send(packet(op::RST), &[]);
        guest.send(packet(op::RW), &[]);
        let _ = listener.accept();
    }
    assert!(guest.bench.device.backlog() <= MOST_RESETS);
    assert!(guest.metric("dropped") > 500);
}

/// Headers that are half right.
fn headers() -> impl Strategy<Value = Header> {
    let small = |most: u32| 0..most;
    (
        prop_oneof![9 => Just(CID), 1 => any::<u64>()],
        prop_oneof![9 => Just(HOST_CID), 1 => any::<u64>()],
        (
            small(3),
            prop_oneof![3 => 52..54u32, 1 => (1 << 30)..(1 << 30) + 4u32],
        ),
        prop_oneof![6 => small(3000), 1 => any::<u32>()],
        prop_oneof![9 => Just(STREAM), 1 => any::<u16>()],
        0..9u16,
        small(5),
        (prop_oneof![small(5000), any::<u32>()], any::<u32>()),
    )
        .prop_map(
            |(src_cid, dst_cid, (src_port, dst_port), len, kind, op, flags, credit)| Header {
                src_cid,
                dst_cid,
                src_port,
                dst_port,
                len,
                kind,
                op,
                flags,
                buf_alloc: credit.0,
                fwd_cnt: credit.1,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_ring_makes_it_touch_what_is_not_the_guests(attack in attacks()) {
        let mut guest = Guest::new();
        let _listener = guest.listen(52);
        let _ = guest.bench.attack(&attack);
    }

    #[test]
    fn no_packets_confuse_it(packets in prop::collection::vec((headers(), 0..3000usize), 1..40)) {
        let mut guest = Guest::new();
        let listener = guest.listen(52);
        let mut caller = UnixStream::connect(&guest.uds).unwrap();
        caller.write_all(b"CONNECT 1\n").unwrap();
        let mut streams = Vec::new();
        for (header, len) in packets {
            guest.send(header, &vec![1; len]);
            streams.extend(listener.accept().map(|(stream, _)| stream));
            if let Some(stream) = streams.last_mut() {
                let _ = stream.write(b"something");
            }
            guest.serve();
            for (header, payload) in guest.received() {
                prop_assert_eq!(header.len as usize, payload.len());
                prop_assert_eq!(header.dst_cid, CID);
            }
        }
    }
}
