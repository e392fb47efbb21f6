//! The device and its driver, before a memory system that notes what it is asked.

use std::sync::{Arc, Mutex};

use gmem_core::accel::Advice;
use gmem_wire::gmem::{
    EVENT_SIZE, REQUEST_SIZE, RESPONSE_SIZE, Request as WireRequest, Response, advice, event, kind,
    op, queue, status,
};
use proptest::prelude::*;

use super::request::{LARGEST, Task};
use super::*;
use crate::virtio::Device;
use crate::virtio::testing::{Bench, Part, Sent, attacks_like};

/// Two nodes.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    calls: Vec<String>,
    refuse: Option<NodeError>,
    used: u64,
}

impl Noting {
    fn note(&self, call: String) -> Result<(), NodeError> {
        let mut noted = self.0.lock().unwrap();
        noted.calls.push(call);
        noted.refuse.clone().map_or(Ok(()), Err)
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }
}

impl Nodes for Noting {
    fn count(&self) -> u32 {
        2
    }

    fn node(&self, node: u32) -> Option<Node> {
        (node < 2).then(|| Node {
            kind: kind::HBM,
            capacity: 1600,
            used: self.0.lock().unwrap().used,
            peak: 7,
        })
    }

    fn advise(&self, node: u32, address: u64, len: u64, advice: Advice) -> Result<(), NodeError> {
        self.note(format!("advise {node} {address:#x} {len} {advice:?}"))
    }

    fn copy(&self, node: u32, to: u64, from: u64, len: u64) -> Result<(), NodeError> {
        self.note(format!("copy {node} {to:#x} {from:#x} {len}"))
    }

    fn bytes_in(&self, node: u32, address: u64, len: u64) -> Result<u64, NodeError> {
        self.note(format!("where {node} {address:#x} {len}"))?;
        Ok(4096)
    }

    fn set_cap(&self, node: u32, bytes: u64) -> Result<(), NodeError> {
        self.note(format!("cap {node} {bytes}"))
    }
}

fn bench(nodes: &Noting) -> Bench<Gmem> {
    Bench::started(Gmem::new(Box::new(nodes.clone())).unwrap())
}

fn ask(bench: &mut Bench<Gmem>, op: u32, node: u32, args: [u64; 3]) -> Response {
    let request = WireRequest { op, node, args };
    let parts = [
        Part::Out(request.to_bytes().into()),
        Part::In(RESPONSE_SIZE as u32),
    ];
    let sent: Sent = bench.send(queue::REQUESTS, &parts);
    bench.notify(queue::REQUESTS).unwrap();
    let used = bench.used(queue::REQUESTS);
    assert_eq!((used.len(), used[0].written as usize), (1, RESPONSE_SIZE));
    Response::from_bytes(&bench.part(&sent, 1).try_into().unwrap())
}

#[test]
fn each_request_reaches_the_memory_system() {
    let nodes = Noting::default();
    let mut bench = bench(&nodes);
    let page = 4096;
    let mut done = |op, args| assert_eq!(ask(&mut bench, op, 1, args).status, status::OK);
    done(op::ADVISE, [page, 100, advice::PREFETCH]);
    done(op::ADVISE, [page, 100, advice::FREE]);
    done(op::ADVISE, [page, 100, advice::PIN]);
    done(op::ADVISE, [page, 100, advice::UNPIN]);
    done(op::ADVISE, [page, 100, advice::WILL_NEED]);
    done(op::COPY, [0x9000, 0x1000, 4096]);
    done(op::CAP, [1 << 20, 0, 0]);
    let expected = [
        "advise 1 0x1000 100 Prefetch",
        "advise 1 0x1000 100 DontNeed",
        "advise 1 0x1000 100 Pinned",
        "advise 1 0x1000 100 Unpinned",
        "advise 1 0x1000 100 WillNeed",
        "copy 1 0x9000 0x1000 4096",
        "cap 1 1048576",
    ];
    assert_eq!(nodes.calls(), expected);
    let node = ask(&mut bench, op::NODE, 1, [0; 3]);
    assert_eq!(node.values, [kind::HBM, 1600, 0, 7]);
    let found = ask(&mut bench, op::WHERE, 0, [page, 10, 0]);
    assert_eq!(found.values, [4096, 0, 0, 0]);
    assert_eq!(bench.device.metrics()["advised_bytes"], 500);
}

#[test]
fn requests_that_make_no_sense_do_nothing() {
    let nodes = Noting::default();
    let mut bench = bench(&nodes);
    let wrong = [
        (0, [0; 3]),
        (99, [0; 3]),
        (op::ADVISE, [0, 4096, 99]),
        (op::ADVISE, [0, LARGEST + 1, advice::PIN]),
        (op::COPY, [0, 8, 9]),
        (op::COPY, [8, 0, 9]),
        (op::COPY, [0, 1 << 40, u64::MAX]),
        (op::NODE, [1, 0, 0]),
        (op::WHERE, [0, 1, 1]),
        (op::CAP, [1, 1, 0]),
    ];
    for (op, args) in wrong {
        let response = ask(&mut bench, op, 0, args);
        assert_eq!(response.status, status::INVALID, "{op} {args:?}");
    }
    assert_eq!(ask(&mut bench, op::NODE, 2, [0; 3]).status, status::INVALID);
    assert!(nodes.calls().is_empty());
    assert_eq!(bench.device.metrics()["refused"], 11);
}

#[test]
fn what_the_memory_system_refuses_is_told() {
    let nodes = Noting::default();
    let mut bench = bench(&nodes);
    for (error, status) in [
        (NodeError::Invalid, status::INVALID),
        (NodeError::NotRam, status::FAULT),
        (NodeError::NoMemory, status::NO_MEMORY),
        (NodeError::Pinned, status::PINNED),
        (NodeError::Unsupported, status::UNSUPPORTED),
        (NodeError::Failed("x".into()), status::DEVICE),
    ] {
        nodes.0.lock().unwrap().refuse = Some(error);
        let response = ask(&mut bench, op::CAP, 1, [0; 3]);
        assert_eq!((response.status, response.values), (status, [0; 4]));
    }
}

#[test]
fn pressure_is_told_when_there_is_a_buffer_for_it() {
    let nodes = Noting::default();
    let mut bench = bench(&nodes);
    nodes.0.lock().unwrap().used = 1600;
    bench.ready(0).unwrap();
    assert!(bench.used(queue::EVENTS).is_empty(), "nowhere to tell it");
    let sent: Vec<Sent> = (0..2)
        .map(|_| bench.send(queue::EVENTS, &[Part::In(EVENT_SIZE as u32)]))
        .collect();
    bench.notify(queue::EVENTS).unwrap();
    let mut told = 0;
    bench
        .serve_until(|bench| {
            told += bench.used(queue::EVENTS).len();
            told == 2
        })
        .unwrap();
    for (node, sent) in sent.iter().enumerate() {
        let bytes = bench.part(sent, 0);
        assert_eq!(bytes[..4], event::PRESSURE.to_le_bytes());
        assert_eq!(bytes[4..8], (node as u32).to_le_bytes());
        assert_eq!(bytes[8..], [0; 8]);
    }
}

#[test]
fn short_requests_and_short_rooms_break_the_device() {
    let mut bench = bench(&Noting::default());
    let (request, room) = (REQUEST_SIZE, RESPONSE_SIZE as u32);
    for (out, room) in [
        (request - 1, room),
        (request + 1, room),
        (request, room - 1),
    ] {
        bench.send(queue::REQUESTS, &[Part::Out(vec![0; out]), Part::In(room)]);
        assert!(
            bench.notify(queue::REQUESTS).is_err(),
            "{out} bytes, room for {room}"
        );
        bench.device.reset();
        bench.set_up();
        bench.start(0).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_driver_makes_it_write_beside_guest_memory(
        attack in attacks_like(&[&[(32, false), (40, true)], &[(16, true)]])
    ) {
        let mut bench = bench(&Noting::default());
        let _ = bench.attack(&attack);
    }

    #[test]
    fn no_task_is_about_more_than_may_be_held_up_for(
        op in 0u32..7,
        node: u32,
        args in prop::array::uniform3(prop_oneof![0..4096u64, any::<u64>()]),
    ) {
        let bytes = WireRequest { op, node, args }.to_bytes();
        match Task::parse(&bytes) {
            Some(Task::Advise { len, .. } | Task::Where { len, .. }) => prop_assert!(len <= LARGEST),
            Some(Task::Copy { to, from, len, .. }) => {
                prop_assert!(len <= LARGEST && to.abs_diff(from) >= len);
            }
            _ => {}
        }
    }
}
