//! A driver that follows the rules: it proves that a device works.

use super::arena::{Arena, QUEUES};
use super::kind::Kind;
use super::{Crew, Machine};
use crate::clock::cycles;
use crate::virtio::queue::{Buffer, Places, Queue};
use crate::virtio::registers::Registers;
use crate::virtio::{self, Fault};
use core::hint::spin_loop;

/// Descriptors of each queue.
const SIZE: u16 = 8;
/// A queue's rings in the honest zone, and where buffers begin.
const RINGS: u64 = 0x1000;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;
const BUFFERS: u64 = 0x8000;
/// What lies behind buffers.
const GUARD: u64 = 0x6775_6172_6421_2121;
/// How long a device may take for one request, microseconds.
const LIMIT_US: u64 = 10_000_000;

/// The driver of one device.
pub(super) struct Driver<'a, M> {
    pub(super) registers: Registers<'a, M>,
    pub(super) kind: Kind,
    pub(super) arena: Arena<'a>,
    limit: u64,
    zone: u64,
    queues: [Queue; QUEUES],
    /// Something that differs each time.
    pub(super) nonce: u64,
}

impl<'a, M: Machine> Driver<'a, M> {
    pub(super) fn new(
        crew: &Crew<'a, M>,
        arena: Arena<'a>,
        registers: Registers<'a, M>,
        kind: Kind,
    ) -> Self {
        let zone = arena.honest(registers.number).start;
        let queue = |number: usize| {
            let table = zone + RINGS * number as u64;
            let places = Places {
                table,
                avail: table + AVAIL,
                used: table + USED,
            };
            Queue::new(places, SIZE)
        };
        Self {
            zone,
            limit: crew.frequency.cycles(LIMIT_US),
            registers,
            kind,
            arena,
            queues: core::array::from_fn(queue),
            nonce: crew.plan.seed,
        }
    }

    /// Address of byte `offset` of the buffers.
    pub(super) fn buffer(&self, offset: u64) -> u64 {
        self.zone + BUFFERS + offset
    }

    /// Resets the device, agrees on `features` and version 1, and says that the driver is ready.
    pub(super) fn start(&mut self, features: u64) -> Result<(), Fault> {
        // Before its memory is: it may still write there.
        self.registers.reset();
        self.arena.clear(self.arena.honest(self.registers.number));
        let queues = &mut self.queues[..self.kind.queues_in_use()];
        virtio::start(&self.registers, features, queues, &self.arena).map(drop)
    }

    /// Puts a request into `queue`, in descriptors from `slot` on.
    pub(super) fn offer(&mut self, queue: usize, slot: u16, buffers: &[Buffer]) {
        self.queues[queue].offer(&self.arena, slot, buffers);
        self.registers.notify(queue as u32);
    }

    /// The next answer of `queue`, if it is there: head and bytes written.
    pub(super) fn answer(&mut self, queue: usize) -> Option<(u32, u32)> {
        self.queues[queue].answer(&self.arena)
    }

    /// Waits until `found` finds something.
    pub(super) fn wait<T>(
        &mut self,
        limit: u64,
        mut found: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let start = cycles();
        loop {
            if let Some(result) = found(self) {
                return Some(result);
            }
            if cycles().saturating_sub(start) > limit {
                return None;
            }
            spin_loop();
        }
    }

    /// The same, for as long as a device may take.
    pub(super) fn wait_long<T>(
        &mut self,
        found: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, Fault> {
        let limit = self.limit;
        self.wait(limit, found).ok_or_else(|| {
            if self.registers.needs_reset() {
                "a request by the rules broke the device"
            } else {
                "a request by the rules was not answered in time"
            }
        })
    }

    /// Sends a request and waits for its end; how many bytes were written into it. What is behind its buffers stays.
    pub(super) fn ask(&mut self, queue: usize, buffers: &[Buffer]) -> Result<u32, Fault> {
        let arena = self.arena;
        let behind = || {
            let whole = buffers.iter().filter(|(_, len, _)| len % 8 == 0);
            whole.map(|(address, len, _)| address + u64::from(*len))
        };
        behind().for_each(|guard| arena.put64(guard, GUARD));
        self.offer(queue, 0, buffers);
        let (head, written) = self.wait_long(|driver| driver.answer(queue))?;
        if !behind().all(|guard| arena.get64(guard) == GUARD) {
            return Err("a device wrote behind its buffer");
        }
        match head {
            0 => Ok(written),
            _ => Err("an answer names another request"),
        }
    }
}
