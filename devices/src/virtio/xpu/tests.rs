//! The device and its driver, with streams that a test holds in its hand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use gmem_core::accel::Traffic;
use gmem_core::engine::DeviceError;
use gmem_core::page::PageNo;
use gmem_wire::xpu::{
    ARGS, REQUEST_SIZE, RESPONSE_SIZE, Request as WireRequest, Response, arch, op, status,
};
use proptest::prelude::*;

use super::request::command;
use super::*;
use crate::accel::work;
use crate::accel::{Command, CommandError, StreamFull};
use crate::virtio::Device;
use crate::virtio::testing::{Bench, Part, Sent, attacks_like};

const STREAMS: usize = 2;

/// An accelerator that does nothing until it is told how its commands end.
#[derive(Clone, Default)]
struct Hand(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    waiting: [VecDeque<(Command, Option<Done>)>; STREAMS],
    /// Commands end at once, all well.
    eager: bool,
    full: bool,
}

impl Hand {
    fn eager() -> Self {
        let hand = Self::default();
        hand.0.lock().unwrap().eager = true;
        hand
    }

    fn commands(&self, stream: usize) -> Vec<Command> {
        let held = self.0.lock().unwrap();
        held.waiting[stream]
            .iter()
            .map(|(command, _)| *command)
            .collect()
    }

    /// The first command of a stream ends.
    fn finish(&self, stream: usize, result: Result<u64, CommandError>) {
        let first = self.0.lock().unwrap().waiting[stream].pop_front();
        let (_, done) = first.expect("a command waits");
        done.unwrap()(result);
    }
}

impl Accelerator for Hand {
    fn node(&self) -> u32 {
        5
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn streams(&mut self) -> Result<Box<dyn Streams>, StreamsError> {
        Ok(Box::new(self.clone()))
    }
}

impl Streams for Hand {
    fn submit(&self, stream: usize, command: Command, done: Done) -> Result<(), StreamFull> {
        let mut held = self.0.lock().unwrap();
        if held.full {
            return Err(StreamFull(0));
        }
        if held.eager {
            drop(held);
            done(Ok(0));
            return Ok(());
        }
        held.waiting[stream].push_back((command, Some(done)));
        Ok(())
    }

    fn set_faults(&self, _: bool) {}

    fn abort(&self) {
        for stream in 0..STREAMS {
            while !self.commands(stream).is_empty() {
                self.finish(stream, Err(CommandError::Stopped));
            }
        }
    }

    fn synchronize(&self) {
        for stream in 0..STREAMS {
            while !self.commands(stream).is_empty() {
                self.finish(stream, Ok(0));
            }
        }
    }
}

fn bench(hand: &Hand) -> Bench<Xpu> {
    let config = XpuConfig {
        arch: arch::GPU,
        streams: STREAMS,
        memory: 7 << 20,
        granule: 64 << 10,
        faults: true,
    };
    Bench::started(Xpu::new(config, Box::new(hand.clone())).unwrap())
}

fn send(bench: &mut Bench<Xpu>, stream: usize, op: u32, args: &[u64]) -> Sent {
    let mut request = WireRequest {
        op,
        args: [0; ARGS],
    };
    request.args[..args.len()].copy_from_slice(args);
    let parts = [
        Part::Out(request.to_bytes().into()),
        Part::In(RESPONSE_SIZE as u32),
    ];
    let sent = bench.send(stream, &parts);
    bench.notify(stream).unwrap();
    sent
}

fn response(bench: &Bench<Xpu>, sent: &Sent) -> Response {
    Response::from_bytes(&bench.part(sent, 1).try_into().unwrap())
}

#[test]
fn commands_reach_their_stream_in_order_and_their_answers_come_back() {
    let hand = Hand::default();
    let mut bench = bench(&hand);
    let add = send(&mut bench, 0, op::ATOMIC_ADD, &[0x1000, 7]);
    let sum = send(&mut bench, 1, op::SUM, &[0x2000, 64]);
    let nop = send(&mut bench, 0, op::NOP, &[]);
    let (at, value) = (0x1000, 7);
    assert_eq!(
        hand.commands(0),
        [Command::AtomicAdd { at, value }, Command::Nop]
    );
    let (from, len) = (0x2000, 64);
    assert_eq!(hand.commands(1), [Command::Sum { from, len }]);
    assert!(bench.used(0).is_empty() && bench.used(1).is_empty());
    hand.finish(1, Ok(99));
    hand.finish(0, Ok(12));
    hand.finish(0, Ok(0));
    bench.ready(0).unwrap();
    assert!(bench.interrupted());
    let heads = |used: Vec<crate::virtio::testing::Used>| {
        used.into_iter()
            .map(|used| (used.head, used.written as usize))
            .collect::<Vec<_>>()
    };
    let of = |sent: &Sent| (sent.head, RESPONSE_SIZE);
    assert_eq!(heads(bench.used(0)), [of(&add), of(&nop)]);
    assert_eq!(heads(bench.used(1)), [of(&sum)]);
    let ok = |value| Response {
        status: status::OK,
        value,
    };
    assert_eq!(response(&bench, &add), ok(12));
    assert_eq!(response(&bench, &sum), ok(99));
    assert_eq!(bench.device.metrics()["done"], 3);
}

#[test]
fn a_command_that_makes_no_sense_is_refused_in_its_turn() {
    let hand = Hand::default();
    let mut bench = bench(&hand);
    let first = send(&mut bench, 0, op::FILL, &[0, 8, 1]);
    let wrong = [
        send(&mut bench, 0, 77, &[]),
        send(&mut bench, 0, op::NOP, &[1]),
        send(&mut bench, 0, op::ADVISE, &[0, 4096, 99]),
        send(&mut bench, 0, op::SAXPY, &[1 << 32, 0, 4096, 4]),
    ];
    assert!(bench.used(0).is_empty(), "an answer before its turn");
    while !hand.commands(0).is_empty() {
        hand.finish(0, Ok(0));
    }
    bench.ready(0).unwrap();
    assert_eq!(bench.used(0).len(), 1 + wrong.len());
    assert_eq!(response(&bench, &first).status, status::OK);
    for sent in &wrong {
        assert_eq!(response(&bench, sent).status, status::INVALID);
    }
    assert_eq!(bench.device.metrics()["invalid"], 4);
}

#[test]
fn what_went_wrong_is_said_with_where() {
    let hand = Hand::default();
    let mut bench = bench(&hand);
    let page = PageNo(77);
    let row = work::Error::Row { index: 9, rows: 4 };
    let full = DeviceError::Full {
        name: "gpu".into(),
        pages: 16,
    };
    let ends = [
        (
            CommandError::Fault(DeviceError::NotRam { page }),
            status::FAULT,
            77 << 12,
        ),
        (CommandError::Fault(full), status::NO_MEMORY, 0),
        (
            CommandError::Fault(DeviceError::Pinned { page }),
            status::NO_MEMORY,
            77 << 12,
        ),
        (
            CommandError::Fault(DeviceError::Detached(3)),
            status::DEVICE,
            0,
        ),
        (CommandError::Thrashing(0x5000), status::NO_MEMORY, 0x5000),
        (CommandError::Row(row), status::ROW, 9),
        (
            CommandError::Wraps { address: 1, len: 2 },
            status::INVALID,
            0,
        ),
    ];
    for (error, status, value) in ends {
        let sent = send(&mut bench, 1, op::NOP, &[]);
        hand.finish(1, Err(error));
        bench.ready(0).unwrap();
        assert_eq!(response(&bench, &sent), Response { status, value });
    }
}

#[test]
fn a_reset_ends_everything_and_answers_nothing() {
    let hand = Hand::default();
    let mut bench = bench(&hand);
    let sent: Vec<_> = (0..3)
        .map(|n| send(&mut bench, n % 2, op::NOP, &[]))
        .collect();
    bench.device.reset();
    assert!(hand.commands(0).is_empty() && hand.commands(1).is_empty());
    assert!(bench.used(0).is_empty() && bench.used(1).is_empty());
    for sent in &sent {
        assert_eq!(
            bench.part(sent, 1),
            [0xee; RESPONSE_SIZE],
            "an answer after the reset"
        );
    }
    // It works again, and nothing of before comes back.
    bench.set_up();
    bench.start(0).unwrap();
    let sent = send(&mut bench, 0, op::NOP, &[]);
    hand.finish(0, Ok(0));
    bench.ready(0).unwrap();
    assert_eq!(bench.used(0).len(), 1);
    assert_eq!(response(&bench, &sent).status, status::OK);
    assert_eq!(bench.device.metrics()["aborted"], 3);
}

#[test]
fn held_still_it_has_answered_all_that_it_has_taken() {
    let hand = Hand::default();
    let mut bench = bench(&hand);
    for n in 0..5 {
        send(&mut bench, n % 2, op::NOP, &[]);
    }
    bench.with(|device, guest| device.settle(guest)).unwrap();
    assert_eq!((bench.used(0).len(), bench.used(1).len()), (3, 2));
}

#[test]
fn a_stream_without_room_refuses_and_a_short_request_breaks_the_device() {
    let hand = Hand::default();
    hand.0.lock().unwrap().full = true;
    let mut bench = bench(&hand);
    let sent = send(&mut bench, 0, op::NOP, &[]);
    assert_eq!(response(&bench, &sent).status, status::DEVICE);
    let (request, room) = (REQUEST_SIZE, RESPONSE_SIZE as u32);
    for (out, room) in [
        (request - 1, room),
        (request + 1, room),
        (request, room - 1),
    ] {
        bench.send(0, &[Part::Out(vec![0; out]), Part::In(room)]);
        assert!(bench.notify(0).is_err(), "{out} bytes, room for {room}");
        bench.device.reset();
        bench.set_up();
        bench.start(0).unwrap();
    }
}

#[test]
fn the_driver_is_told_what_the_accelerator_is() {
    let bench = bench(&Hand::default());
    let config = bench.device.config();
    let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!(
        [word(0), word(4), word(16), word(20)],
        [arch::GPU, 2, 65536, 5]
    );
    assert_eq!(config[8..16], (7u64 << 20).to_le_bytes());
    assert_eq!(bench.device.queue_sizes().len(), STREAMS);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_driver_makes_it_write_beside_guest_memory(
        attack in attacks_like(&[&[(64, false), (16, true)], &[(32, false), (32, false), (16, true)]])
    ) {
        let mut bench = bench(&Hand::eager());
        let _ = bench.attack(&attack);
    }

    #[test]
    fn any_bytes_are_a_command_or_none(bytes in prop::array::uniform32(any::<u8>()), op in 0u32..16) {
        let mut request = [0; REQUEST_SIZE];
        request[..4].copy_from_slice(&op.to_le_bytes());
        request[8..40].copy_from_slice(&bytes);
        let parsed = command(&request);
        prop_assert!(op <= op::ATOMIC_ADDS || parsed.is_none());
        // What is reserved is not ignored.
        request[5] = 1;
        prop_assert_eq!(command(&request), None);
    }
}
