//! The driver of the memory system's door.

use super::device::{ABSENT, LARGEST, MEMORY, NODE};
use super::*;
use crate::accel::gmem::{Gmem, Node};
use gmem::{advice, kind, op};

/// Calls `work` with the driver of a door and its data's address; what the door was asked.
fn with_door(work: impl FnOnce(&mut Gmem<'_, Host<'_>>, u64)) -> Vec<gmem::Request> {
    let memory = Memory::new();
    let set = memory.set.clone().in_one_piece();
    let ram = Extent::new(&set, 0).unwrap();
    let equipment = Equipment {
        accelerators: 0,
        ..USUAL
    };
    let host = Host {
        barrier: std::sync::Barrier::new(1),
        devices: devices(equipment, ram, &obey),
        lines: Mutex::default(),
    };
    let [device] = &host.devices[..] else {
        unreachable!("one door");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| device.serve());
        let mut gmem = Gmem::start(&host, 0, (ram, ram.start()), u64::MAX).unwrap();
        work(&mut gmem, ram.start() + (1 << 20));
        gmem.stop();
        device.end();
    });
    device.asked.lock().unwrap().clone()
}

#[test]
fn a_long_range_is_asked_about_in_parts() {
    let asked = with_door(|gmem, at| {
        let len = 2 * LARGEST + 4096;
        assert_eq!(gmem.advise(NODE, at, len, advice::PREFETCH), Ok(true));
        assert_eq!(gmem.copy(NODE, at, at + len, LARGEST), Ok(true));
        assert_eq!(gmem.bytes_in(NODE, at, len), Ok(len / 4));
    });
    let ops: Vec<_> = asked.iter().map(|request| request.op).collect();
    let three = [op::ADVISE; 3];
    assert_eq!(ops, [&three[..], &[op::COPY], &[op::WHERE; 3]].concat());
    let bytes: u64 = asked[..3].iter().map(|request| request.args[1]).sum();
    assert_eq!(bytes, 2 * LARGEST + 4096);
    assert_eq!(asked[1].args[0], asked[0].args[0] + LARGEST);
    assert!(asked.iter().all(|request| request.node == NODE));
}

#[test]
fn a_node_says_what_it_is_and_one_that_is_none_is_a_fault() {
    with_door(|gmem, at| {
        let node = Node {
            kind: kind::HBM,
            capacity: MEMORY,
            used: 0,
            peak: 0,
        };
        assert_eq!(gmem.node(NODE), Ok(Some(node)));
        assert!(gmem.node(ABSENT).unwrap_err().contains("no sense"));
        assert!(gmem.advise(ABSENT, at, 4096, advice::PIN).is_err());
        // Without room, not all was done, and that is said.
        assert_eq!(
            gmem.advise(ABSENT + 1, at, 4096, advice::PREFETCH),
            Ok(false)
        );
        assert_eq!(gmem.copy(ABSENT + 1, at, at + 4096, 4096), Ok(false));
    });
}
