//! What coverage-guided fuzzers call (`fuzz/`): bytes are what a driver does.
//!
//! Built only for them (`--cfg fuzzing`). Each byte sequence is a run: requests that lie in the queues in any shape, with any
//! contents, and resets in between.

use std::sync::Arc;
use std::time::Duration;

use virtio_queue::desc::split::Descriptor;

use super::device::Device;
use super::gmem::{Calls, Gmem, Message, Node, NodeError, Nodes};
use super::testing::{BUFFERS, BUFFERS_END, Bench, TestMemory};
use super::xpu::{Accelerator, Done, Streams, StreamsError, Xpu, XpuConfig};
use crate::accel::{Command, StreamFull};
use gmem_core::accel::{Advice, Traffic};
use gmem_core::pager::wire::{Header, Kind};

/// Bytes from one place where a buffer may begin to the next.
const SPACING: u64 = 0x200;

/// Takes bytes from the front; zeros when there are none left.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, wanted: usize) -> Vec<u8> {
        (0..wanted).map(|_| self.byte()).collect()
    }

    fn word(&mut self) -> u64 {
        self.bytes(8)
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    }
}

thread_local! {
    static MEMORY: Arc<TestMemory> = TestMemory::new();
}

/// Does what `bytes` say, as the driver of `device`.
fn drive<D: Device>(device: D, bytes: &[u8]) {
    let mut source = Source(bytes);
    // Fresh contents where requests are, in memory that is there already: to map it anew would take most of the time.
    let memory = MEMORY.with(Arc::clone);
    memory.put(BUFFERS, &[0; 0x100 * SPACING as usize]);
    let mut bench = Bench::over(memory, device);
    let features = bench.device.features();
    if bench.start(features).is_err() {
        return;
    }
    while !source.0.is_empty() {
        let queue = usize::from(source.byte()) % bench.rings.len();
        let size = bench.rings[queue].size();
        let head = u16::from(source.byte()) % (size + 1);
        let shape = source.byte();
        let buffers = u16::from(shape & 3);
        for index in 0..buffers {
            let kind = source.byte();
            let gpa = match kind & 3 {
                0 => source.word(),
                // Enough for what a request is.
                _ => BUFFERS + u64::from(source.byte()) * SPACING,
            };
            let len = match kind >> 2 & 3 {
                0 if kind & 0xc0 == 0xc0 => gmem_wire::gmem::Call::ROOM as u32,
                0 => source.word() as u32,
                1 => 64,
                2 => 40,
                _ => 16 + u32::from(source.byte() & 0x30),
            };
            let writable = kind & 0x10 != 0;
            if !writable && gpa >= BUFFERS && gpa < BUFFERS_END - 256 {
                let contents = source.bytes(len.min(64) as usize);
                bench.memory.put(gpa, &contents);
            }
            let next = index + 1 < buffers;
            let flags = match kind & 0x20 {
                0 => u16::from(next) | u16::from(writable) << 1,
                _ => source.byte().into(),
            };
            let place = (head + index) % size;
            let descriptor = Descriptor::new(gpa, len, flags, (place + 1) % size);
            bench.rings[queue].describe(&bench.memory, place, descriptor);
        }
        bench.rings[queue].offer(&bench.memory, head);
        if shape & 0xf0 == 0xf0 {
            let index = source.word() as u16;
            bench.rings[queue].set_avail_index(&bench.memory, index);
        }
        let broken = bench.notify(queue).is_err() || bench.serve_sources(Duration::ZERO).is_err();
        if broken || shape & 0x0c == 0x0c {
            bench.device.reset();
            bench.set_up();
            if bench.start(features).is_err() {
                return;
            }
        }
    }
}

/// Commands end at once, all well.
struct Eager;

impl Accelerator for Eager {
    fn node(&self) -> u32 {
        1
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn streams(&mut self) -> Result<Box<dyn Streams>, StreamsError> {
        Ok(Box::new(Self))
    }
}

impl Streams for Eager {
    fn submit(&self, _: usize, _: Command, done: Done) -> Result<(), StreamFull> {
        done(Ok(0));
        Ok(())
    }

    fn set_faults(&self, _: bool) {}

    fn abort(&self) {}

    fn synchronize(&self) {}
}

impl Nodes for Eager {
    fn count(&self) -> u32 {
        3
    }

    fn node(&self, node: u32) -> Option<Node> {
        let capacity = u64::from(node) * 100;
        let used = capacity - u64::from(node);
        (node < 3).then_some(Node {
            kind: 0,
            capacity,
            used,
            peak: used,
        })
    }

    fn advise(&self, _: u32, _: u64, _: u64, _: Advice) -> Result<(), NodeError> {
        Ok(())
    }

    fn copy(&self, _: u32, to: u64, from: u64, len: u64) -> Result<(), NodeError> {
        assert!(to.abs_diff(from) >= len, "an overlap came through");
        Ok(())
    }

    fn bytes_in(&self, _: u32, _: u64, len: u64) -> Result<u64, NodeError> {
        Ok(len)
    }

    fn set_cap(&self, _: u32, _: u64) -> Result<(), NodeError> {
        Err(NodeError::Unsupported)
    }
}

/// Drives an accelerator.
pub fn xpu(bytes: &[u8]) {
    let config = XpuConfig {
        arch: 1,
        streams: 3,
        memory: 1 << 20,
        granule: 4096,
        faults: true,
    };
    let xpu = Xpu::new(config, Box::new(Eager));
    drive(xpu.expect("there are descriptors"), bytes);
}

/// Drives the door to the memory system.
pub fn gmem(bytes: &[u8]) {
    let calls = Calls::new().expect("there are descriptors");
    // Somebody whose request waits for the guest.
    let line = calls.connect().expect("there is nobody else");
    let message = Message {
        header: Header::request(Kind::Ping, 1),
        ..Message::default()
    };
    line.hand_over(message);
    let gmem = Gmem::lending(Box::new(Eager), calls);
    drive(gmem.expect("there are timers"), bytes);
}
